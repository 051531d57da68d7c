from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from backend.evaluation.sign_flip import (
    ALPHA,
    MAX_EXACT_CASES,
    adjust_by_holm,
    holm_level,
    least_cases,
    split_cases,
)

Array = np.ndarray[Any, Any]


def p_by_hand(sums: Array, counts: Array, difference: float) -> float:
    """The share of all 2 ** n sign vectors that take the total as far from 0 as it was."""
    shifted = sums - difference * counts
    signs = np.array(list(itertools.product((1, -1), repeat=len(sums))))
    return float((np.abs(signs @ shifted) >= abs(shifted.sum()) - 1e-9).mean())


@pytest.mark.parametrize("seed", range(40))
def test_p_and_interval_are_those_of_every_sign_vector(seed: int) -> None:
    rng = np.random.default_rng(seed)
    num = int(rng.integers(1, 11))
    counts = rng.integers(1, 6, num).astype(float)
    sums = np.round(rng.normal(rng.choice([0, 0.5, 2]), 1, num) * rng.choice([1, 3]))
    (splits,) = split_cases(sums[:, None], counts[:, None])
    assert splits.p == pytest.approx(p_by_hand(sums, counts, 0.0))
    for alpha in (0.05, 0.2):
        low, high = splits.interval(alpha)
        assert splits.rejects(alpha) is (splits.p <= alpha) is not (low <= 0 <= high)
        if np.isinf(low):
            assert p_by_hand(sums, counts, 1e9) > alpha, "nothing can be rejected"
            continue
        assert low <= sums.sum() / counts.sum() <= high
        for inside, outside in ((low + 1e-6, low - 1e-6), (high - 1e-6, high + 1e-6)):
            assert p_by_hand(sums, counts, outside) <= alpha
            assert low == high or p_by_hand(sums, counts, inside) > alpha


def test_a_random_selection_agrees_with_all_splits() -> None:
    rng = np.random.default_rng(1)
    sums, counts = rng.normal(0.4, 1, MAX_EXACT_CASES), rng.integers(1, 4, MAX_EXACT_CASES).astype(float)
    (exact,) = split_cases(sums[:, None], counts[:, None])
    # cases without a difference change no total, and make it too many to look at every split
    more_sums = np.concatenate([sums, np.zeros(3)])
    (random,) = split_cases(more_sums[:, None], np.concatenate([counts, np.full(3, 1e-9)])[:, None])
    assert random.p == pytest.approx(exact.p, abs=0.01)
    assert random.interval(ALPHA) == pytest.approx(exact.interval(ALPHA), abs=0.05)


def test_a_random_selection_is_the_same_every_time_and_mirrored_for_the_runs_in_the_other_order() -> None:
    sums = np.random.default_rng(2).normal(0.2, 1, (50, 2))
    first, again, mirrored = (split_cases(sign * sums, np.ones((50, 2)))[0] for sign in (1, 1, -1))
    assert first.p == again.p == mirrored.p
    low, high = first.interval(ALPHA)
    assert (low, high) == again.interval(ALPHA) and mirrored.interval(ALPHA) == (-high, -low)


def test_a_column_counts_the_cases_that_have_a_point_in_it() -> None:
    sums, counts = np.ones((20, 2)), np.ones((20, 2))
    sums[8:, 1] = counts[8:, 1] = 0
    assert split_cases(sums, counts)[1].p == 2 / 2**8
    assert split_cases(sums, counts)[0].p == 1 / 10_000, "the split in which nothing is flipped is counted"


def test_without_a_difference_nothing_is_rejected() -> None:
    (splits,) = split_cases(np.zeros((12, 1)), np.ones((12, 1)))
    assert splits.p == 1 and splits.interval(ALPHA) == (0, 0)


def test_the_fewest_cases_follow_from_the_level_and_the_number_of_tests() -> None:
    assert [least_cases(num) for num in (1, 2, 4, 19, 29, 68)] == [6, 7, 8, 10, 11, 12]
    for num in (1, 19, 133):
        fewest = least_cases(num)
        for cases, is_enough in ((fewest, True), (fewest - 1, False)):
            sums = np.ones((cases, num))
            assert split_cases(sums, sums)[0].rejects(ALPHA / num) is is_enough


def test_holm_by_hand() -> None:
    assert adjust_by_holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert adjust_by_holm([0.5, 0.9]) == [1.0, 1.0]
    assert adjust_by_holm([]) == []


@pytest.mark.parametrize("num_cases", [9, 12, 30])
def test_at_the_level_at_which_holm_ends_every_interval_agrees_with_its_verdict(num_cases: int) -> None:
    rng = np.random.default_rng(num_cases)
    seen = set()
    for _ in range(20):
        shift = rng.choice([0.0, 0.5, 1.0, 2.0, 4.0], 7)
        splits = split_cases(np.round(rng.normal(shift, 1, (num_cases, 7)), 1), np.ones((num_cases, 7)))
        level, adjusted = holm_level(splits), adjust_by_holm([test.p for test in splits])
        for test, p in zip(splits, adjusted, strict=True):
            low, high = test.interval(level)
            assert (p <= ALPHA) is (not low <= 0 <= high)
        seen.add(sum(p <= ALPHA for p in adjusted))
    assert len(seen) > 3, "some, all and none were rejected"
