from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from backend.evaluation.intervals import LEAST_CASES, mean_interval, share_interval

Array = np.ndarray[Any, Any]


def ones(num: int) -> Array:
    return np.ones(num)


def test_the_interval_of_a_mean_is_the_same_every_time_and_as_wide_as_theory_says() -> None:
    values = np.random.default_rng(7).gamma(2.0, 1.0, 200)
    low, high = mean_interval(values, ones(200)) or (0, 0)
    assert mean_interval(values, ones(200)) == [low, high]
    assert low < values.mean() < high
    assert (high - low) == pytest.approx(2 * 1.97 * values.std() / math.sqrt(200), rel=0.1)


def test_a_case_weighs_by_its_points() -> None:
    """Two points of one case, or one point twice: the mean is over points, the chance over cases."""
    sums, counts = np.array([1.0, 4.0, 2.0, 9.0, 1.0, 2.0, 8.0]), np.array([1.0, 2, 1, 3, 1, 1, 4])
    low, high = mean_interval(sums, counts) or (0, 0)
    assert low < sums.sum() / counts.sum() < high
    assert mean_interval(10 * sums, 10 * counts) == pytest.approx([low, high])


def test_few_cases_get_no_interval() -> None:
    assert LEAST_CASES == 6
    for method in (mean_interval, share_interval):
        assert method(np.arange(5.0), np.full(5, 9.0)) is None
        assert method(ones(0), ones(0)) is None
        assert method(np.arange(6.0), np.full(6, 9.0)) is not None


def test_equal_cases_have_their_mean_and_one_that_differs_gives_a_finite_interval() -> None:
    assert mean_interval(np.full(8, 3.0), ones(8)) == [3.0, 3.0]
    assert mean_interval(np.zeros(8), ones(8)) == [0.0, 0.0]
    low, high = mean_interval(np.array([1.0] * 7 + [2.0]), ones(8)) or (0, 0)
    assert 0 < low < 9 / 8 < high < 4


def test_a_mean_distance_is_never_below_zero() -> None:
    low, high = mean_interval(np.array([0.0, 0.0, 0.0, 0.0, 0.0, 9.0]), ones(6)) or (-1, 0)
    assert low == 0 and 1.5 < high < math.inf


def test_a_share_stays_within_0_and_1_and_is_uncertain_where_nothing_was_missed() -> None:
    assert share_interval(np.full(20, 19.0), np.full(20, 19.0)) == pytest.approx([0.025 ** (1 / 20), 1.0])
    assert share_interval(np.zeros(20), np.full(20, 19.0)) == pytest.approx([0.0, 1 - 0.025 ** (1 / 20)])
    low, high = share_interval(np.array([19.0] * 19 + [18.0]), np.full(20, 19.0)) or (0, 0)
    assert 0.9 < low < 379 / 380 < high < 1


def test_a_share_of_one_landmark_is_the_exact_binomial_one() -> None:
    """It is the exact one as nearly as the spread between 40 images is known: 39 of them count."""
    interval = share_interval(np.array([1.0] * 30 + [0.0] * 10), ones(40))
    exact = stats.binomtest(30, 40).proportion_ci(method="exact")
    assert interval == pytest.approx([exact.low, exact.high], abs=0.005)


def test_hits_that_fall_on_the_same_images_widen_the_interval_of_a_share() -> None:
    together, apart = np.array([10.0] * 20 + [0.0] * 20), np.full(40, 5.0)
    widths = [
        high - low for low, high in (share_interval(sums, np.full(40, 10.0)) for sums in (together, apart))
    ]  # type: ignore[misc]
    assert widths[0] > 2.5 * widths[1]
