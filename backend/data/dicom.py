"""Reads the picture and the pixel size of a DICOM file; no other field is read or kept.

The pixels are returned as they are meant to be displayed (MONOCHROME1, color, and in `dicom_fields` the
window).
"""

from __future__ import annotations

import logging
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset, config, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID

from backend.data.dicom_fields import (
    FRAMES_FIELD,
    OPTIONAL_FIELDS,
    VALUE_ERRORS,
    FieldReader,
    read_display,
    read_facts,
    read_num_frames,
)
from backend.data.image_facts import ImageFacts
from backend.errors import UserError

# a warning would print a value that violates the standard, which may be a patient's
config.settings.reading_validation_mode = config.IGNORE
logging.getLogger("pydicom").setLevel(logging.CRITICAL)

_PREAMBLE_BYTES = 128
_MAGIC = b"DICM"
_SIZE_FIELDS = ("Rows", "Columns")


@dataclass(frozen=True)
class DicomPicture:
    """Pixels (H, W) or (H, W, 3) RGB as stored, after the modality's rescaling, and their display."""

    pixels: npt.NDArray[Any]
    window: tuple[float, float] | None  # the values that are black and white; None: the file states none
    is_inverted: bool  # MONOCHROME1: the lowest value is white


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM by its preamble, whatever its name; False if it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(_PREAMBLE_BYTES + len(_MAGIC))[_PREAMBLE_BYTES:] == _MAGIC
    except OSError:
        return False


def read_picture(path: Path) -> DicomPicture:
    """Read the picture of a DICOM file that is uncompressed or compressed by RLE, JPEG (8 bit) or JPEG 2000.

    Raises UserError, naming the file, if it is damaged, holds no picture or several, or is compressed
    otherwise.
    """
    with _readable(path):
        dataset = dcmread(path)
        kind = UID(dataset.file_meta.TransferSyntaxUID)
        num_frames = read_num_frames(FieldReader(dataset))
        dataset.pop(FRAMES_FIELD, None)  # pydicom fails on an unreadable one
    _require_picture(path, dataset, kind, num_frames)
    with _readable(path):
        return _prepare_display(pixel_array(dataset), dataset)


def read_size(path: Path) -> tuple[int, int]:
    """Read (height, width) in pixels from the header alone. Raises UserError as `read_picture` does."""
    with _readable(path):
        dataset = dcmread(path, stop_before_pixels=True, specific_tags=list(_SIZE_FIELDS))
        return int(dataset["Rows"].value), int(dataset["Columns"].value)


def read_dicom_facts(path: Path) -> ImageFacts:
    """Read the pixel size that a DICOM file states, and remarks on its optional fields, from the header.

    Raises UserError for a damaged file.
    """
    with _readable(path):
        dataset = dcmread(path, stop_before_pixels=True, specific_tags=list(OPTIONAL_FIELDS))
        return read_facts(FieldReader(dataset))


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn whatever pydicom raises for a damaged file into a UserError, and silence its warnings."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist", cure="check the path of the image") from error
    except (OSError, EOFError, InvalidDicomError, zlib.error, *VALUE_ERRORS) as error:
        raise UserError(f"{path} is damaged DICOM", cure="export or copy the image again") from error


def _require_picture(path: Path, dataset: Dataset, kind: UID, num_frames: int) -> None:
    if "PixelData" not in dataset:
        raise UserError(f"{path} is DICOM without a picture", cure="choose the file of the radiograph itself")
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


def _prepare_display(pixels: npt.NDArray[Any], dataset: Dataset) -> DicomPicture:
    """Rescale by the modality's table and map by the VOI's, if any; a window is returned, not applied."""
    kind = str(dataset.PhotometricInterpretation)
    if kind == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, dataset)
    if pixels.ndim == 3:
        return DicomPicture(pixels[..., :3], _full_range(pixels), is_inverted=False)
    pixels, window = read_display(FieldReader(dataset)).apply(pixels)
    if window is None and pixels.dtype == np.uint8:
        window = _full_range(pixels)
    return DicomPicture(pixels, window, kind == "MONOCHROME1")


def _full_range(pixels: npt.NDArray[Any]) -> tuple[float, float] | None:
    return (0.0, float(np.iinfo(pixels.dtype).max)) if pixels.dtype.kind == "u" else None
