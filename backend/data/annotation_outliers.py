"""Finds doubtful annotations: unlikely beside the image's other landmarks, or far apart between two readers.

Distances are in original pixels and, if the pixel size is known, in mm.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

import numpy as np

from backend.data.annotations import mean_of_readers
from backend.data.shape import DISTRUST_SCORE, ShapeCheck, check_shapes, robust_scores
from backend.geometry import FloatArray, square_unit_xy

Reason = Literal["shape", "readers"]
SWAP_SHARE = 1 / 3  # exchanging two landmarks must reduce both distances to this share
MIN_DISTANCE_PX = 3.0  # less than this can be neither seen nor corrected


@dataclass(frozen=True)
class AnnotationOutlier:
    """A doubtful landmark, with the row of its image, and the reason.

    `expected_xy_image`: the place that the other landmarks suggest, if it is known. `swapped_with`: the
    landmark with which it seems to be exchanged. `reader`: of two that differ, the one farther from the
    expected place.
    """

    row: int
    landmark: int
    reason: Reason
    score: float  # in units of the usual distance of this landmark
    distance_px: float
    distance_mm: float  # NaN if the spacing is unknown
    expected_xy_image: tuple[float, float] | None = None
    swapped_with: int | None = None
    reader: int | None = None


@dataclass(frozen=True)
class AnnotationOutliers:
    """Doubtful landmarks, worst first, each landmark of an image at most once."""

    outliers: tuple[AnnotationOutlier, ...]
    knows_shapes: bool  # False: too few images or landmarks to know likely shapes
    expected_xy_image: FloatArray  # (N, K, 2), NaN if unknown


def find_outliers(readers_xy_image: FloatArray, mm_per_px_xy: FloatArray) -> AnnotationOutliers:
    """Judge the points (N, R, K, 2) of R readers, original pixels, with pixel sizes (N, 2) in mm or NaN."""
    mean_xy = mean_of_readers(readers_xy_image).astype(np.float64)
    proportions = square_unit_xy(mm_per_px_xy)
    check = check_shapes(mean_xy * proportions[:, None])
    if check is None:
        expected, unlikely = np.full(mean_xy.shape, np.nan), []
    else:
        expected = check.expected_xy / proportions[:, None]
        unlikely = _find_unlikely(mean_xy, expected, check, mm_per_px_xy)
    disputed = _find_disputed(readers_xy_image.astype(np.float64), expected, mm_per_px_xy)
    return AnnotationOutliers(_sort_worst_first([*unlikely, *disputed]), check is not None, expected)


def _find_unlikely(
    mean_xy: FloatArray, expected: FloatArray, check: ShapeCheck, mm_per_px_xy: FloatArray
) -> list[AnnotationOutlier]:
    """Find landmarks that are unlikely beside the others of their image; of two swapped ones, the worse."""
    px, mm = _distances(mean_xy, expected, mm_per_px_xy)
    is_doubtful = (check.score > DISTRUST_SCORE) & (px > MIN_DISTANCE_PX)
    outliers = []
    for row, k in np.argwhere(is_doubtful).tolist():
        partner = int(check.partner[row, k])
        if partner >= 0 and is_doubtful[row, partner] and check.score[row, partner] > check.score[row, k]:
            continue
        # two swapped landmarks spoil each other's expected place: each belongs where the other one is marked
        place = mean_xy[row, partner] if partner >= 0 else expected[row, k]
        outliers.append(
            AnnotationOutlier(
                row=row,
                landmark=k,
                reason="shape",
                score=check.score[row, k],
                distance_px=px[row, k],
                distance_mm=mm[row, k],
                expected_xy_image=_to_pair(place),
                swapped_with=partner if partner >= 0 else None,
            )
        )
    return outliers


def _find_disputed(
    readers_xy: FloatArray, expected: FloatArray, mm_per_px_xy: FloatArray
) -> list[AnnotationOutlier]:
    """Find landmarks at which two readers are unusually far apart."""
    outliers: list[AnnotationOutlier] = []
    for first, second in combinations(range(readers_xy.shape[1]), 2):
        first_xy, second_xy = readers_xy[:, first], readers_xy[:, second]
        px, mm = _distances(first_xy, second_xy, mm_per_px_xy)
        score = robust_scores(np.where(np.isfinite(mm), mm, px))
        is_doubtful = (score > DISTRUST_SCORE) & (px > MIN_DISTANCE_PX)
        from_expected = np.stack([np.linalg.norm(xy - expected, axis=-1) for xy in (first_xy, second_xy)])
        disputed: list[AnnotationOutlier] = []
        for row, k in np.argwhere(is_doubtful).tolist():
            distances = from_expected[:, row, k]
            farther = (first, second)[int(distances.argmax())] if np.isfinite(distances).all() else None
            disputed.append(
                AnnotationOutlier(
                    row=row,
                    landmark=k,
                    reason="readers",
                    score=score[row, k],
                    distance_px=px[row, k],
                    distance_mm=mm[row, k],
                    expected_xy_image=_to_pair(expected[row, k]),
                    reader=farther,
                )
            )
        outliers += _join_swapped(disputed, first_xy, second_xy)
    return outliers


def _join_swapped(
    outliers: list[AnnotationOutlier], first_xy: FloatArray, second_xy: FloatArray
) -> list[AnnotationOutlier]:
    """Join two outliers of one image into one entry if one reader exchanged the landmarks."""
    by_row: dict[int, list[AnnotationOutlier]] = {}
    for outlier in outliers:
        by_row.setdefault(outlier.row, []).append(outlier)
    joined: list[AnnotationOutlier] = []
    for row, in_image in by_row.items():
        swapped: set[int] = set()
        for worse, better in combinations(sorted(in_image, key=lambda outlier: -outlier.score), 2):
            pair = [worse.landmark, better.landmark]
            if not swapped & {*pair} and _are_swapped(first_xy[row, pair], second_xy[row, pair]):
                swapped |= {*pair}
                joined.append(replace(worse, swapped_with=better.landmark))
        joined += [outlier for outlier in in_image if outlier.landmark not in swapped]
    return joined


def _are_swapped(first_xy: FloatArray, second_xy: FloatArray) -> bool:
    """Whether one reader's two points (2, 2) fit the other's much better if they are exchanged."""
    distances = np.linalg.norm(first_xy - second_xy, axis=-1)
    exchanged = np.linalg.norm(first_xy[::-1] - second_xy, axis=-1)
    return bool((exchanged <= SWAP_SHARE * distances).all())


def _distances(a_xy: FloatArray, b_xy: FloatArray, mm_per_px_xy: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the distances (N, K) in pixels and in mm."""
    difference = a_xy - b_xy
    return np.linalg.norm(difference, axis=-1), np.linalg.norm(difference * mm_per_px_xy[:, None], axis=-1)


def _sort_worst_first(outliers: Iterable[AnnotationOutlier]) -> tuple[AnnotationOutlier, ...]:
    """Sort by falling score, and keep each landmark of an image once."""
    worst: dict[tuple[int, int], AnnotationOutlier] = {}
    for outlier in sorted(outliers, key=lambda outlier: -outlier.score):
        worst.setdefault((outlier.row, outlier.landmark), outlier)
    return tuple(worst.values())


def _to_pair(point: FloatArray) -> tuple[float, float] | None:
    return (float(point[0]), float(point[1])) if np.isfinite(point).all() else None
