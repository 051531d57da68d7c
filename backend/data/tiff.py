"""Reads from a TIFF's header how to display its pixels, and how many pictures it holds.

Classic and BigTIFF, either byte order.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_SUBFILE_TYPE, _PHOTOMETRIC, _EXTRA_SAMPLES = 254, 262, 338
_TAGS = (_SUBFILE_TYPE, _PHOTOMETRIC, _EXTRA_SAMPLES)
_WHITE_IS_ZERO = 0
_UNASSOCIATED_ALPHA = 2
_NO_PAGE = 0b101  # bits of the subfile type: a smaller copy of another page, or its mask
_NUMBER_FORMATS = {3: "H", 4: "I"}  # by a tag's type; the others hold none of these tags


@dataclass(frozen=True)
class TiffHeader:
    """The display of a TIFF file's first page, and the number of full-size pages."""

    is_white_zero: bool  # the lowest value is white
    has_unassociated_alpha: bool  # the colors are not multiplied by it
    num_pages: int


@dataclass(frozen=True)
class _Layout:
    """Byte order, and the formats of a directory's count of entries, of an entry and of an offset."""

    order: str
    count: str
    entry: str
    first_offset_at: int
    offset: str


_LAYOUTS = {
    b"II*\0": _Layout("<", "H", "HHI4s", 4, "I"),
    b"MM\0*": _Layout(">", "H", "HHI4s", 4, "I"),
    b"II+\0": _Layout("<", "Q", "HHQ8s", 8, "Q"),
    b"MM\0+": _Layout(">", "Q", "HHQ8s", 8, "Q"),
}


def read_tiff_header(path: Path) -> TiffHeader | None:
    """Read the header of a TIFF file, whatever its name; None for any other or unreadable file."""
    try:
        with path.open("rb") as file:
            layout = _LAYOUTS.get(file.read(4))
            pages = list(_iterate_pages(file, layout)) if layout is not None else []
    except OSError:
        return None
    if not pages:
        return None
    first, *others = pages
    return TiffHeader(
        is_white_zero=first.get(_PHOTOMETRIC) == _WHITE_IS_ZERO,
        has_unassociated_alpha=first.get(_EXTRA_SAMPLES) == _UNASSOCIATED_ALPHA,
        num_pages=1 + sum(not page.get(_SUBFILE_TYPE, 0) & _NO_PAGE for page in others),
    )


def _iterate_pages(file: BinaryIO, layout: _Layout) -> Iterator[Mapping[int, int]]:
    """Read the tags of each page that are used here, until the chain of pages ends, breaks off or loops."""
    seen: set[int] = set()
    try:
        file.seek(layout.first_offset_at)
        offset = _read_number(file, layout.order + layout.offset)
        while offset and offset not in seen:
            seen.add(offset)
            file.seek(offset)
            yield _read_tags(file, layout)
            offset = _read_number(file, layout.order + layout.offset)
    except (struct.error, OverflowError):  # an offset behind the end of the file, or an impossible one
        return


def _read_tags(file: BinaryIO, layout: _Layout) -> dict[int, int]:
    num_entries = _read_number(file, layout.order + layout.count)
    entry = struct.Struct(layout.order + layout.entry)
    tags: dict[int, int] = {}
    for _ in range(num_entries):
        tag, kind, _, value = entry.unpack(file.read(entry.size))
        if tag in _TAGS and kind in _NUMBER_FORMATS:
            (tags[tag],) = struct.unpack_from(layout.order + _NUMBER_FORMATS[kind], value)
    return tags


def _read_number(file: BinaryIO, format: str) -> int:
    (number,) = struct.unpack(format, file.read(struct.calcsize(format)))
    return int(number)
