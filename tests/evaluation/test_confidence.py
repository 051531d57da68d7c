from __future__ import annotations

import math

import numpy as np
import pytest

from backend.evaluation.confidence import calibration_bins, confidence_against_error, review, spearman

NAN = math.nan


def test_rank_correlation_by_hand() -> None:
    rising = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    assert spearman(rising, rising**3) == pytest.approx(1.0)
    assert spearman(rising, -rising) == pytest.approx(-1.0)
    # ranks 1 2 3 4 5 and 2 1 4 3 5: 1 - 6 * 4 / (5 * 24)
    assert spearman(rising, np.array([20.0, 10.0, 40.0, 30.0, 50.0])) == pytest.approx(0.8)


def test_ties_share_their_mean_rank() -> None:
    # ranks 1.5 1.5 3 and 1 2 3: Pearson of the ranks
    assert spearman(np.array([1.0, 1.0, 2.0]), np.array([1.0, 2.0, 3.0])) == pytest.approx(math.sqrt(0.75))


def test_without_spread_or_points_there_is_no_correlation() -> None:
    assert spearman(np.ones(5), np.arange(5.0)) is None
    assert spearman(np.array([1.0, 2.0]), np.array([1.0, 2.0])) is None


def test_bins_hold_equal_counts_from_least_to_most_confident() -> None:
    confidence = np.arange(40)[::-1] / 40
    bins = calibration_bins(confidence, np.arange(40.0))
    assert [bin["num_points"] for bin in bins] == [4] * 10
    assert bins[0]["mean_error"] == 37.5 and bins[-1]["mean_error"] == 1.5
    assert bins[0]["mean_confidence"] == pytest.approx(1.5 / 40)
    assert calibration_bins(np.array([]), np.array([])) == []
    assert len(calibration_bins(np.ones(3), np.ones(3))) == 3


def test_a_review_of_the_least_confident_finds_their_errors() -> None:
    confidence = np.arange(20.0).reshape(4, 5) / 20
    error_mm = np.where(confidence < 0.19, 3.0, 2.0)  # the four least confident, and 2 mm is no error
    reviewed = review(confidence, error_mm, 2.0)
    assert reviewed is not None and reviewed["num_above"] == 4
    by_share = dict(zip(reviewed["reviewed"], reviewed["caught"], strict=True))
    assert [by_share[share] for share in (0, 0.05, 0.1, 0.2, 1)] == [0, 0.25, 0.5, 1, 1]


def test_a_review_of_no_errors_catches_nothing_and_px_are_not_reviewed() -> None:
    nothing = review(np.ones((2, 2)), np.ones((2, 2)), 2.0)
    assert nothing is not None and nothing["num_above"] == 0 and nothing["caught"] is None
    assert review(np.ones((2, 2)), np.full((2, 2), NAN), 2.0) is None


def test_missing_landmarks_take_no_part() -> None:
    confidence = np.array([[0.1, 0.9], [0.5, 0.7]])
    error = np.array([[9.0, 1.0], [NAN, 2.0]])
    measured = confidence_against_error(confidence, error, error, 2.0)
    assert measured["num_points"] == 3
    assert measured["spearman"] == pytest.approx(-1.0)
    assert sum(bin["num_points"] for bin in measured["bins"]) == 3
