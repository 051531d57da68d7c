"""Compare two runs on the same images: the difference of their errors, and whether it may be chance.

The difference is taken landmark by landmark on each image, so that what makes an image hard for both cancels
out, and tested over cases (images, or patients or videos) by flipping signs. What is compared are the records
that `backend.evaluate` writes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from backend.errors import UserError
from backend.evaluation.cases import CaseKind, Cases, cases_of_record, sum_by_case
from backend.evaluation.record import DECIMALS, Record
from backend.evaluation.sign_flip import (
    ALPHA,
    Splits,
    adjust_by_holm,
    holm_level,
    least_cases,
    split_cases,
)
from backend.evaluation.statistics import Unit
from backend.geometry import FloatArray

SCALE = 10**DECIMALS  # makes whole numbers of differences, so that equal sums are equal
Verdict = Literal["better", "worse", "open", "too_few"]


@dataclass(frozen=True)
class Difference:
    """Mean errors over the points that both runs were measured on; `difference` is second less first.

    `p` is the sign-flip test's, of a landmark corrected for the number of landmarks; `interval` holds all
    differences that the same test would not reject. Both are None if there are fewer than `least_cases`
    cases, too few for any significant result.
    """

    first: float
    second: float
    difference: float
    num_cases: int
    least_cases: int
    p: float | None
    interval: tuple[float, float] | None

    @property
    def verdict(self) -> Verdict:
        """Whether the second run is better or worse.

        `open` if the interval contains 0, `too_few` if there are too few cases to test.
        """
        if self.interval is None:
            return "too_few"
        if self.interval[0] <= 0 <= self.interval[1]:
            return "open"
        return "better" if self.difference < 0 else "worse"


@dataclass(frozen=True)
class PairedComparison:
    """The difference of two runs over all landmarks, and by landmark, the most improved first.

    `cases_known`: whether the records say which images belong together; else each is a case. The interval of
    a landmark is at `landmark_share`, at which Holm's correction ended; that over all landmarks at 95 %.
    """

    unit: Unit
    num_images: int
    case_kind: CaseKind
    cases_known: bool
    overall: Difference
    per_landmark: dict[str, Difference]
    landmark_share: float


def compare_records(first: Record, second: Record) -> PairedComparison:
    """Compare two records on the images and landmarks that are in both, in mm if both are.

    Raises UserError if they were measured against different truths, or have nothing in common.
    """
    _check_comparable(first, second)
    unit: Unit = "mm" if first["unit"] == second["unit"] == "mm" else "px"
    names = [name for name in first["per_landmark"] if name in second["per_landmark"]]
    # sorted: either order of the runs meets the same random selection of splits
    image_ids = sorted({*first["errors"]["image_ids"]} & {*second["errors"]["image_ids"]})
    first_errors = _read_errors(first, unit, image_ids, names)
    second_errors = _read_errors(second, unit, image_ids, names)
    in_both = np.isfinite(first_errors) & np.isfinite(second_errors)
    if not in_both.any():
        raise UserError(
            "the two have no image and landmark in common", cure="evaluate both on the same split"
        )
    recorded = _find_recorded_cases(first, second, image_ids)
    cases = recorded if recorded is not None else Cases("image", np.arange(len(image_ids)))
    shared = np.flatnonzero(in_both.any(axis=0))
    overall, landmarks, level = _compare_errors(
        np.where(in_both, first_errors, np.nan)[:, shared],
        np.where(in_both, second_errors, np.nan)[:, shared],
        cases,
    )
    named = zip((names[k] for k in shared), landmarks, strict=True)
    return PairedComparison(
        unit=unit,
        num_images=int(in_both.any(axis=1).sum()),
        case_kind=cases.kind,
        cases_known=recorded is not None,
        overall=overall,
        per_landmark=dict(sorted(named, key=lambda item: item[1].difference)),
        landmark_share=1 - level,
    )


def _check_comparable(first: Record, second: Record) -> None:
    """Raise UserError if two records are not of the same split and ground truth."""
    for what, of_first, of_second in (
        ("data sets", first["about"]["dataset"], second["about"]["dataset"]),
        ("splits", first["about"]["split"], second["about"]["split"]),
        ("truths", first["readers"]["truth"], second["readers"]["truth"]),
    ):
        if of_first != of_second:
            raise UserError(
                f"the two were measured on different {what}, {of_first} and {of_second}",
                cure="evaluate both runs on the same split with the same ground truth",
            )


def _read_errors(record: Record, unit: Unit, image_ids: list[str], names: list[str]) -> FloatArray:
    """Return the record's errors (N, K), images and landmarks in the given order; NaN if unknown."""
    rows = {image_id: row for row, image_id in enumerate(record["errors"]["image_ids"])}
    columns = {name: column for column, name in enumerate(record["per_landmark"])}
    values = np.array(record["errors"][unit], np.float64).reshape(len(rows), len(columns))
    return values[np.ix_([rows[image_id] for image_id in image_ids], [columns[name] for name in names])]


def _find_recorded_cases(first: Record, second: Record, image_ids: list[str]) -> Cases | None:
    """Return the cases that either record has; None if neither has any.

    Raises UserError if both have cases and they differ.
    """
    of_first, of_second = cases_of_record(first, image_ids), cases_of_record(second, image_ids)
    if of_first is None or of_second is None:
        return of_first or of_second
    if of_first.numbers.tolist() != of_second.numbers.tolist():
        raise UserError(
            "the two were measured with different patients, videos or devices in the data set",
            cure="evaluate both runs again",
        )
    return of_first


def _compare_errors(
    first: FloatArray, second: FloatArray, cases: Cases
) -> tuple[Difference, list[Difference], float]:
    """Return the difference over all landmarks, that of each, and the alpha at which each was tested.

    The errors are (N, K), NaN at the same places.
    """
    sums, counts = sum_by_case(np.round((second - first) * SCALE), cases.numbers)
    overall_sums, overall_counts = sums.sum(axis=1), counts.sum(axis=1)
    # in one call, so that all tests examine the same splits
    overall_splits, *landmark_splits = split_cases(
        np.column_stack([overall_sums, sums]), np.column_stack([overall_counts, counts])
    )
    overall = _test_overall(first, second, overall_splits, int((overall_counts > 0).sum()))
    landmarks, level = _test_landmarks(first, second, landmark_splits, (counts > 0).sum(axis=0).tolist())
    return overall, landmarks, level


def _test_overall(first: FloatArray, second: FloatArray, splits: Splits, num_cases: int) -> Difference:
    least = least_cases(1)
    p = splits.p if num_cases >= least else None
    return _describe(first, second, splits, num_cases=num_cases, least_cases=least, p=p, alpha=ALPHA)


def _test_landmarks(
    first: FloatArray, second: FloatArray, splits: list[Splits], num_cases: list[int]
) -> tuple[list[Difference], float]:
    """Test each column of (N, K) errors; also return the alpha at which Holm's correction ended."""
    landmarks = range(len(splits))
    least = least_cases(len(splits))
    tested = [k for k in landmarks if num_cases[k] >= least]
    level = holm_level([splits[k] for k in tested])
    p_values = dict(zip(tested, adjust_by_holm([splits[k].p for k in tested]), strict=True))
    differences = [
        _describe(
            first[:, k],
            second[:, k],
            splits[k],
            num_cases=num_cases[k],
            least_cases=least,
            p=p_values.get(k),
            alpha=level,
        )
        for k in landmarks
    ]
    return differences, level


def _describe(
    first: FloatArray,
    second: FloatArray,
    splits: Splits,
    *,
    num_cases: int,
    least_cases: int,
    p: float | None,
    alpha: float,
) -> Difference:
    """Build the record of one test, of errors of any shape; a `p` of None means that it was not made."""
    first_mean, second_mean = float(np.nanmean(first)), float(np.nanmean(second))
    low, high = splits.interval(alpha)
    return Difference(
        first=first_mean,
        second=second_mean,
        difference=second_mean - first_mean,
        num_cases=num_cases,
        least_cases=least_cases,
        p=p,
        interval=None if p is None else (low / SCALE, high / SCALE),
    )
