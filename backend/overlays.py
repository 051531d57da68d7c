"""Draws points and heatmaps over an image: arrays in, arrays out.

The ground truth is a ring, a prediction a cross, the error the line between them: they differ in shape as
well as in color (Okabe and Ito's palette for color-blind people). Points are in pixels of the given image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from backend.geometry import FloatArray, Size

Image = npt.NDArray[np.uint8]

TRUTH_RGB = (86, 180, 233)
PREDICTION_RGB = (230, 159, 0)
ERROR_RGB = (240, 228, 66)
_SUBPIXEL_BITS = 4


def to_rgb(image: Image) -> Image:
    """Copy an image (H, W) or (H, W, 3) to (H, W, 3)."""
    return np.repeat(image[..., None], 3, axis=2) if image.ndim == 2 else image.copy()


def draw_points(
    image: Image, predicted_xy: FloatArray | None = None, true_xy: FloatArray | None = None
) -> Image:
    """Draw predictions (K, 2) and ground truth (K, 2) on a copy of an image; NaN is not drawn."""
    picture = to_rgb(image)
    size = max(3.0, min(picture.shape[:2]) / 90)
    thickness = max(1, round(size / 4))
    if predicted_xy is not None and true_xy is not None:
        for start, end in zip(true_xy, predicted_xy, strict=True):
            if np.isfinite([start, end]).all():
                _line(picture, start, end, ERROR_RGB, thickness)
    for x, y in () if true_xy is None else true_xy:
        if np.isfinite([x, y]).all():
            _ring(picture, (x, y), size, TRUTH_RGB, thickness)
    for x, y in () if predicted_xy is None else predicted_xy:
        if np.isfinite([x, y]).all():
            for dx, dy in ((size, size), (size, -size)):
                _line(picture, (x - dx, y - dy), (x + dx, y + dy), PREDICTION_RGB, thickness)
    return picture


def blend_heatmaps(
    image: Image,
    heatmaps: Sequence[Image],
    affines_heatmap_to_image: Sequence[FloatArray],
    opacity: float = 0.6,
) -> Image:
    """Lay heatmaps (h, w) uint8 over a copy of an image; see `heatmap_layer`."""
    picture = to_rgb(image)
    layer = heatmap_layer(heatmaps, affines_heatmap_to_image, (picture.shape[0], picture.shape[1]))
    weight = opacity * layer[..., 3:].astype(np.float32) / 255
    return (picture * (1 - weight) + layer[..., :3] * weight).round().astype(np.uint8)


def heatmap_layer(
    heatmaps: Sequence[Image], affines_heatmap_to_picture: Sequence[FloatArray], picture_hw: Size
) -> Image:
    """Turn heatmaps (h, w) uint8 into a layer (H, W, 4) to lay over a picture.

    A pixel has the color and opacity of the highest heatmap there: warm if it is high, clear if it is low.
    """
    highest = np.zeros(picture_hw, np.uint8)
    for heatmap, affine in zip(heatmaps, affines_heatmap_to_picture, strict=True):
        if np.isfinite(affine).all():  # the place of a crop around an unknown point is unknown
            np.maximum(highest, cv2.warpAffine(heatmap, affine, picture_hw[::-1]), out=highest)
    colors = cv2.cvtColor(cv2.applyColorMap(highest, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    opacity = np.rint((highest.astype(np.float32) / 255) ** 0.5 * 255).astype(np.uint8)
    return np.dstack([colors, opacity])


def encode_png(picture: Image) -> bytes:
    """Encode a greyscale, an RGB or an RGBA picture as PNG."""
    return _encode(picture, ".png", [])


def encode_jpeg(picture: Image, quality: int = 88) -> bytes:
    """Encode a greyscale or an RGB picture as JPEG."""
    return _encode(picture, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, quality])


def _encode(picture: Image, suffix: str, options: Sequence[int]) -> bytes:
    pixels: npt.NDArray[Any] = picture
    if picture.ndim == 3:
        pixels = cv2.cvtColor(picture, cv2.COLOR_RGBA2BGRA if picture.shape[2] == 4 else cv2.COLOR_RGB2BGR)
    succeeded, buffer = cv2.imencode(suffix, pixels, options)
    assert succeeded, f"OpenCV cannot write {suffix}"
    return bytes(buffer.tobytes())


def _to_fixed_point(point: Sequence[float] | FloatArray) -> tuple[int, int]:
    """Convert a sub-pixel point to OpenCV's fixed-point integers."""
    scale = 1 << _SUBPIXEL_BITS
    return round(float(point[0]) * scale), round(float(point[1]) * scale)


def _line(
    picture: Image,
    start: Sequence[float] | FloatArray,
    end: Sequence[float] | FloatArray,
    rgb: tuple[int, int, int],
    thickness: int,
) -> None:
    cv2.line(
        picture, _to_fixed_point(start), _to_fixed_point(end), rgb, thickness, cv2.LINE_AA, _SUBPIXEL_BITS
    )


def _ring(
    picture: Image, center: Sequence[float], radius: float, rgb: tuple[int, int, int], thickness: int
) -> None:
    radius_fixed = round(radius * (1 << _SUBPIXEL_BITS))
    cv2.circle(picture, _to_fixed_point(center), radius_fixed, rgb, thickness, cv2.LINE_AA, _SUBPIXEL_BITS)
