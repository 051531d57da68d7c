"""Reads any image file, also DICOM, as 8-bit grey or RGB pixels, and its size from the header alone."""

from __future__ import annotations

import contextlib
import os
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from backend.data.dicom import is_dicom, read_dicom_facts, read_picture, read_size
from backend.data.image_facts import ImageFacts, ReadingRemark
from backend.data.tiff import TiffHeader, read_tiff_header
from backend.errors import UserError

# OpenCV's own thread pool does not survive a fork: a data worker that used it would wait forever. Images are
# prepared in parallel by our threads and workers instead.
cv2.setNumThreads(0)
# What OpenCV cannot decode is reported here, with the file's name.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

ImageArray = npt.NDArray[np.uint8]

# Suffixes of the images that are read everywhere, in lower case; DICOM is known without one.
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".dcm")

# Any of these keeps grey images grey, drops alpha, keeps the depth and applies the EXIF rotation.
_DECODE_FLAGS = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH
# Only JPEG's decoder averages while it reduces; of other formats OpenCV would skip pixels.
_JPEG_SUFFIXES = (".jpg", ".jpeg")
_REDUCED_GREY = (
    (cv2.IMREAD_REDUCED_GRAYSCALE_8, 8),
    (cv2.IMREAD_REDUCED_GRAYSCALE_4, 4),
    (cv2.IMREAD_REDUCED_GRAYSCALE_2, 2),
)
_WINDOW_PERCENTILES = (0.5, 99.5)
_WINDOW_SAMPLE_SIDE = 1024  # pixels per axis that the percentiles are taken from: enough, and fast at 95 Mpx
_EXIF_ORIENTATION = 0x0112
_UPRIGHT = 1
_SIDEWAYS_ORIENTATIONS = (5, 6, 7, 8)

_pixel_limit_lock = threading.Lock()


@dataclass(frozen=True)
class ImageFrame:
    """The size of an image as it is read, px, and the EXIF orientation (1 to 8) that was undone."""

    size_hw: tuple[int, int]
    orientation: int = _UPRIGHT

    @property
    def is_turned(self) -> bool:
        """Whether it is stored in another orientation, or mirrored."""
        return self.orientation != _UPRIGHT

    @property
    def is_sideways(self) -> bool:
        """Whether height and width changed places."""
        return self.orientation in _SIDEWAYS_ORIENTATIONS

    @property
    def stored_hw(self) -> tuple[int, int]:
        """The (height, width) of the pixels in the file."""
        height, width = self.size_hw
        return (width, height) if self.is_sideways else (height, width)


def is_image(path: Path) -> bool:
    """Whether a file is an image by its suffix, or DICOM by its bytes, whatever its name."""
    return path.suffix.lower() in IMAGE_SUFFIXES or (path.is_file() and is_dicom(path))


def read_image(path: Path) -> ImageArray:
    """Read the pixels of an image file, after EXIF rotation.

    Returns uint8 of shape (H, W) for a grey image (also one stored with three equal channels), else (H, W, 3)
    in RGB order. Alpha is dropped. Deeper than 8 bit, signed or float: the window from the 0.5th to the
    99.5th percentile is stretched to 0..255, one window for all channels. Of a TIFF the first page is read,
    and WhiteIsZero is inverted. DICOM is shown through the window that it states, MONOCHROME1 inverted.

    Raises UserError, naming the file, if it is missing, damaged or not an image.
    """
    if is_dicom(path):
        return _read_dicom(path)
    pixels = _decode(path)
    if pixels.dtype != np.uint8:
        pixels = _window_to_uint8(pixels)
    if pixels.ndim == 3 and _has_equal_channels(pixels):
        pixels = pixels[..., 0]
    elif pixels.ndim == 3:
        pixels = pixels[..., ::-1]
    image: ImageArray = np.ascontiguousarray(pixels, dtype=np.uint8)
    return image


def read_thumbnail(path: Path, side_px: int) -> ImageArray:
    """Read a small grey version to compare images: uint8 (side_px, side_px), squeezed into a square.

    Area-averaged and windowed as in `read_image`, after EXIF rotation. A JPEG is decoded at a half, a quarter
    or an eighth of its size if that leaves at least twice `side_px`: several times as fast. Raises UserError
    as `read_image` does.
    """
    shorter_px = min(read_image_size(path)) if path.suffix.lower() in _JPEG_SUFFIXES else 0
    reduced = next((flag for flag, parts in _REDUCED_GREY if shorter_px >= 2 * parts * side_px), None)
    if reduced is None:
        image = read_image(path)
    else:
        decoded = _decode(path, reduced | cv2.IMREAD_ANYDEPTH)
        # deeper than 8 bit: not a JPEG, whatever its name says
        image = _window_to_uint8(decoded) if decoded.dtype != np.uint8 else decoded.astype(np.uint8)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.ndim == 3 else image
    return np.asarray(cv2.resize(grey, (side_px, side_px), interpolation=cv2.INTER_AREA), np.uint8)


def read_image_size(path: Path) -> tuple[int, int]:
    """Read (height, width) in pixels after EXIF rotation, as of `read_image`, from the header.

    Raises UserError as `read_image_frame` does.
    """
    return read_image_frame(path).size_hw


def read_image_frame(path: Path) -> ImageFrame:
    """Read the size after EXIF rotation, and the orientation before it, from the header.

    A format that only OpenCV knows (such as a float RGB TIFF) is decoded for it. A file that is cut off
    behind its header passes here and fails in `read_image`. Raises UserError if there is no readable header.
    """
    if is_dicom(path):
        return ImageFrame(read_size(path))
    try:
        with _without_pixel_limit(), Image.open(path) as image:
            width, height = image.size
            orientation = _read_orientation(image, path)
    except FileNotFoundError as error:
        raise _missing(path) from error
    except (OSError, ValueError, SyntaxError, struct.error):
        height, width = _decode(path).shape[:2]
        return ImageFrame((height, width))
    # Pillow has applied a TIFF's orientation to `size` already
    swapped = orientation in _SIDEWAYS_ORIENTATIONS and image.format != "TIFF"
    return ImageFrame((width, height) if swapped else (height, width), orientation)


def read_image_facts(path: Path) -> ImageFacts:
    """Read from the header the pixel size that the file states, as DICOM does, and remarks on its reading.

    Raises UserError for damaged DICOM.
    """
    if is_dicom(path):
        return read_dicom_facts(path)
    header = read_tiff_header(path)
    if header is None or header.num_pages == 1:
        return ImageFacts()
    what = f"a TIFF of {header.num_pages} pages: only the first is used"
    return ImageFacts(remarks=(ReadingRemark(what, "save the page that you mean as a file of its own"),))


def _read_dicom(path: Path) -> ImageArray:
    picture = read_picture(path)
    image = _window_to_uint8(picture.pixels, picture.window)
    if image.ndim == 3 and _has_equal_channels(image):
        image = image[..., 0]
    return np.ascontiguousarray(255 - image if picture.is_inverted else image)


def _decode(path: Path, flags: int = _DECODE_FLAGS) -> npt.NDArray[np.generic]:
    try:
        # Not cv2.imread: on Windows it cannot open a path with characters outside the code page.
        encoded = np.fromfile(path, dtype=np.uint8)
    except FileNotFoundError as error:
        raise _missing(path) from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})", cure="check its permissions") from error
    try:
        pixels: npt.NDArray[Any] | None = cv2.imdecode(encoded, flags) if encoded.size else None
    except cv2.error:
        pixels = None
    if (header := read_tiff_header(path)) is not None:
        pixels = _decode_tiff(path, header, pixels)
    if pixels is None:
        raise UserError(f"{path} is damaged or not an image", cure="export or copy the image again")
    decoded: npt.NDArray[np.generic] = pixels
    return decoded


def _decode_tiff(path: Path, header: TiffHeader, decoded: npt.NDArray[Any] | None) -> npt.NDArray[Any] | None:
    """Correct what OpenCV decoded of a TIFF, so that it is shown as its header says.

    Pillow decodes what OpenCV does not (2 and 4 bit, small tiles), and colors that OpenCV darkens by their
    alpha. Both invert WhiteIsZero up to 8 bit, and neither does beyond.
    """
    if decoded is None or (
        header.has_unassociated_alpha and decoded.ndim == 3 and decoded.dtype.itemsize == 1
    ):
        by_pillow = _decode_by_pillow(path)
        decoded = decoded if by_pillow is None else by_pillow
    if decoded is None or decoded.dtype.itemsize == 1 or not header.is_white_zero:
        return decoded
    return -decoded if decoded.dtype.kind == "f" else ~decoded


def _decode_by_pillow(path: Path) -> npt.NDArray[Any] | None:
    """Decode grey (H, W) as deep as it is stored, or 8-bit BGR (H, W, 3), no alpha; None if Pillow cannot."""
    try:
        with _without_pixel_limit():
            image = Image.open(path)
        with image:
            if image.mode.startswith(("I", "F")):
                return np.asarray(image)
            if image.mode in ("1", "L", "LA"):
                return np.asarray(image.convert("LA").getchannel("L"))
            return np.asarray(image.convert("RGB"))[..., ::-1]
    except (OSError, ValueError, SyntaxError, struct.error):
        return None


def _missing(path: Path) -> UserError:
    return UserError(f"{path} does not exist", cure="check the path of the image")


def _window_to_uint8(
    pixels: npt.NDArray[np.generic], window: tuple[float, float] | None = None
) -> ImageArray:
    """Stretch a window of values to 0..255; without one, the window between the percentiles."""
    values = pixels.astype(np.float32)
    low, high = window or _percentile_window(values)
    if high <= low:
        return np.zeros(values.shape, dtype=np.uint8)
    values = np.nan_to_num(values, nan=low, posinf=high, neginf=low)
    scaled = (np.clip(values, low, high) - low) * (255.0 / (high - low))
    windowed: ImageArray = np.rint(scaled).astype(np.uint8)
    return windowed


def _percentile_window(values: npt.NDArray[np.float32]) -> tuple[float, float]:
    step_y, step_x = (max(1, side // _WINDOW_SAMPLE_SIDE) for side in values.shape[:2])
    sample = values[::step_y, ::step_x]
    sample = sample[np.isfinite(sample)]
    if sample.size == 0:
        return 0.0, 0.0
    low, high = (float(value) for value in np.percentile(sample, _WINDOW_PERCENTILES))
    if high <= low:  # nearly all pixels are equal: keep the few that differ
        low, high = float(sample.min()), float(sample.max())
    return low, high


def _has_equal_channels(pixels: npt.NDArray[np.generic]) -> bool:
    def equal(part: npt.NDArray[np.generic]) -> bool:
        return np.array_equal(part[..., 0], part[..., 1]) and np.array_equal(part[..., 1], part[..., 2])

    # a color image nearly always shows it in a few rows
    return equal(pixels[:: max(1, pixels.shape[0] // 8)]) and equal(pixels)


def _read_orientation(image: Image.Image, path: Path) -> int:
    """Read the EXIF orientation that OpenCV will apply."""
    # Not image.getexif(): that decodes a whole PNG, and takes an orientation from XMP, which OpenCV does not.
    exif = Image.Exif()
    stated: object
    try:
        if isinstance(image, TiffImageFile):
            stated = image.tag_v2.get(_EXIF_ORIENTATION)
        else:
            exif.load(_read_png_exif(path) if image.format == "PNG" else image.info.get("exif", b""))
            stated = exif.get(_EXIF_ORIENTATION)
    except (OSError, ValueError, SyntaxError, struct.error):
        return _UPRIGHT  # broken EXIF data: OpenCV does not rotate either
    return stated if isinstance(stated, int) and 1 <= stated <= 8 else _UPRIGHT


def _read_png_exif(path: Path) -> bytes:
    """Read a PNG's eXIf chunk, which may come after the pixels: other chunks are skipped."""
    with path.open("rb", buffering=0) as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            length = int.from_bytes(head[:4], "big")
            if head[4:] == b"eXIf":
                return file.read(length)
            file.seek(length + 4, os.SEEK_CUR)
    return b""


@contextlib.contextmanager
def _without_pixel_limit() -> Iterator[None]:
    # Radiographs of 95 megapixels exist, and only the header is read. Pillow has no limit per call.
    with _pixel_limit_lock:
        limit = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit
