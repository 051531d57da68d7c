"""The optional fields of a DICOM file: pixel size, rescaling, tables and window.

A field that cannot be read is left out, and a remark names it. Remarks repeat no values of the file except
pixel sizes.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.errors import BytesLengthException

from backend.data.image_facts import ImageFacts, MmPerPx, ReadingRemark, describe_spacing, spacings_differ

# PixelSpacing counts if it is present: ImagerPixelSpacing is measured at the detector, behind the patient.
SPACING_FIELDS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
FRAMES_FIELD = "NumberOfFrames"
_RESCALE_FIELDS = ("RescaleSlope", "RescaleIntercept")
_WINDOW_FIELDS = ("WindowCenter", "WindowWidth")
_MODALITY_TABLE, _VOI_TABLE = "ModalityLUTSequence", "VOILUTSequence"
OPTIONAL_FIELDS = (
    *SPACING_FIELDS, FRAMES_FIELD, *_RESCALE_FIELDS, *_WINDOW_FIELDS, _MODALITY_TABLE, _VOI_TABLE,
)  # fmt: skip
# what pydicom and numpy raise for a damaged value
VALUE_ERRORS = (
    BytesLengthException,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    RuntimeError,
    ArithmeticError,
    struct.error,
)
_MAX_RESCALING = 1e12  # beyond it, float32 cannot distinguish grey values


@dataclass(frozen=True)
class Table:
    """A table of grey values: entries, the value of the first one, and the highest possible entry."""

    entries: npt.NDArray[np.uint16]
    first: int
    highest: float

    def look_up(self, pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Map pixels through the table, by DICOM PS3.3 C.11.2.1.1.

        pydicom's `apply_voi` indexes a table in the type of its entries: with entries of 8 bits, a picture of
        12 bits wraps at 256.
        """
        places = np.clip(pixels.astype(np.int64) - self.first, 0, len(self.entries) - 1)
        return self.entries[places]


@dataclass(frozen=True)
class Display:
    """The display of stored grey values, as the file states it."""

    rescaling: tuple[float, float] = (1.0, 0.0)  # slope and intercept
    modality_table: Table | None = None
    voi_table: Table | None = None
    window: tuple[float, float] | None = None  # the values that are black and white

    def apply(self, pixels: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], tuple[float, float] | None]:
        """Return the values to show, and the window to show them through; None if the file states none."""
        slope, intercept = self.rescaling
        if self.modality_table is not None:
            pixels = self.modality_table.look_up(pixels)
        elif self.rescaling != (1.0, 0.0):  # these would only make floats of the values
            pixels = pixels * slope + intercept
        if self.voi_table is not None:
            return self.voi_table.look_up(pixels), (0.0, self.voi_table.highest)
        return pixels, self.window


@dataclass
class FieldReader:
    """A reader of one file's optional fields, which collects remarks on them."""

    dataset: Dataset
    remarks: list[ReadingRemark] = field(default_factory=list)
    unreadable: set[str] = field(default_factory=set)

    def numbers(self, name: str) -> tuple[float, ...]:
        """Read a field's numbers, with a point or a comma; empty if it is absent, empty or unreadable."""
        try:
            texts = [str(item).strip() for item in _items(self.dataset.get(name))]
            values = tuple(_read_number(text) for text in texts)
        except VALUE_ERRORS:
            self.leave_out(name, f"{name} cannot be read")
            return ()
        if any("," in text for text in texts):
            self.remarks.append(
                ReadingRemark(
                    f"{name} is written with a decimal comma and read as such", "check what it says"
                )
            )
        return values

    def table(self, name: str) -> Table | None:
        """Read the first table of a sequence; None if there is none or it cannot be read."""
        try:
            sequence = self.dataset.get(name)
            return _read_table(sequence[0]) if sequence else None
        except VALUE_ERRORS:
            self.leave_out(name, f"{name} cannot be read")
            return None

    def leave_out(self, name: str, what: str) -> None:
        """ReadingAdd the remark that the image is read without a field, and why."""
        self.unreadable.add(name)
        self.remarks.append(
            ReadingRemark(f"{what}: the image is read without it", "export it again if that matters")
        )


def read_facts(reader: FieldReader) -> ImageFacts:
    """Read the pixel size, and collect all remarks on the optional fields."""
    spacings = _read_spacings(reader)
    read_display(reader)
    read_num_frames(reader)
    if not spacings:
        return ImageFacts(remarks=tuple(reader.remarks))
    (name, mm_per_px_xy), *others = spacings.items()
    for other, other_xy in others:
        if spacings_differ(mm_per_px_xy, other_xy):
            what = f"{name} states {describe_spacing(mm_per_px_xy)}, but {other} {describe_spacing(other_xy)}"
            cure = "state the pixel size in the plane of the landmarks where that is another"
            reader.remarks.append(ReadingRemark(f"{what}: {name} is used", cure))
    return ImageFacts(mm_per_px_xy, name, tuple(reader.remarks))


def read_display(reader: FieldReader) -> Display:
    """Read how the grey values are displayed.

    If a stated rescaling cannot be read, nothing that is stated in rescaled values can be used either.
    """
    modality_table = reader.table(_MODALITY_TABLE)
    rescaling = _read_rescaling(reader)
    voi_table, window = reader.table(_VOI_TABLE), _read_window(reader)
    if reader.unreadable & {_MODALITY_TABLE, *_RESCALE_FIELDS}:
        return Display()
    return Display(rescaling, modality_table, voi_table, window)


def read_num_frames(reader: FieldReader) -> int:
    """Read the number of pictures in the file; one if it states none."""
    stated = reader.numbers(FRAMES_FIELD)
    return max(1, int(stated[0])) if stated else 1


def _read_spacings(reader: FieldReader) -> dict[str, MmPerPx]:
    """Read every usable pixel size by its field, first the one that counts."""
    spacings: dict[str, MmPerPx] = {}
    for name in SPACING_FIELDS:
        values = reader.numbers(name)
        if len(values) == 2 and min(values) > 0:
            mm_per_px_y, mm_per_px_x = values  # between rows, then columns
            spacings[name] = (mm_per_px_x, mm_per_px_y)
        elif values:
            reader.leave_out(name, f"{name} is not a pixel size, two numbers above 0")
    return spacings


def _read_rescaling(reader: FieldReader) -> tuple[float, float]:
    slope, intercept = (reader.numbers(name)[:1] for name in _RESCALE_FIELDS)
    rescaling = (*(slope or (1.0,)), *(intercept or (0.0,)))
    if not rescaling[0] or max(map(abs, rescaling)) > _MAX_RESCALING:
        reader.leave_out("RescaleSlope", "RescaleSlope or RescaleIntercept leaves nothing to see")
    return rescaling[0], rescaling[1]


def _read_window(reader: FieldReader) -> tuple[float, float] | None:
    """Return the values shown black and white by the first window; None if it cannot be used.

    The function is LINEAR, DICOM PS3.3 C.11.2.1.2.1, which forbids a width below 1.
    """
    centre, width = (reader.numbers(name)[:1] for name in _WINDOW_FIELDS)
    if not centre or not width:
        if (centre or width) and not reader.unreadable & {*_WINDOW_FIELDS}:
            reader.leave_out("WindowCenter", "of WindowCenter and WindowWidth only one can be used")
        return None
    if width[0] < 1:
        reader.leave_out("WindowWidth", "WindowWidth is below 1")
        return None
    half = max(width[0] - 1, 1e-6) / 2
    return centre[0] - 0.5 - half, centre[0] - 0.5 + half


def _items(value: Any) -> Iterable[Any]:
    if value is None or value == "":
        return ()
    return value if isinstance(value, Sequence) and not isinstance(value, str | bytes) else (value,)


def _read_number(text: str) -> float:
    value = float(text.replace(",", "."))
    if not math.isfinite(value) or "_" in text:
        raise ValueError("not a number")
    return value


def _read_table(item: Dataset) -> Table:
    num_entries, first, bits = (int(value) for value in item.LUTDescriptor)
    num_entries = num_entries or 2**16
    stored = item.LUTData
    if isinstance(stored, bytes):  # stored as OW
        stored = np.frombuffer(stored, np.uint8 if len(stored) == num_entries else "<u2")
    entries = np.asarray(stored, np.uint16).reshape(-1)[:num_entries]
    if len(entries) != num_entries or not 1 <= bits <= 16:
        raise ValueError("a table of another length or depth than it says")
    return Table(entries, first, 2.0**bits - 1)
