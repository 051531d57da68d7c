"""TIFF files byte by byte, of any depth and layout: no library here writes all of those that scanners do."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Values = np.ndarray[Any, Any]
SHORT, LONG = ("H", 3), ("I", 4)


@dataclass(frozen=True)
class Page:
    """Values (H, W) or (H, W, C) as they are stored; `bits` of each, packed where they fill no bytes."""

    values: Values
    photometric: int = 1
    bits: int = 0  # 0: as many as the values' type has
    is_deflated: bool = False
    tile_side: int = 0  # 0: strips
    rows_per_strip: int = 0  # 0: one strip
    tags: Mapping[int, int] = field(default_factory=dict)  # others, of the type SHORT


def tiff_bytes(*pages: Page, big_endian: bool = False) -> bytes:
    """A whole file."""
    order = ">" if big_endian else "<"
    file = bytearray((b"MM" if big_endian else b"II") + struct.pack(order + "HI", 42, 0))
    link = 4
    for page in pages:
        tags = _tags_of(page, _append_segments(file, page, order))
        entries = [_entry(file, tag, *tags[tag], order) for tag in sorted(tags)]
        struct.pack_into(order + "I", file, link, len(file))
        file += struct.pack(order + "H", len(entries)) + b"".join(entries)
        link = len(file)
        file += bytes(4)
    return bytes(file)


def _append_segments(file: bytearray, page: Page, order: str) -> list[tuple[int, int]]:
    """Offset and length of each strip or tile."""
    placed = []
    for part in _parts(page):
        packed = _pack(part, page.bits or part.dtype.itemsize * 8, order)
        data = zlib.compress(packed) if page.is_deflated else packed
        placed.append((len(file), len(data)))
        file += data + bytes(len(data) % 2)
    return placed


def _parts(page: Page) -> list[Values]:
    height, width = page.values.shape[:2]
    side = page.tile_side
    if not side:
        step = page.rows_per_strip or height
        return [page.values[y : y + step] for y in range(0, height, step)]
    padding = ((0, -height % side), (0, -width % side), *((0, 0),) * (page.values.ndim - 2))
    padded = np.pad(page.values, padding)
    corners = [(y, x) for y in range(0, height, side) for x in range(0, width, side)]
    return [padded[y : y + side, x : x + side] for y, x in corners]


def _pack(values: Values, bits: int, order: str) -> bytes:
    if bits % 8 == 0:
        return values.astype(values.dtype.newbyteorder(order)).tobytes()
    rows = values.reshape(len(values), -1).astype(">u4")
    as_bits = np.unpackbits(rows.view(np.uint8).reshape(*rows.shape, 4), axis=-1)[..., 32 - bits :]
    return np.packbits(as_bits.reshape(len(rows), -1), axis=-1).tobytes()


def _tags_of(page: Page, placed: list[tuple[int, int]]) -> dict[int, tuple[list[int], tuple[str, int]]]:
    values = page.values
    height, width = values.shape[:2]
    channels = values.shape[2] if values.ndim == 3 else 1
    offsets, lengths = ([place[k] for place in placed] for k in (0, 1))
    bits = page.bits or values.dtype.itemsize * 8
    sample_format = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    tags = {
        256: ([width], LONG), 257: ([height], LONG), 258: ([bits] * channels, SHORT),
        259: ([8 if page.is_deflated else 1], SHORT), 262: ([page.photometric], SHORT),
        277: ([channels], SHORT), 339: ([sample_format] * channels, SHORT),
    }  # fmt: skip
    if page.tile_side:
        tags |= {tag: ([page.tile_side], LONG) for tag in (322, 323)} | {
            324: (offsets, LONG),
            325: (lengths, LONG),
        }
    else:
        tags |= {273: (offsets, LONG), 278: ([page.rows_per_strip or height], LONG), 279: (lengths, LONG)}
    return tags | {tag: ([value], SHORT) for tag, value in page.tags.items()}


def _entry(file: bytearray, tag: int, values: list[int], kind: tuple[str, int], order: str) -> bytes:
    letter, code = kind
    data = struct.pack(order + letter * len(values), *values)
    if len(data) > 4:
        data, at = struct.pack(order + "I", len(file)), data
        file += at + bytes(len(at) % 2)
    return struct.pack(order + "HHI", tag, code, len(values)) + data.ljust(4, b"\0")
