"""Coordinate arithmetic: frames, affines, sizes, and the sigma that follows from them.

Pixel centres are integers in every frame, so a point at (0, 0) is the centre of the first pixel and a frame
of width W spans -0.5 .. W - 0.5. Three frames, always in the name: `_image` (original pixels), `_input`
(network pixels), `_heatmap` (cells). From a frame to one `s` times as large: x' = (x + 0.5) * s - 0.5. Points
are (x, y), sizes are (height, width), affines are 2 x 3 matrices that map (x, y, 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating]
BoolArray = npt.NDArray[np.bool_]
Size = tuple[int, int]

OUTPUT_STRIDES = (1, 2, 4)
MIN_SIGMA_CELLS = 0.7  # below it a grid cannot hold a Gaussian: a fifth of its energy is lost at 0.375
CROP_SIGMA_CELLS = 1.0


def adaptive_sigma(height: int, width: int) -> float:
    """Return the SD of the target Gaussian in input pixels: 0.75 at 128, 1.5 at 256, 3.0 at 512."""
    return max(0.75, 3.0 * (height + width) / 2 / 512)


def output_stride_for(height: int, width: int) -> int:
    """Return the largest of 1, 2, 4 at which the automatic sigma is still at least 0.7 cells."""
    sigma = adaptive_sigma(height, width)
    return max(s for s in OUTPUT_STRIDES if s == 1 or sigma / s >= MIN_SIGMA_CELLS)


def sigma_in_force(sigma: float | str, input_hw: Size, stride: int) -> float:
    """Return sigma in input pixels for a setting `sigma` ("auto" or input pixels) at an output stride.

    "auto" is `adaptive_sigma`, but never less than a grid of this stride can hold.
    """
    if sigma != "auto":
        return float(sigma)
    return max(adaptive_sigma(*input_hw), MIN_SIGMA_CELLS * stride)


def refiner_sigma_in_force(sigma: float | str, stride: int) -> float:
    """Return sigma on crops, in crop pixels: "auto" is one cell."""
    return CROP_SIGMA_CELLS * stride if sigma == "auto" else float(sigma)


def outside_image(points_xy: FloatArray, size_hw: npt.ArrayLike, margin_px: float = 0.0) -> BoolArray:
    """Find the points (..., 2) that lie more than a margin outside a frame.

    Its size is (2,), or (..., 2) with one for each point. A frame ends half a pixel beyond its first and its
    last centre. A missing point (NaN) is not outside.
    """
    ends_xy = np.asarray(size_hw, np.float64)[..., ::-1] - 0.5
    outside: BoolArray = np.any((points_xy < -0.5 - margin_px) | (points_xy > ends_xy + margin_px), axis=-1)
    return outside


def apply_affine(affine: FloatArray, points_xy: FloatArray) -> FloatArray:
    """Map points (..., 2) by an affine (2, 3); NaN stays NaN. float64 in, float64 out."""
    result: FloatArray = points_xy @ affine[:, :2].T + affine[:, 2]
    return result


def compose(second: FloatArray, first: FloatArray) -> FloatArray:
    """Return the affine that applies `first`, then `second`."""
    linear = second[:, :2] @ first[:, :2]
    offset = second[:, :2] @ first[:, 2] + second[:, 2]
    return np.column_stack([linear, offset])


def invert_affine(affine: FloatArray) -> FloatArray:
    """Return the exact inverse of an affine (2, 3)."""
    linear = np.linalg.inv(affine[:, :2])
    return np.column_stack([linear, -linear @ affine[:, 2]])


def scaling(scale_x: float, scale_y: float) -> FloatArray:
    """Return the affine of x' = (x + 0.5) * s - 0.5 on each axis."""
    return np.array([[scale_x, 0.0, 0.5 * scale_x - 0.5], [0.0, scale_y, 0.5 * scale_y - 0.5]])


def stretch(image_hw: Size, input_hw: Size) -> FloatArray:
    """Map image -> input with a scale of its own for each axis, filling the input."""
    return scaling(input_hw[1] / image_hw[1], input_hw[0] / image_hw[0])


def letterbox(image_hw: Size, input_hw: Size) -> FloatArray:
    """Map image -> input with one scale for both axes, centred, the rest of the input left as margin."""
    scale = min(input_hw[0] / image_hw[0], input_hw[1] / image_hw[1])
    affine = scaling(scale, scale)
    affine[0, 2] += (input_hw[1] - image_hw[1] * scale) / 2
    affine[1, 2] += (input_hw[0] - image_hw[0] * scale) / 2
    return affine


RESIZES = {"letterbox": letterbox, "stretch": stretch}


@dataclass(frozen=True)
class CropFrame:
    """The part of an image that a crop around a landmark covers, in `side_px` x `side_px` crop pixels.

    A crop pixel is `mm_per_px` millimeters if the image's pixel size is known; else a crop's side is `share`
    of the image's mean side. It is never finer than the image's own pixels. `mm_per_px` is None if the
    network has only seen crops by share: then a known pixel size is not used.
    """

    side_px: int
    mm_per_px: float | None
    share: float

    @property
    def hw(self) -> Size:
        """Height and width in crop pixels."""
        return (self.side_px, self.side_px)

    def image_px_per_px_xy(self, image_hw: Size, mm_per_px_xy: FloatArray) -> FloatArray:
        """Return image pixels per crop pixel, (2,), for an image with this pixel size (NaN if unknown)."""
        if self.mm_per_px is not None and np.isfinite(mm_per_px_xy).all():
            scale_xy = self.mm_per_px / np.asarray(mm_per_px_xy, np.float64)
        else:
            scale_xy = np.full(2, self.share * (image_hw[0] + image_hw[1]) / 2 / self.side_px)
        # an axis at the limit scales the other one too, so that the crop keeps its proportions
        return scale_xy * max(1.0, 1.0 / float(scale_xy.min()))

    def affine(self, centre_xy_image: FloatArray, image_px_per_px_xy: FloatArray) -> FloatArray:
        """Map image -> crop: the point `centre_xy_image` (2,) comes to the crop's middle."""
        scale = 1.0 / image_px_per_px_xy
        offset = (self.side_px - 1) / 2 - centre_xy_image * scale
        return np.column_stack([np.diag(scale), offset])


def rotate_scale_shift(
    frame_hw: Size, degrees: float, scale: float, shift_xy: tuple[float, float]
) -> FloatArray:
    """Rotate and scale about the centre of a frame, then shift, in pixels of the frame."""
    centre = np.array([(frame_hw[1] - 1) / 2, (frame_hw[0] - 1) / 2])
    angle = np.deg2rad(degrees)
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.column_stack([linear, centre - linear @ centre + np.asarray(shift_xy)])


def mirror(frame_hw: Size) -> FloatArray:
    """Return the affine that swaps left and right of a frame."""
    return np.array([[-1.0, 0.0, frame_hw[1] - 1.0], [0.0, 1.0, 0.0]])


def displace_points(points_xy: FloatArray, displacement: FloatArray) -> FloatArray:
    """Move points (..., 2) of a frame as a picture moves whose pixel x shows what was at x + displacement(x).

    `displacement` is (h, w, 2), (x, y) in pixels, and smooth: steps of the fixed point p = q -
    displacement(p) then shrink by its steepest slope each. NaN stays NaN; outside the frame the border's
    displacement holds.
    """
    moved = points_xy.astype(np.float64)
    for _ in range(20):
        moved = points_xy - _sample_bilinear(displacement, moved)
    return moved


def _sample_bilinear(field: FloatArray, points_xy: FloatArray) -> FloatArray:
    limits = np.array([field.shape[1] - 1, field.shape[0] - 1], np.float64)
    inside_xy = np.clip(np.nan_to_num(points_xy), 0, limits)
    low = np.minimum(inside_xy.astype(np.int64), limits.astype(np.int64) - 1)
    share_x, share_y = np.moveaxis(inside_xy - low, -1, 0)[..., None]
    x, y = low[..., 0], low[..., 1]
    above = field[y, x] * (1 - share_x) + field[y, x + 1] * share_x
    below = field[y + 1, x] * (1 - share_x) + field[y + 1, x + 1] * share_x
    result: FloatArray = above * (1 - share_y) + below * share_y
    return result


def square_unit_xy(mm_per_px_xy: FloatArray) -> FloatArray:
    """Return the factors (N, 2) that give both axes of an image one unit: mm per pixel, or 1 if unknown."""
    is_known = np.isfinite(mm_per_px_xy).all(axis=1, keepdims=True)
    unit: FloatArray = np.where(is_known, mm_per_px_xy, 1.0)
    return unit


def mean_scale(affine: FloatArray) -> float:
    """Return the factor by which an affine scales lengths on average: the root of its determinant."""
    return float(np.sqrt(abs(np.linalg.det(affine[:, :2]))))


def inside(points_xy: FloatArray, frame_hw: Size) -> BoolArray:
    """Find the points (..., 2) that lie within a frame; NaN lies outside."""
    x, y = points_xy[..., 0], points_xy[..., 1]
    result: BoolArray = (x >= -0.5) & (x <= frame_hw[1] - 0.5) & (y >= -0.5) & (y <= frame_hw[0] - 0.5)
    return result
