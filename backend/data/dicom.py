"""Read a DICOM file's picture and its pixel size: no other field of the file is ever looked at or kept.

Owns what DICOM says of its pixels: modality and VOI windows, MONOCHROME1, colour, spacing. Knows no other format.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset, config, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID

from backend.errors import UserError

# a value that breaks the standard is no reason to print it: it may be a patient's
config.settings.reading_validation_mode = config.IGNORE

_PREAMBLE_BYTES = 128
_MAGIC = b"DICM"
# PixelSpacing counts where it is there: ImagerPixelSpacing is that at the detector, behind the patient.
_SPACING_FIELDS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
_SIZE_FIELDS = ("Rows", "Columns")


@dataclass(frozen=True)
class DicomPicture:
    """Pixels (H, W) or (H, W, 3) RGB as they are stored, after the modality's rescaling, and how they are meant to be
    shown."""

    pixels: npt.NDArray[Any]
    window: tuple[float, float] | None  # the values that are black and white; None: the file states none
    is_inverted: bool  # MONOCHROME1: the lowest value is white


@dataclass(frozen=True)
class Spacing:
    """Millimetres a pixel along x and y, and the DICOM field that says so."""

    mm_per_px_xy: tuple[float, float]
    field: str


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM by its preamble, whatever it is called; False where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(_PREAMBLE_BYTES + len(_MAGIC))[_PREAMBLE_BYTES:] == _MAGIC
    except OSError:
        return False


def read_picture(path: Path) -> DicomPicture:
    """The picture of a DICOM file.

    Uncompressed, RLE, JPEG (8 bit) and JPEG 2000 are decoded. Raises UserError, naming the file, where it is
    damaged, holds no picture or several, or is compressed otherwise.
    """
    with _readable(path):
        dataset = dcmread(path)
        kind = dataset.file_meta.TransferSyntaxUID
    _require_picture(path, dataset, kind)
    with _readable(path):
        return _as_shown(pixel_array(dataset), dataset)


def read_size(path: Path) -> tuple[int, int]:
    """(height, width) in pixels, from the header alone. Raises UserError as `read_picture` does."""
    with _readable(path):
        dataset = dcmread(path, stop_before_pixels=True, specific_tags=list(_SIZE_FIELDS))
        return int(dataset["Rows"].value), int(dataset["Columns"].value)


def read_spacing(path: Path) -> Spacing | None:
    """The pixel size that a DICOM file states; None where it states none. Raises UserError for a damaged file."""
    with _readable(path):
        dataset = dcmread(path, stop_before_pixels=True, specific_tags=list(_SPACING_FIELDS))
        for field in _SPACING_FIELDS:
            values = dataset.get(field)
            if not isinstance(values, Sequence) or len(values) != 2:
                continue
            mm_per_px_y, mm_per_px_x = (float(value) for value in values)  # between rows, then columns
            if all(0 < value < math.inf for value in (mm_per_px_x, mm_per_px_y)):
                return Spacing((mm_per_px_x, mm_per_px_y), field)
    return None


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Whatever a damaged file makes pydicom raise, as one mistake of the user's; no warning quotes the file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist", cure="check the path of the image") from error
    except (
        OSError,
        InvalidDicomError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        RuntimeError,
    ) as error:
        raise UserError(f"{path} is damaged DICOM", cure="export or copy the image again") from error


def _require_picture(path: Path, dataset: Dataset, kind: UID) -> None:
    if "PixelData" not in dataset:
        raise UserError(f"{path} is DICOM without a picture", cure="choose the file of the radiograph itself")
    num_frames = int(dataset.get("NumberOfFrames") or 1)
    if num_frames != 1:
        raise UserError(f"{path} holds {num_frames} pictures", cure="export the one to use by itself")
    try:
        is_decoded = get_decoder(kind).is_available
    except NotImplementedError:
        is_decoded = False
    if not is_decoded:
        raise UserError(
            f"{path} is compressed as {kind.name}, which is not decoded here",
            cure="export it uncompressed, or as PNG or TIFF",
        )


def _as_shown(pixels: npt.NDArray[Any], dataset: Dataset) -> DicomPicture:
    """Rescaled by the modality's and mapped by the VOI's table, if there are any; a window is only told."""
    kind = str(dataset.PhotometricInterpretation)
    if kind == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, dataset)
    if pixels.ndim == 3:
        return DicomPicture(pixels[..., :3], _full_range(pixels), is_inverted=False)
    rescaled = apply_modality_lut(pixels, dataset)
    # most radiographs state a slope of 1 and an intercept of 0, of which pydicom makes floats
    pixels = pixels if np.array_equal(rescaled, pixels) else rescaled
    window: tuple[float, float] | None = None
    if dataset.get("VOILUTSequence"):
        pixels, window = _looked_up(pixels, dataset.VOILUTSequence[0])
    elif dataset.get("WindowCenter") is not None and dataset.get("WindowWidth") is not None:
        window = _window(_first(dataset.WindowCenter), _first(dataset.WindowWidth))
    elif pixels.dtype == np.uint8:
        window = _full_range(pixels)
    return DicomPicture(pixels, window, kind == "MONOCHROME1")


def _looked_up(pixels: npt.NDArray[Any], item: Dataset) -> tuple[npt.NDArray[Any], tuple[float, float]]:
    """Values by a VOI's table, DICOM PS3.3 C.11.2.1.1, and its range.

    Not by pydicom's `apply_voi`, which counts the places of a table in the type of its entries: with those of 8 bits a
    picture of 12 is wrapped at 256.
    """
    num_entries, first, bits = (int(value) for value in item.LUTDescriptor)
    num_entries = num_entries or 2**16
    table = item.LUTData
    if isinstance(table, bytes):  # stored as OW
        table = np.frombuffer(table, np.uint8 if len(table) == num_entries else "<u2")
    places = np.clip(pixels.astype(np.int64) - first, 0, num_entries - 1)
    return np.asarray(table, np.uint16)[places], (0.0, 2.0**bits - 1)


def _window(centre: float, width: float) -> tuple[float, float] | None:
    """The values shown black and white under the function LINEAR, DICOM PS3.3 C.11.2.1.2.1; None for a width below 1,
    which it forbids and which would leave nothing to see."""
    if width < 1:
        return None
    half = max(width - 1, 1e-6) / 2
    return centre - 0.5 - half, centre - 0.5 + half


def _full_range(pixels: npt.NDArray[Any]) -> tuple[float, float] | None:
    return (0.0, float(np.iinfo(pixels.dtype).max)) if pixels.dtype.kind == "u" else None


def _first(value: Any) -> float:
    """Of several windows the first."""
    return float(value if isinstance(value, str | int | float) else next(iter(value)))
