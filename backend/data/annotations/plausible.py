"""Finds coordinates that cannot be pixels of a data set's images.

They have another unit, exchanged axes, one template for all images, or zeros for missing landmarks. N images,
R readers, K landmarks; points (N, R, K, 2) are original image pixels, NaN if missing; sizes (N, 2) are
(height, width), px. Each reader is judged separately, because each may have used another tool; what is true
of all is reported once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from backend.data.annotations.table import Problem
from backend.geometry import outside_image

Points = npt.NDArray[np.float64]
Sizes = npt.NDArray[np.int64]
Finding = tuple[str, str]  # what, and its cure

MIN_POINTS = 3  # fewer landmarks in all images may lie anywhere
MIN_IMAGES = 3  # in fewer images equal coordinates are no sign
MIN_ZERO_IMAGES = 2
MOSTLY = 0.5  # share of the landmarks
# share and number of the landmarks outside that are enough if exchanging the axes brings every one inside
SWAPPED = 0.1
MIN_SWAPPED = 5
TINY_SIDE_PX = 2  # in images up to this size pixels are no larger than shares
PERCENT_SIDE_PX = 200  # the same of percent
SLACK = 0.05  # of a unit's span: landmarks may lie a little outside their image


@dataclass(frozen=True)
class Verdict:
    """Problems, and the readers whose landmarks outside their images one of them explains."""

    problems: tuple[Problem, ...] = ()
    explained_readers: frozenset[int] = frozenset()


def mask_zeros(points: Points, landmark_names: Sequence[str], where: str) -> tuple[Points, Problem | None]:
    """Mask landmarks at exactly (0, 0) if two images have one: many tools write missing ones so."""
    at_zero = np.all(points == 0, axis=-1)
    num_images = int(np.any(at_zero, axis=(1, 2)).sum())
    if num_images < MIN_ZERO_IMAGES:
        return points, None
    counts = np.any(at_zero, axis=1).sum(axis=0)
    named = ", ".join(
        f"{name} in {count}" for name, count in zip(landmark_names, counts, strict=True) if count
    )
    problem = Problem(
        where,
        f"landmarks at exactly (0, 0) in {num_images} images are taken as missing: {named}",
        "leave the coordinates of a missing landmark empty (COCO: visibility 0)",
    )
    return np.where(at_zero[..., None], np.nan, points), problem


def judge(points: Points, sizes_hw: Sizes, reader_names: Sequence[str], where: str) -> Verdict:
    """Find everything that is implausible about the coordinates of a data set."""
    problems: list[Problem] = []
    explained: set[int] = set()
    for find in (_find_shares, _find_percent, _find_outside, _find_same):
        findings = _find_by_reader(find, points, sizes_hw, reader_names)
        for readers, (what, cure) in findings.items():
            names = ", ".join(reader_names[reader] for reader in readers)
            message = what if len(readers) == len(reader_names) else f"of {names}: {what}"
            problems.append(Problem(where, message, cure, stops_training=find is not _find_same))
        if find is _find_outside:
            explained = {reader for readers in findings for reader in readers}
    return Verdict(tuple(problems), frozenset(explained))


def _find_by_reader(
    find: Callable[[Points, Sizes], Finding | None],
    points: Points,
    sizes_hw: Sizes,
    reader_names: Sequence[str],
) -> dict[tuple[int, ...], Finding]:
    """Map readers to findings about them: a single one if it is true of all who marked anything."""
    findings: dict[tuple[int, ...], Finding] = {}
    for reader in range(len(reader_names)):
        if (finding := find(points[:, [reader]], sizes_hw)) is not None:
            findings[(reader,)] = finding
    if len(reader_names) == 1:
        return findings
    active_readers = np.flatnonzero(np.isfinite(points).any(axis=(0, 2, 3)))
    common = find(points, sizes_hw) if len(findings) == len(active_readers) else None
    return findings if common is None else {tuple(range(len(reader_names))): common}


def _find_shares(points: Points, sizes_hw: Sizes) -> Finding | None:
    what = _fits_unit(points, sizes_hw, 1.0, TINY_SIDE_PX)
    cure = "multiply x by the width and y by the height of each image"
    return (f"{what}: shares of the image, not pixels", cure) if what else None


def _find_percent(points: Points, sizes_hw: Sizes) -> Finding | None:
    if _find_shares(points, sizes_hw):
        return None
    what = _fits_unit(points, sizes_hw, 100.0, PERCENT_SIDE_PX)
    cure = "multiply x by the width and y by the height of each image, and divide by 100"
    return (f"{what}: percent of the image, not pixels", cure) if what else None


def _fits_unit(points: Points, sizes_hw: Sizes, span: float, side_px: int) -> str:
    """Describe coordinates that are all in a unit's span, in images with longer sides; "" for others."""
    finite = points[np.isfinite(points).all(axis=-1)]
    if len(finite) < MIN_POINTS or sizes_hw.min() <= side_px:
        return ""
    if finite.min() < -SLACK * span or finite.max() > (1 + SLACK) * span:
        return ""
    x, y = finite.max(axis=0)
    height, width = sizes_hw.min(axis=0)
    images = f"images of at least {width} x {height} px"
    return f"all coordinates lie within 0 to {span:g}, and reach ({x:.4g}, {y:.4g}), in {images}"


def _find_outside(points: Points, sizes_hw: Sizes) -> Finding | None:
    """Find landmarks that are mostly outside of their images, or all inside once x and y are exchanged."""
    is_finite = np.isfinite(points).all(axis=-1)
    num = int(is_finite.sum())
    if num < MIN_POINTS or sizes_hw.max() <= TINY_SIDE_PX:
        return None
    outside, swapped = (outside_image(xy, sizes_hw[:, None, None]) for xy in (points, points[..., ::-1]))
    share, share_swapped = outside.sum() / num, swapped.sum() / num
    only_swapped_fits = share >= SWAPPED and outside.sum() >= MIN_SWAPPED and share_swapped == 0
    if share <= MOSTLY and not only_swapped_fits:
        return None
    lost = int((np.any(is_finite, axis=(1, 2)) & ~np.any(is_finite & ~outside, axis=(1, 2))).sum())
    none_left = f" (in {lost} images none is left)" if lost else ""
    what = f"{outside.sum()} of {num} landmarks lie outside their images and are masked{none_left}"
    if share_swapped <= SWAPPED:
        inside = "all" if share_swapped == 0 else f"{num - swapped.sum()}"
        return f"{what}; {inside} lie inside once x and y change places", "exchange x and y"
    (low_x, low_y), (high_x, high_y) = points[is_finite].min(axis=0), points[is_finite].max(axis=0)
    height, width = sizes_hw.max(axis=0)
    reach = (
        f"from ({low_x:g}, {low_y:g}) to ({high_x:g}, {high_y:g}) in images of at most {width} x {height} px"
    )
    why = "another unit than pixels, or pixels of images of another size or crop"
    return f"{what}; they reach {reach}: {why}", "write pixels of exactly these images"


def _find_same(points: Points, sizes_hw: Sizes) -> Finding | None:
    """Find landmarks that are all at one place in all images."""
    is_finite = np.isfinite(points).all(axis=-1)
    if is_finite.sum(axis=0).max(initial=0) < MIN_IMAGES:
        return None
    first = np.take_along_axis(points, is_finite.argmax(axis=0)[None, ..., None], axis=0)
    if (points != first)[is_finite].any():
        return None
    num_images = int(np.any(is_finite, axis=(1, 2)).sum())
    return (
        f"every landmark has the same coordinates in all {num_images} images",
        "check that they are not those of one image, or of a template that was never moved",
    )
