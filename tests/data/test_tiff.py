"""TIFF files are displayed as their tags state, at every depth and layout; further pages are reported."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from backend.data.images import read_image, read_image_facts, read_image_size, read_thumbnail
from backend.data.tiff import read_tiff_header
from tests.data.tiff_file import Page, Values, tiff_bytes

HEIGHT, WIDTH = 24, 40
BLACK_IS_ZERO, WHITE_IS_ZERO, RGB = 1, 0, 2
ORIENTATION, EXTRA_SAMPLES, SUBFILE_TYPE = 274, 338, 254
DEPTHS = ["u1", "u2", "u4", "u8", "u10", "u12", "u14", "u16", "u32", "i16", "i32", "f32", "f64"]
LAYOUTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "deflated": {"is_deflated": True},
    "strips": {"rows_per_strip": 7},
    "small tiles": {"tile_side": 16},
    "large tiles": {"tile_side": 128, "is_deflated": True},
}


def ramp(depth: str) -> tuple[Values, Values, int]:
    """The same greys from dark to bright as BlackIsZero and as WhiteIsZero stores them, and bits of each."""
    kind, bits = depth[0], int(depth[1:])
    shares = np.linspace(0, 1, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)
    if kind == "f":
        dark = shares.astype(f"f{bits // 8}")
        return dark, 1 - dark, bits
    size = max(8, 1 << (bits - 1).bit_length()) // 8
    dark = (shares * (2**bits - 1) - (2 ** (bits - 1) if kind == "i" else 0)).astype(f"{kind}{size}")
    return dark, (~dark if kind == "i" else 2**bits - 1 - dark).astype(dark.dtype), bits


@pytest.mark.parametrize("big_endian", [False, True], ids=["little endian", "big endian"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("depth", DEPTHS)
def test_white_is_zero_tiff_equals_black_is_zero(
    tmp_path: Path, depth: str, layout: str, big_endian: bool
) -> None:
    dark, inverse, bits = ramp(depth)
    pictures = []
    for photometric, values in ((BLACK_IS_ZERO, dark), (WHITE_IS_ZERO, inverse)):
        path = tmp_path / f"{photometric}.tif"
        page = Page(values, photometric, bits, **LAYOUTS[layout])
        path.write_bytes(tiff_bytes(page, big_endian=big_endian))
        pictures.append(read_image(path).astype(int))
        assert pictures[-1].shape == read_image_size(path) == (HEIGHT, WIDTH)
    assert np.abs(pictures[0] - pictures[1]).max() <= 1  # of the window's rounding
    assert pictures[0][0, 0] == 0 and pictures[0][-1, -1] == 255


@pytest.mark.parametrize("name", ["film.tif", "film.jpg", "film"])
def test_white_is_zero_thumbnail_is_not_inverted(tmp_path: Path, name: str) -> None:
    dark = np.tile(np.linspace(0, 60_000, 256).astype(np.uint16), (256, 1))
    path = tmp_path / name
    path.write_bytes(tiff_bytes(Page(65_535 - dark, WHITE_IS_ZERO)))
    thumbnail = read_thumbnail(path, 16)
    assert thumbnail[0, 0] < 12 and thumbnail[0, -1] > 243


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_orientation_is_applied_to_every_layout(tmp_path: Path, layout: str, orientation: int) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH), np.uint8)
    page = Page(grey, tags={ORIENTATION: orientation})
    (tmp_path / "plain.tif").write_bytes(tiff_bytes(page))
    path = tmp_path / "other.tif"
    path.write_bytes(tiff_bytes(replace(page, **LAYOUTS[layout])))
    assert np.array_equal(read_image(path), read_image(tmp_path / "plain.tif"))
    assert read_image_size(path) == read_image(path).shape


def test_big_tiff_is_read_with_its_tags(tmp_path: Path) -> None:
    grey = np.tile(np.arange(WIDTH, dtype=np.uint16) * 1000, (HEIGHT, 1))
    path, buffer = tmp_path / "big.tif", io.BytesIO()
    Image.fromarray(grey).save(buffer, "TIFF", big_tiff=True, tiffinfo={262: WHITE_IS_ZERO})
    path.write_bytes(buffer.getvalue())
    header = read_tiff_header(path)
    assert header is not None and header.is_white_zero and header.num_pages == 1
    assert read_image(path)[0, 0] == 255 and read_image(path)[0, -1] == 0


def test_colours_are_not_darkened_by_their_alpha(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 4), np.uint8)
    path = tmp_path / "rgba.tif"
    path.write_bytes(tiff_bytes(Page(colours, RGB, tags={EXTRA_SAMPLES: 2})))
    assert np.array_equal(read_image(path), colours[..., :3])


@pytest.mark.parametrize("big_endian", [False, True])
def test_pages_beyond_the_first_are_reported(tmp_path: Path, big_endian: bool) -> None:
    pages = [Page(np.full((HEIGHT, WIDTH), value, np.uint8)) for value in (50, 90, 130)]
    path = tmp_path / "pages.tif"
    path.write_bytes(tiff_bytes(*pages, big_endian=big_endian))
    assert (read_image(path) == 50).all()
    (remark,) = read_image_facts(path).remarks
    assert "3 pages" in remark.what and remark.cure
    path.write_bytes(tiff_bytes(pages[0]))
    assert read_image_facts(path).remarks == ()


def test_smaller_copies_and_masks_are_no_pages(tmp_path: Path) -> None:
    copies = [Page(np.zeros((6, 10), np.uint8), tags={SUBFILE_TYPE: kind}) for kind in (1, 4)]
    path = tmp_path / "pyramid.tif"
    path.write_bytes(tiff_bytes(Page(np.zeros((HEIGHT, WIDTH), np.uint8)), *copies))
    assert read_image_facts(path).remarks == ()


@pytest.mark.parametrize("link", [b"\x08\0\0\0", b"\xff\xff\xff\x7f"], ids=["to itself", "behind the end"])
def test_a_broken_chain_of_pages_ends(tmp_path: Path, link: bytes) -> None:
    whole = tiff_bytes(Page(np.zeros((HEIGHT, WIDTH), np.uint8)))
    path = tmp_path / "x.tif"
    first = whole[4:8]
    path.write_bytes(whole[:-4] + (first if link[0] == 8 else link))
    header = read_tiff_header(path)
    assert header is not None and header.num_pages == 1


@pytest.mark.parametrize(
    "content", [b"", b"II", b"II*\0", b"II*\0\x08\0\0\0", b"II*\0\xff\xff\xff\xff", b"\x89PNG"]
)
def test_what_is_no_tiff_has_no_header(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.tif").write_bytes(content)
    assert read_tiff_header(tmp_path / "x.tif") is None
    assert read_tiff_header(tmp_path / "absent.tif") is None
