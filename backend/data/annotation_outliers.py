"""Finds landmarks worth a second look: unlikely beside the image's other landmarks, or far apart between two
readers.

Distances are in original pixels and, where the pixel size is known, in mm.
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
SWAP_SHARE = 1 / 3  # exchanged, two swapped landmarks are at most this share as far off
LEAST_PX = 3.0  # nearer than this nothing can be seen or corrected


@dataclass(frozen=True)
class AnnotationOutlier:
    """A landmark of an image, both as positions, and why it is doubted.

    `expected_xy_image`: where it is expected from the other landmarks, where that is known. `swapped_with`:
    the landmark with which it seems to have changed places. `reader`: the one whose point is farther from the
    expected place.
    """

    row: int
    landmark: int
    reason: Reason
    score: float  # in units of the usual distance of this landmark
    distance_px: float
    distance_mm: float  # NaN where the spacing is unknown
    expected_xy_image: tuple[float, float] | None = None
    swapped_with: int | None = None
    reader: int | None = None


@dataclass(frozen=True)
class AnnotationOutliers:
    """The doubtful landmarks, worst first, at most one entry per landmark and image."""

    found: tuple[AnnotationOutlier, ...]
    knows_shapes: bool  # False: too few images or landmarks to know likely shapes
    expected_xy_image: FloatArray  # (N, K, 2), NaN where nothing is expected


def find_outliers(readers_xy_image: FloatArray, mm_per_px_xy: FloatArray) -> AnnotationOutliers:
    """Judge the points (N, R, K, 2) of R readers, original pixels, with pixel sizes (N, 2) in mm or NaN."""
    mean_xy = mean_of_readers(readers_xy_image).astype(np.float64)
    proportions = square_unit_xy(mm_per_px_xy)
    check = check_shapes(mean_xy * proportions[:, None])
    if check is None:
        expected, of_shapes = np.full(mean_xy.shape, np.nan), []
    else:
        expected = check.expected_xy / proportions[:, None]
        of_shapes = _of_shapes(mean_xy, expected, check, mm_per_px_xy)
    found = [
        *of_shapes,
        *_of_readers(readers_xy_image.astype(np.float64), expected, mm_per_px_xy),
    ]
    return AnnotationOutliers(_worst_first(found), check is not None, expected)


def _of_shapes(
    mean_xy: FloatArray, expected: FloatArray, check: ShapeCheck, mm_per_px_xy: FloatArray
) -> list[AnnotationOutlier]:
    """The landmarks that are unlikely beside the others of their image; of two swapped ones the worse."""
    px, mm = _distances(mean_xy, expected, mm_per_px_xy)
    doubted = (check.score > DISTRUST_SCORE) & (px > LEAST_PX)
    found = []
    for row, k in np.argwhere(doubted).tolist():
        other = int(check.partner[row, k])
        if other >= 0 and doubted[row, other] and check.score[row, other] > check.score[row, k]:
            continue
        # two swapped landmarks spoil each other's expected place: each belongs where the other one is marked
        place = mean_xy[row, other] if other >= 0 else expected[row, k]
        found.append(
            AnnotationOutlier(
                row, k, "shape", check.score[row, k], px[row, k], mm[row, k], _pair(place),
                other if other >= 0 else None,
            )
        )  # fmt: skip
    return found


def _of_readers(
    readers_xy: FloatArray, expected: FloatArray, mm_per_px_xy: FloatArray
) -> list[AnnotationOutlier]:
    """The landmarks at which two readers are unusually far apart."""
    found: list[AnnotationOutlier] = []
    for first, second in combinations(range(readers_xy.shape[1]), 2):
        one, other = readers_xy[:, first], readers_xy[:, second]
        px, mm = _distances(one, other, mm_per_px_xy)
        score = robust_scores(np.where(np.isfinite(mm), mm, px))
        doubted = (score > DISTRUST_SCORE) & (px > LEAST_PX)
        from_expected = np.stack([np.linalg.norm(points - expected, axis=-1) for points in (one, other)])
        pairs: list[AnnotationOutlier] = []
        for row, k in np.argwhere(doubted).tolist():
            farther = from_expected[:, row, k]
            whose = (first, second)[int(farther.argmax())] if np.isfinite(farther).all() else None
            pairs.append(
                AnnotationOutlier(
                    row,
                    k,
                    "readers",
                    score[row, k],
                    px[row, k],
                    mm[row, k],
                    _pair(expected[row, k]),
                    None,
                    whose,
                )
            )
        found += _join_swapped(pairs, one, other)
    return found


def _join_swapped(
    found: list[AnnotationOutlier], actual_xy: FloatArray, wanted_xy: FloatArray
) -> list[AnnotationOutlier]:
    """Two doubted landmarks of one image, each where the other one should be, become one entry."""
    by_row: dict[int, list[AnnotationOutlier]] = {}
    for outlier in found:
        by_row.setdefault(outlier.row, []).append(outlier)
    joined: list[AnnotationOutlier] = []
    for row, outliers in by_row.items():
        gone: set[int] = set()
        for one, other in combinations(sorted(outliers, key=lambda outlier: -outlier.score), 2):
            if not gone & {one.landmark, other.landmark} and _are_swapped(
                actual_xy[row, [one.landmark, other.landmark]], wanted_xy[row, [one.landmark, other.landmark]]
            ):
                gone |= {one.landmark, other.landmark}
                joined.append(replace(one, swapped_with=other.landmark))
        joined += [outlier for outlier in outliers if outlier.landmark not in gone]
    return joined


def _are_swapped(actual_xy: FloatArray, wanted_xy: FloatArray) -> bool:
    """Whether two points (2, 2) fit much better the other way round."""
    as_they_are = np.linalg.norm(actual_xy - wanted_xy, axis=-1)
    exchanged = np.linalg.norm(actual_xy[::-1] - wanted_xy, axis=-1)
    return bool((exchanged <= SWAP_SHARE * as_they_are).all())


def _distances(
    one_xy: FloatArray, other_xy: FloatArray, mm_per_px_xy: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """(N, K) in pixels and in mm."""
    difference = one_xy - other_xy
    return np.linalg.norm(difference, axis=-1), np.linalg.norm(difference * mm_per_px_xy[:, None], axis=-1)


def _worst_first(found: Iterable[AnnotationOutlier]) -> tuple[AnnotationOutlier, ...]:
    """By falling score, each landmark of an image once."""
    worst: dict[tuple[int, int], AnnotationOutlier] = {}
    for outlier in sorted(found, key=lambda outlier: -outlier.score):
        worst.setdefault((outlier.row, outlier.landmark), outlier)
    return tuple(worst.values())


def _pair(point: FloatArray) -> tuple[float, float] | None:
    return (float(point[0]), float(point[1])) if np.isfinite(point).all() else None
