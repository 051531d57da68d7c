"""Decides on which pixels landmarks were marked: as the file stores them, or as EXIF turns them for display.

Tools differ in this and no format states it, so it is judged over a whole data set. R readers, K landmarks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from backend.data.annotations.table import Problem
from backend.data.images import ImageFrame
from backend.geometry import outside_image

Points = npt.NDArray[np.float64]
_MARGIN_PX = 1.0  # tools write a point on the edge of an image up to a pixel beyond it
_CURE = "if landmarks are not on what they mark (Data tab), store the images upright, without an orientation"

# EXIF orientation -> what turns the stored pixels upright: x and y change places, then x and y run backwards
_TURNS = {
    1: (False, False, False),
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}


@dataclass(frozen=True)
class MarkedImage:
    """The points (R, K, 2) of an image as written, NaN missing, and the size written beside them."""

    points_xy: Points
    frame: ImageFrame
    written_hw: tuple[float, float] | None = None


def turn_points(points_xy: Points, frame: ImageFrame) -> Points:
    """Turn points (..., 2) on the stored pixels to those of the image as it is read; NaN stays NaN."""
    swaps, reverses_x, reverses_y = _TURNS[frame.orientation]
    turned = points_xy[..., ::-1].copy() if swaps else points_xy.copy()
    height, width = frame.size_hw
    if reverses_x:
        turned[..., 0] = width - 1 - turned[..., 0]
    if reverses_y:
        turned[..., 1] = height - 1 - turned[..., 1]
    return turned


def judge_orientation(images: Sequence[MarkedImage], where: str) -> tuple[bool, Problem | None]:
    """Decide whether the landmarks were marked on the stored pixels; return also the problem to report.

    All images that are read turned are judged together: one that looks the same either way, such as one
    turned upside down, follows the others. If the landmarks do not decide it, the sizes written beside them
    do; otherwise they are taken as marked on the turned image, as viewers show it.
    """
    turned = [image for image in images if image.frame.is_turned and _fits_at_all(image)]
    if not turned:
        return False, None
    only_stored = sum(_fits_only(image, image.frame.stored_hw, image.frame.size_hw) for image in turned)
    only_read = sum(_fits_only(image, image.frame.size_hw, image.frame.stored_hw) for image in turned)
    on_stored, why = _weigh(only_stored, only_read, *_count_written(turned))
    if not why:
        return on_stored, None
    taken = "made on the stored pixels, and turned with them" if on_stored else "made on the turned ones"
    num = f"{len(turned)} of {len(images)}"
    what = f"EXIF turns {num} images; their landmarks {why}; they are taken as {taken}"
    return on_stored, Problem(where, what, _CURE)


def _weigh(only_stored: int, only_read: int, written_stored: int, written_read: int) -> tuple[bool, str]:
    """Decide by numbers of images, and say why; no reason if all agree with the usual frame."""
    if only_stored and only_read:
        why = f"fit only the stored pixels in {only_stored} of them, only the turned ones in {only_read}"
        return only_stored > only_read, why
    if only_stored:
        return True, "fit only the stored pixels, not the turned ones"
    if only_read and written_stored:
        return False, "fit only the turned pixels, though the sizes written beside them are the stored ones"
    if only_read:
        return False, ""
    if written_stored and not written_read:
        return True, "fit the stored and the turned pixels, and the sizes written beside them the stored ones"
    return False, "fit the stored and the turned pixels"


def _fits_at_all(image: MarkedImage) -> bool:
    """Whether some landmark is inside one of the two frames; otherwise neither explains the landmarks."""
    known = image.points_xy[np.isfinite(image.points_xy).all(axis=-1)]
    outside = [outside_image(known, hw) for hw in (image.frame.size_hw, image.frame.stored_hw)]
    return not np.logical_and(*outside).all()


def _fits_only(image: MarkedImage, hw: tuple[int, int], other_hw: tuple[int, int]) -> bool:
    """Whether some landmark lies inside a frame of the first size, and clearly outside one of the other."""
    inside = np.isfinite(image.points_xy).all(axis=-1) & ~outside_image(image.points_xy, hw)
    return bool((inside & outside_image(image.points_xy, other_hw, _MARGIN_PX)).any())


def _count_written(images: Sequence[MarkedImage]) -> tuple[int, int]:
    """Count the written sizes that fit only the stored pixels, and those that fit only the turned image."""
    frames = [(image.written_hw, image.frame.stored_hw, image.frame.size_hw) for image in images]
    stored = sum(written == stored != read for written, stored, read in frames)
    return stored, sum(written == read != stored for written, stored, read in frames)
