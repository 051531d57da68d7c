"""Compare two runs on the same images: the difference of their errors, and whether it may be chance.

The difference is taken landmark by landmark on each image, so that what makes an image hard for both cancels
out, and tested over cases (images, or patients or videos) by flipping signs. What is compared are the records
that `backend.evaluate` writes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from backend.errors import UserError
from backend.evaluation.cases import CaseKind, Cases, cases_of_record, sum_by_case
from backend.evaluation.record import DECIMALS
from backend.evaluation.sign_flip import ALPHA, adjust_by_holm, holm_level, least_cases, split_cases
from backend.evaluation.statistics import Unit
from backend.geometry import FloatArray

Verdict = Literal["better", "worse", "open", "too_few"]
Record = Any


@dataclass(frozen=True)
class Difference:
    """Mean errors over the points that both runs were measured on; `difference` is second less first.

    `p` is the sign-flip test's, of a landmark corrected for the number of landmarks; `interval` holds all
    differences that the same test would not reject. Both are None below `least_cases` cases, on which it
    could reject none.
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
        """Of the second run; `open` where the interval holds 0, `too_few` where the cases are."""
        if self.interval is None:
            return "too_few"
        if self.interval[0] <= 0 <= self.interval[1]:
            return "open"
        return "better" if self.difference < 0 else "worse"


@dataclass(frozen=True)
class Paired:
    """Both runs over all landmarks, and by landmark, the most improved first.

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


def compare_records(first: Record, second: Record) -> Paired:
    """Compare two records on the images and landmarks that are in both, in mm where both are.

    Raises UserError where they were measured against different truths, or have nothing in common.
    """
    for what, one, other in (
        ("data sets", first["about"]["dataset"], second["about"]["dataset"]),
        ("splits", first["about"]["split"], second["about"]["split"]),
        ("truths", first["readers"]["truth"], second["readers"]["truth"]),
    ):
        if one != other:
            raise UserError(
                f"the two were measured on different {what}, {one} and {other}",
                cure="evaluate both runs on the same split with the same ground truth",
            )
    unit: Unit = "mm" if first["unit"] == second["unit"] == "mm" else "px"
    names = [name for name in first["per_landmark"] if name in second["per_landmark"]]
    # sorted: either order of the runs meets the same random selection of splits
    image_ids = sorted({*first["errors"]["image_ids"]} & {*second["errors"]["image_ids"]})
    errors = [_errors(record, unit, image_ids, names) for record in (first, second)]
    both = np.isfinite(errors[0]) & np.isfinite(errors[1])
    if not both.any():
        raise UserError(
            "the two have no image and landmark in common", cure="evaluate both on the same split"
        )
    cases = _cases(first, second, image_ids)
    known = cases or Cases("image", np.arange(len(image_ids)))
    marked = np.flatnonzero(both.any(axis=0))
    one, other = (np.where(both, values, np.nan)[:, marked] for values in errors)
    (overall, *landmarks), level = _test(one, other, known)
    ordered = dict(
        sorted(zip((names[k] for k in marked), landmarks, strict=True), key=lambda item: item[1].difference)
    )
    return Paired(
        unit, int(both.any(axis=1).sum()), known.kind, cases is not None, overall, ordered, 1 - level
    )


def _errors(record: Record, unit: Unit, image_ids: list[str], names: list[str]) -> FloatArray:
    """(N, K): the record's errors, images and landmarks in the given order; NaN where unknown."""
    rows = {image_id: row for row, image_id in enumerate(record["errors"]["image_ids"])}
    columns = {name: column for column, name in enumerate(record["per_landmark"])}
    values = np.array(record["errors"][unit], np.float64).reshape(len(rows), len(columns))
    return values[np.ix_([rows[image_id] for image_id in image_ids], [columns[name] for name in names])]


def _cases(first: Record, second: Record, image_ids: list[str]) -> Cases | None:
    """As either record knows them; None where none does. Raises UserError where they know different ones."""
    one, other = (cases_of_record(record, image_ids) for record in (first, second))
    if one is not None and other is not None and one.numbers.tolist() != other.numbers.tolist():
        raise UserError(
            "the two were measured with different patients, videos or devices in the data set",
            cure="evaluate both runs again",
        )
    return one or other


def _test(first: FloatArray, second: FloatArray, cases: Cases) -> tuple[list[Difference], float]:
    """Over all landmarks, then for each, of (N, K) errors that are NaN at the same places; and the alpha at
    which each landmark was tested."""
    num_landmarks = first.shape[1]
    columns = [slice(None), *(slice(k, k + 1) for k in range(num_landmarks))]
    scale = 10**DECIMALS  # as whole numbers, equal sums are equal
    by_case = sum_by_case(np.round((second - first) * scale), cases.numbers)
    sums, counts = (
        np.column_stack([values[:, column].sum(axis=1) for column in columns]) for values in by_case
    )
    num_cases = (counts > 0).sum(axis=0).tolist()
    least = [least_cases(1), *[least_cases(num_landmarks)] * num_landmarks]
    splits = split_cases(sums, counts)
    tested = [k for k in range(1, len(columns)) if num_cases[k] >= least[k]]
    level = holm_level([splits[k] for k in tested])
    adjusted = dict(zip(tested, adjust_by_holm([splits[k].p for k in tested]), strict=True))
    p_values = {**adjusted, **({0: splits[0].p} if num_cases[0] >= least[0] else {})}

    def describe(k: int) -> Difference:
        means = [float(np.nanmean(values[:, columns[k]])) for values in (first, second)]
        low, high = splits[k].interval(level if k else ALPHA)
        interval = (low / scale, high / scale) if k in p_values else None
        return Difference(
            means[0], means[1], means[1] - means[0], num_cases[k], least[k], p_values.get(k), interval
        )

    return [describe(k) for k in range(len(columns))], level
