"""Statistics of a set of errors: mean, spread, shares within a distance, and confidence intervals.

Errors are (N images, M landmarks), NaN if unknown. Intervals are over cases (images, or patients or
videos), since the landmarks of one case are not independent of each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from backend.errors import UserError
from backend.evaluation.cases import Cases, sum_by_case
from backend.evaluation.comparison import Comparison
from backend.evaluation.intervals import Interval, mean_interval, share_interval
from backend.geometry import FloatArray
from backend.training.metrics import RadialErrors, in_one_unit, summarize, within

Unit = Literal["mm", "px"]
Statistics = dict[str, Any]  # as `describe` returns them

INTERVAL_MM = 2.0  # the SDR that gets an interval, and what counts as an error to be caught
QUANTILE_SHARES = tuple(step / 100 for step in range(101))
MIN_GROUPS, MAX_GROUPS = 2, 20


@dataclass(frozen=True)
class Errors:
    """Distances of N images and M landmarks, also as shares of each image's own length (for the NME)."""

    radial: RadialErrors
    normalized: FloatArray  # (N, M)
    unit: Unit  # in which one axis shows them all
    cases: Cases  # of the images

    @property
    def in_unit(self) -> FloatArray:
        """The errors (N, M) in `unit`."""
        return self.radial.mm if self.unit == "mm" else self.radial.px

    def select_images(self, rows: FloatArray) -> Errors:
        """Select images by position or boolean mask."""
        radial = RadialErrors(self.radial.px[rows], self.radial.mm[rows])
        return Errors(radial, self.normalized[rows], self.unit, self.cases.select_images(rows))

    def select_landmark(self, index: int) -> Errors:
        """Select one landmark, of all images."""
        radial = RadialErrors(self.radial.px[:, [index]], self.radial.mm[:, [index]])
        return Errors(radial, self.normalized[:, [index]], self.unit, self.cases)


def choose_unit(radial: RadialErrors) -> Unit:
    """Return mm if every distance is known in mm, else px: the two are never mixed."""
    return "mm" if np.isfinite(in_one_unit(radial).mm).any() else "px"


def describe(errors: Errors) -> Statistics:
    """Compute MRE, SD, median, SDR, NME, counts, quantiles and 95 % intervals.

    MRE, SD and median are in px and in mm, SDR in mm, the quantiles in the unit of the errors. SD is the
    sample's (over N - 1); `quantiles[i]` is the error that i % of the landmarks do not exceed. None if
    nothing is known, and for an interval of too few cases (see `intervals`).
    """
    result: Statistics = dict(summarize(errors.radial))
    for unit, values in (("px", errors.radial.px), ("mm", errors.radial.mm)):
        finite = values[np.isfinite(values)]
        result[f"sd_{unit}"] = float(finite.std(ddof=1)) if finite.size > 1 else None
        result[f"median_{unit}"] = float(np.median(finite)) if finite.size else None
    normalized = errors.normalized[np.isfinite(errors.normalized)]
    result["nme"] = float(normalized.mean()) if normalized.size else None
    result["num_points"] = int(np.isfinite(errors.radial.px).sum())
    result["num_cases"] = errors.cases.select_images(np.isfinite(errors.radial.px).any(axis=1)).num
    result["quantiles"] = quantiles(errors.in_unit)
    hits = _within(errors.radial.mm, INTERVAL_MM)
    result["interval"] = {
        "mre_px": _interval(mean_interval, errors.radial.px, errors.cases),
        "mre_mm": _interval(mean_interval, errors.radial.mm, errors.cases),
        f"sdr_{INTERVAL_MM:g}mm": _interval(share_interval, hits, errors.cases),
    }
    return result


def quantiles(values: FloatArray) -> list[float] | None:
    """Return the cumulative error curve at 0, 1 ... 100 % of the errors, in exact steps."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return None
    steps = np.quantile(finite, QUANTILE_SHARES, method="inverted_cdf")
    return [float(step) for step in steps]


def norm_lengths_px(comparison: Comparison, landmarks: tuple[str, str] | None) -> FloatArray:
    """Return the length (N,), px, by which the errors of each image are divided for the NME.

    It is the annotated distance of two landmarks, NaN if one of them is missing; else the image's diagonal.
    Raises UserError as `check_nme_landmarks` does.
    """
    if landmarks is None:
        sizes_hw = np.asarray(comparison.samples.sizes_hw, np.float64).reshape(-1, 2)
        return np.asarray(np.hypot(sizes_hw[:, 0], sizes_hw[:, 1]))
    names = comparison.landmark_names
    check_nme_landmarks(landmarks, names)
    truth = comparison.samples.points_xy_image.astype(np.float64)
    first, second = (truth[:, names.index(name)] for name in landmarks)
    length = np.hypot(*(second - first).T)
    return np.asarray(np.where(length > 0, length, np.nan))


def check_nme_landmarks(landmarks: tuple[str, str], names: Sequence[str]) -> None:
    """Raise UserError unless they are two different ones of the names."""
    unknown = [name for name in landmarks if name not in names]
    if unknown or landmarks[0] == landmarks[1]:
        what = f"no landmark {', '.join(unknown)}" if unknown else "the same landmark twice"
        raise UserError(what, field="nme_landmarks", cure=f"name two of {', '.join(names)}")


def group_columns(images: pd.DataFrame) -> dict[str, list[str]]:
    """Return the columns of an images table that sort the images into 2 to 20 groups.

    Each column has the values of all images, which are text; an unknown value is "". Left out: ids, paths,
    kinds of group, a column in which no value occurs twice, and one that sorts the images as an earlier one
    does (the spacings of both axes).
    """
    columns: dict[str, list[str]] = {}
    partitions: set[tuple[int, ...]] = set()
    for column in images.columns.drop(["image_id", "path", "group_kind"], errors="ignore"):
        values = ["" if pd.isna(value) else _format_value(value) for value in images[column]]
        partition = tuple(int(code) for code in pd.factorize(np.array(values, object))[0])
        num_groups = len(set(partition))
        if (
            MIN_GROUPS <= num_groups <= MAX_GROUPS
            and num_groups < len(images)
            and partition not in partitions
        ):
            partitions.add(partition)
            columns[str(column)] = values
    return columns


def _format_value(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _within(values_mm: FloatArray, threshold_mm: float) -> FloatArray:
    """Return 1 for each distance within the threshold, 0 for each beyond it, NaN for each unknown one."""
    return np.where(np.isfinite(values_mm), within(values_mm, threshold_mm), np.nan)


def _interval(
    method: Callable[[FloatArray, FloatArray], Interval | None], values: FloatArray, cases: Cases
) -> Interval | None:
    """Compute an interval over those cases that have a known value among the (N, M) values."""
    sums, counts = (by_case.sum(axis=1) for by_case in sum_by_case(values, cases.numbers))
    return method(sums[counts > 0], counts[counts > 0])
