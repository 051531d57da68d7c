from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from backend.data.images import read_image, read_image_size, read_thumbnail
from backend.errors import UserError

HEIGHT, WIDTH = 24, 40


def write(path: Path, pixels: np.ndarray[Any, Any]) -> Path:
    """`pixels` in OpenCV's order (BGR) in the format of the suffix."""
    path.write_bytes(cv2.imencode(path.suffix, pixels)[1].tobytes())
    return path


@pytest.fixture
def colour() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".webp", ".jpg"])
def test_colour_is_rgb_and_grey_is_two_dimensional(tmp_path: Path, suffix: str) -> None:
    blue = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    blue[..., 0] = 200
    image = read_image(write(tmp_path / f"blue{suffix}", blue))
    assert image.shape == (HEIGHT, WIDTH, 3)
    assert image.dtype == np.uint8 and image.flags["C_CONTIGUOUS"]
    assert np.abs(image[0, 0].astype(int) - (0, 0, 200)).max() <= 12  # JPEG and WebP lose a little

    grey = np.full((HEIGHT, WIDTH), 77, np.uint8)
    for name, stored in {"one": grey, "three": np.dstack([grey] * 3)}.items():
        path = write(tmp_path / f"{name}{suffix}", stored)
        assert read_image(path).shape == (HEIGHT, WIDTH) == read_image_size(path)


def test_path_may_hold_any_characters(tmp_path: Path, colour: np.ndarray[Any, Any]) -> None:
    path = write(tmp_path / "عکس ü 画像.png", colour)
    assert np.array_equal(read_image(path), colour[..., ::-1])
    assert read_image_size(path) == (HEIGHT, WIDTH)


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_alpha_is_dropped(tmp_path: Path, depth: type[Any], suffix: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 250, (HEIGHT, WIDTH, 4)).astype(depth)
    path = write(tmp_path / f"a{suffix}", pixels)
    image = read_image(path)
    assert image.shape == (HEIGHT, WIDTH, 3)
    if depth is np.uint8:
        assert np.array_equal(image, pixels[..., 2::-1])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_exif_rotation(tmp_path: Path, suffix: str, orientation: int) -> None:
    stored = np.zeros((HEIGHT, WIDTH), np.uint8)
    stored[:8, :8] = 255  # top left, before rotation
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"turned{suffix}"
    Image.fromarray(stored).save(path, exif=exif)
    image = read_image(path)
    assert image.shape == read_image_size(path)
    assert image.shape == ((HEIGHT, WIDTH) if orientation < 5 else (WIDTH, HEIGHT))
    corners = {"tl": image[2, 2], "tr": image[2, -3], "br": image[-3, -3], "bl": image[-3, 2]}
    white = [name for name, value in corners.items() if value > 128]
    assert white == [["tl", "tr", "br", "bl", "tl", "tr", "br", "bl"][orientation - 1]]


def test_orientation_behind_the_pixels_of_a_png(tmp_path: Path, colour: np.ndarray[Any, Any]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(data)) + b"eXIf" + data + struct.pack(">I", zlib.crc32(b"eXIf" + data))
    path = write(tmp_path / "late.png", colour)
    raw = path.read_bytes()
    path.write_bytes(raw[:-12] + chunk + raw[-12:])
    assert read_image(path).shape[:2] == read_image_size(path) == (WIDTH, HEIGHT)


def test_orientation_in_xmp_alone_is_not_applied(tmp_path: Path, colour: np.ndarray[Any, Any]) -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:D tiff:Orientation="6"></rdf:D></x:xmpmeta>'
    path = tmp_path / "xmp.jpg"
    Image.fromarray(colour).save(path, xmp=xmp)
    assert read_image(path).shape[:2] == read_image_size(path) == (HEIGHT, WIDTH)


@settings(max_examples=25, deadline=None)
@given(low=st.integers(0, 30_000), span=st.integers(300, 35_000), is_float=st.booleans())
def test_window_spans_all_grey_values_and_keeps_the_order(
    tmp_path_factory: pytest.TempPathFactory, low: int, span: int, is_float: bool
) -> None:
    ramp = np.linspace(low, low + span, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)
    folder = tmp_path_factory.mktemp("window")
    path = folder / ("ramp.tif" if is_float else "ramp.png")
    image = read_image(write(path, ramp.astype(np.float32 if is_float else np.uint16)))
    assert image.dtype == np.uint8
    assert image.min() == 0 and image.max() == 255
    assert (np.diff(image.ravel().astype(int)) >= 0).all()


def test_window_leaves_outliers_and_nan_out(tmp_path: Path) -> None:
    pixels = np.linspace(0, 1, 100 * 100, dtype=np.float32).reshape(100, 100)
    pixels[0, 0], pixels[50, 50] = 1e6, np.nan
    image = read_image(write(tmp_path / "outlier.tif", pixels))
    assert image[0, 0] == 255 and image[50, 50] == 0
    assert abs(int(image[50, 51]) - 128) < 4


def test_window_of_flat_images(tmp_path: Path) -> None:
    flat = np.full((100, 100), 5000, np.uint16)
    assert not read_image(write(tmp_path / "flat.png", flat)).any()
    flat[3, 3] = 9000  # one pixel in ten thousand: beyond the percentiles, but all there is to see
    image = read_image(write(tmp_path / "dot.png", flat))
    assert image[3, 3] == 255 and image.sum() == 255


def test_size_of_a_format_that_only_opencv_knows(tmp_path: Path) -> None:
    path = write(tmp_path / "float.tif", np.zeros((HEIGHT, WIDTH, 3), np.float32))
    assert read_image_size(path) == (HEIGHT, WIDTH)


def test_size_of_a_very_large_film(tmp_path: Path) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    path = tmp_path / "film.png"
    header = struct.pack(">IIBBBBB", 20_000, 15_000, 8, 0, 0, 0, 0)
    crc = struct.pack(">I", zlib.crc32(b"IHDR" + header))
    pixels = b"\0\0\0\0IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header + crc + pixels)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image_size(path) == (15_000, 20_000)
    assert limit == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".tif"])
def test_cut_off_file_is_an_error_that_names_it(tmp_path: Path, suffix: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    path = write(tmp_path / f"cut{suffix}", pixels)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=f"cut{suffix}"):
        read_image(path)


@pytest.mark.parametrize("content", [b"", b"no image at all", b"\x89PNG\r\n\x1a\n"])
def test_no_image(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "text.png"
    path.write_bytes(content)
    for read in (read_image, read_image_size):
        with pytest.raises(UserError, match=r"text\.png"):
            read(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for read in (read_image, read_image_size):
        with pytest.raises(UserError, match="does not exist"):
            read(tmp_path / "absent.png")
        with pytest.raises(UserError):
            read(tmp_path)


@pytest.mark.parametrize("orientation", [1, 6, 8])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_thumbnail_is_the_whole_turned_image_by_area(tmp_path: Path, suffix: str, orientation: int) -> None:
    noise = np.random.default_rng(0).normal(0, 20, (300, 200))
    stored = np.clip(np.linspace(20, 230, 200) + noise, 0, 255).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"film{suffix}"
    Image.fromarray(stored).save(path, exif=exif)
    thumbnail = read_thumbnail(path, 16)  # a JPEG of 200 pixels is decoded at a quarter
    expected = cv2.resize(read_image(path), (16, 16), interpolation=cv2.INTER_AREA)
    assert thumbnail.shape == (16, 16) and thumbnail.dtype == np.uint8
    assert np.abs(thumbnail.astype(int) - expected).max() <= 4


def test_thumbnail_of_16_bit_is_windowed_whatever_the_name_says(tmp_path: Path) -> None:
    ramp = np.tile(np.linspace(9_000, 21_000, 256), (256, 1)).astype(np.uint16)
    path = write(tmp_path / "film.png", ramp)
    for name in ("film.png", "film.jpg"):
        path = path.rename(tmp_path / name)
        thumbnail = read_thumbnail(path, 16)
        assert thumbnail[0, 0] < 12 and thumbnail[0, -1] > 243


def test_thumbnail_of_colour_is_grey(tmp_path: Path) -> None:
    red = np.zeros((64, 64, 3), np.uint8)
    red[..., 2] = 200
    for suffix in (".png", ".jpg"):
        assert np.abs(read_thumbnail(write(tmp_path / f"red{suffix}", red), 16).astype(int) - 60).max() <= 2


def _ramp_image(mode: str) -> Image.Image:
    grey = Image.fromarray(np.tile(np.linspace(0, 255, 256).astype(np.uint8), (256, 1)))
    colour = Image.merge("RGB", (grey, grey.transpose(Image.Transpose.FLIP_LEFT_RIGHT), grey))
    if mode in ("LA", "RGBA"):
        opaque = (grey if mode == "LA" else colour).copy()
        opaque.putalpha(Image.new("L", grey.size, 255))
        return opaque
    if mode == "I;16":
        return Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    return colour.quantize(64) if mode == "P" else grey if mode == "L" else colour.convert(mode)


@pytest.mark.parametrize(
    ("suffix", "mode", "options"),
    [
        (".png", "P", {}),
        (".png", "P", {"transparency": 3}),
        (".png", "P", {"transparency": bytes(range(64))}),
        (".png", "L", {"transparency": 10}),
        (".png", "RGB", {"transparency": (0, 255, 0)}),
        (".png", "I;16", {}),
        (".png", "I;16", {"transparency": 0}),
        (".png", "LA", {}),
        (".png", "RGBA", {}),
        (".jpg", "L", {}),
        (".jpg", "CMYK", {"quality": 95, "subsampling": 0}),
        (".jpg", "YCbCr", {"quality": 95, "subsampling": 0}),
        (".webp", "L", {"lossless": True}),
        (".webp", "RGBA", {"lossless": True}),
        (".webp", "RGB", {"quality": 95}),
        (".tif", "P", {}),
        (".tif", "LA", {}),
        (".tif", "RGBA", {}),
        (".tif", "CMYK", {}),
        (".tif", "YCbCr", {"compression": "jpeg"}),
        (".bmp", "P", {}),
    ],
)
def test_image_kinds_are_decoded_as_their_headers_state(
    tmp_path: Path, suffix: str, mode: str, options: dict[str, Any]
) -> None:
    image = _ramp_image(mode)
    path = tmp_path / f"film{suffix}"
    image.save(path, **options)
    shown = read_image(path)
    assert shown.shape[:2] == read_image_size(path) == image.size[::-1]
    alike = image.convert("RGB") if mode != "I;16" else _ramp_image("L")
    expected = np.asarray(alike.convert("L") if shown.ndim == 2 else alike).astype(int)
    assert np.abs(shown - expected).max() <= (2 if mode == "I;16" else 12 if suffix != ".webp" else 40)
    assert np.abs(read_thumbnail(path, 16).astype(int)[:, [0, -1]] - _grey_ends(shown)).max() <= 8


def _grey_ends(shown: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    grey = cv2.cvtColor(shown, cv2.COLOR_RGB2GRAY) if shown.ndim == 3 else shown
    return cv2.resize(grey, (16, 16), interpolation=cv2.INTER_AREA).astype(int)[:, [0, -1]]
