"""95 % intervals of a mean error and of a share over cases, which may have unequal numbers of points.

Both are ratios of two sums over cases, with the variance of a ratio between cases (Cochran 1977), so that
points of one case may depend on each other. Sums and counts (C,) are those of the cases that have a point.
"""

from __future__ import annotations

import functools

import numpy as np

from backend.evaluation.sign_flip import ALPHA, least_cases
from backend.geometry import FloatArray

LEAST_CASES = least_cases(1)
NUM_RESAMPLES = 2000
SEED = 0
Interval = list[float]


def mean_interval(sums: FloatArray, counts: FloatArray) -> Interval | None:
    """Return [low, high] of a mean distance by bootstrap-t over cases (Efron 1982); None below LEAST_CASES.

    Unlike percentiles of resampled means, the resampled t values know that few cases show less than the whole
    spread, and which side of the mean a skewed distribution leaves uncertain. Cases that all have one mean
    give that mean.
    """
    num = len(sums)
    if num < LEAST_CASES:
        return None
    mean, error = _ratio(sums, counts)
    weights = _resamples(num)
    total, points = weights @ sums, weights @ counts
    means = total / points
    squares = weights @ sums**2 - 2 * means * (weights @ (sums * counts)) + means**2 * (weights @ counts**2)
    errors = _standard_error(squares, points, num)
    # a resample of one case has no spread: with the n-th part of the sample's, its t is large and finite
    errors = np.maximum(errors, error / num)
    t = np.divide(means - mean, errors, out=np.zeros(len(means)), where=errors > 0)
    low_t, high_t = np.quantile(t, [ALPHA / 2, 1 - ALPHA / 2])
    # resamples vary by (n - 1) / n of what samples do (Hesterberg 2015, "narrowness bias")
    error *= np.sqrt(num / (num - 1))
    return [float(max(0.0, mean - max(0.0, high_t) * error)), float(mean - min(0.0, low_t) * error)]


def share_interval(sums: FloatArray, counts: FloatArray) -> Interval | None:
    """Return [low, high] of a share, within [0, 1], after Korn and Graubard (1998); None below LEAST_CASES.

    The exact binomial interval (Clopper and Pearson) of as many independent points as would vary as the share
    does between cases. If all points, or none, are hits, nothing varies, and a case counts as one point.
    """
    # here: the page reads records without it, and it takes long to load
    from scipy import special

    num, num_points = len(sums), float(np.sum(counts))
    if num < LEAST_CASES:
        return None
    share, error = _ratio(sums, counts)
    if share in (0, 1):
        independent: float = num
    else:
        t_points, t_cases = (special.stdtrit(freedom, 1 - ALPHA / 2) for freedom in (num_points - 1, num - 1))
        variance = max((error * t_cases / t_points) ** 2, share * (1 - share) / num_points)
        independent = share * (1 - share) / variance
    hits, misses = share * independent, (1 - share) * independent
    low = special.betaincinv(hits, misses + 1, ALPHA / 2) if hits > 0 else 0.0
    high = special.betaincinv(hits + 1, misses, 1 - ALPHA / 2) if misses > 0 else 1.0
    return [float(low), float(high)]


def _ratio(sums: FloatArray, counts: FloatArray) -> tuple[float, float]:
    """Return the ratio of the sums and its standard error."""
    ratio = float(sums.sum() / counts.sum())
    squares = ((sums - ratio * counts) ** 2).sum(keepdims=True)
    return ratio, float(_standard_error(squares, counts.sum(), len(sums))[0])


def _standard_error(squares: FloatArray, points: FloatArray, num_cases: int) -> FloatArray:
    """Return the standard error from sums of squared residuals, which rounding may take below 0."""
    return np.asarray(np.sqrt(np.maximum(squares, 0) * num_cases / (num_cases - 1)) / points)


@functools.lru_cache(maxsize=4)
def _resamples(num_cases: int) -> FloatArray:
    """Draw how often each case is in each resample (NUM_RESAMPLES, C), always the same."""
    rng = np.random.default_rng(SEED)
    drawn = rng.multinomial(num_cases, np.full(num_cases, 1 / num_cases), size=NUM_RESAMPLES)
    return np.asarray(drawn, np.float64)
