"""The sign-flip test of a mean difference over cases, its interval, and Holm's correction of several tests.

If two runs are equal, either could have been the first: a case's difference has either sign with equal
chance. The test counts in which share of all assignments of signs the mean lies as far from 0 as the measured
one (Fisher 1935). A case has one sign for all of its points, and counts by their number, so that the mean
that is reported is tested.

Flipping the cases A takes the mean as far from d as it was exactly if d lies between the mean over A and
the mean over the other cases. So every split of the cases in two gives two means, the p-value of d is the
share of splits whose means enclose it, and the interval of all d that are not rejected ends at order
statistics of these means (Hartigan 1969): the verdict and the interval come from the same numbers.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from backend.geometry import FloatArray

ALPHA = 0.05  # the share of equal runs that may be called different
MAX_EXACT_CASES = 16  # up to here every split is examined, above a random selection
NUM_RANDOM_SPLITS = 9_999
MIN_SPLITS_PER_TEST = 40  # of a random selection: two of them are below ALPHA / number of tests
SEED = 0
_BLOCK = 2048  # splits at a time


@dataclass(frozen=True)
class Splits:
    """The smaller and the larger of the two means (F,) of each split; ∓inf if all cases are on one side.

    The split of all cases against none, in which nothing is flipped, is left out and always counted.
    """

    low: FloatArray
    high: FloatArray

    @functools.cached_property
    def p(self) -> float:
        """The two-sided p-value of a mean difference of 0."""
        enclosing = (self.low <= 0) & (self.high >= 0)
        return float((1 + enclosing.sum()) / (1 + len(self.low)))

    def rejects(self, alpha: float) -> bool:
        """Whether p is at most alpha."""
        return round(self.p * (1 + len(self.low))) <= self._num_allowed(alpha)

    def interval(self, alpha: float) -> tuple[float, float]:
        """Return the range of differences not rejected at alpha; it leaves out 0 exactly if 0 is rejected."""
        rank = self._num_allowed(alpha)
        if not 1 <= rank <= len(self.low):
            return -np.inf, np.inf
        low = np.partition(self.low, rank - 1)[rank - 1]
        high = np.partition(self.high, -rank)[-rank]
        return float(low), float(high)

    def _num_allowed(self, alpha: float) -> int:
        """Return how many splits may enclose a rejected difference; the factor makes up for rounding."""
        return int(alpha * (1 + len(self.low)) * (1 + 1e-9))


def least_cases(num_tests: int) -> int:
    """Return the fewest cases on which Holm's correction of that many tests can reject one.

    That is 6 for one test, 10 for 19: the smallest p-value of n cases is 2 / 2 ** n, and the smallest one of
    the tests is compared with ALPHA / num_tests.
    """
    return next(n for n in itertools.count(1) if 2 * num_tests <= ALPHA * 2**n)


def split_cases(sums: FloatArray, counts: FloatArray) -> list[Splits]:
    """Return the splits for each of M columns (C cases, M), from sums of differences and numbers of points.

    A case without points does not count. Sums that are whole numbers are compared without rounding.
    """
    is_there = counts > 0
    is_exact = is_there.sum(axis=0) <= MAX_EXACT_CASES
    splits: dict[int, Splits] = {}
    for column in np.flatnonzero(is_exact):
        rows = is_there[:, column]
        sides = _all_splits(int(rows.sum()))
        case_sums, case_counts = sums[rows][:, [column]], counts[rows][:, [column]]
        (splits[int(column)],) = _compare_sides(
            case_sums, case_counts, sides @ case_sums, sides @ case_counts
        )
    columns = np.flatnonzero(~is_exact)
    if columns.size:
        case_sums, case_counts = sums[:, columns], counts[:, columns]
        num_splits = max(NUM_RANDOM_SPLITS, MIN_SPLITS_PER_TEST * sums.shape[1] - 1)
        sides = _sum_random_sides(np.hstack([case_sums, case_counts]), num_splits)
        side_sums, side_counts = sides[:, : columns.size], sides[:, columns.size :]
        random_splits = _compare_sides(case_sums, case_counts, side_sums, side_counts)
        splits |= dict(zip(columns.tolist(), random_splits, strict=True))
    return [splits[column] for column in range(sums.shape[1])]


def adjust_by_holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values after Holm (1979): the chance of a false rejection among all tests is at most ALPHA."""
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(factors * np.asarray(p_values)[order]))
    return [float(value) for value in adjusted]


def holm_level(tests: Sequence[Splits]) -> float:
    """Return the alpha at which Holm's procedure ends: it rejects the tests that reject at this alpha."""
    num_left = len(tests)
    for test in sorted(tests, key=lambda test: test.p):
        if not test.rejects(ALPHA / num_left):
            return ALPHA / num_left
        num_left -= 1
    return ALPHA


def _all_splits(num_cases: int) -> FloatArray:
    """Return every split of C cases once, without that of all against none: (2 ** (C - 1) - 1, C).

    A case is 1 on the side that does not hold the last case.
    """
    numbers = np.arange(1, 2 ** max(0, num_cases - 1))
    return np.asarray((numbers[:, None] >> np.arange(num_cases)) & 1, np.float64)


def _sum_random_sides(columns: FloatArray, num_splits: int) -> FloatArray:
    """Return the sums (F, M) of columns (C, M) over one side of F random splits, always the same ones."""
    rng = np.random.default_rng(SEED)
    blocks = [min(_BLOCK, num_splits - start) for start in range(0, num_splits, _BLOCK)]
    return np.concatenate(
        [rng.integers(0, 2, (size, len(columns)), np.uint8).astype(np.float64) @ columns for size in blocks]
    )


def _compare_sides(
    sums: FloatArray, counts: FloatArray, side_sums: FloatArray, side_counts: FloatArray
) -> list[Splits]:
    """Return the splits of each column, from sums and counts of all cases (C, M) and of one side (F, M)."""
    num_all = counts.sum(axis=0)
    other_sums, other_counts = sums.sum(axis=0) - side_sums, num_all - side_counts
    has_both_sides = (side_counts > 0) & (other_counts > 0)
    means = [
        np.divide(total, number, out=np.zeros_like(side_sums), where=has_both_sides)
        for total, number in ((side_sums, side_counts), (other_sums, other_counts))
    ]
    low = np.where(has_both_sides, np.minimum(*means), -np.inf)
    high = np.where(has_both_sides, np.maximum(*means), np.inf)
    return [Splits(low[:, column], high[:, column]) for column in range(sums.shape[1])]
