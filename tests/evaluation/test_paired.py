from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from backend.errors import UserError
from backend.evaluation.comparison import Comparison
from backend.evaluation.measures import BOOTSTRAP_SEED, NUM_RESAMPLES
from backend.evaluation.paired import compare_records
from backend.evaluation.record import measure

NAN = float("nan")


MakeRecord = Callable[..., dict[str, Any]]


@pytest.fixture
def record(make_comparison: Callable[..., Comparison]) -> MakeRecord:
    def made(errors_px: Any, ids: Sequence[str] | None = None, **how: Any) -> dict[str, Any]:
        comparison = make_comparison(errors_px, columns={"image_id": ids} if ids else None, **how)
        return {**measure(comparison), "about": {"dataset": "films", "split": "test"}}

    return made


def test_a_hand_case(record: MakeRecord) -> None:
    """0.5 mm a pixel; the second is 2 px nearer on L0 of every image, equal on L1."""
    first, second = record([[4, 6], [8, 6], [6, 2]]), record([[2, 6], [6, 6], [4, 2]])
    found = compare_records(first, second)
    assert found.unit == "mm" and found.num_images == 3
    assert found.overall.first == pytest.approx(32 / 6 / 2)
    assert found.overall.second == pytest.approx(26 / 6 / 2)
    assert found.overall.difference == pytest.approx(-0.5)
    # every image differs by the same: no resample can move the mean
    assert found.overall.interval == pytest.approx((-0.5, -0.5))
    assert found.overall.verdict == "better"
    assert list(found.per_landmark) == ["L0", "L1"]  # the most improved first
    assert found.per_landmark["L0"].difference == pytest.approx(-1.0)
    assert found.per_landmark["L1"].difference == 0
    assert found.per_landmark["L1"].verdict == "open"


def test_the_interval_is_that_of_resampled_images(record: MakeRecord) -> None:
    errors = np.array([[1.0], [2.0], [3.0], [8.0]]), np.array([[2.0], [2.0], [1.0], [9.0]])
    found = compare_records(record(errors[0]), record(errors[1]))
    differences = (errors[1] - errors[0]).ravel() / 2  # mm
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    counts = rng.multinomial(4, [0.25] * 4, size=NUM_RESAMPLES)
    expected = np.quantile(counts @ differences / 4, [0.025, 0.975])
    assert found.overall.interval == pytest.approx(tuple(expected))
    assert found.overall.verdict == "open"
    assert expected[0] < 0 < expected[1]


def test_pairing_sees_what_two_separate_intervals_hide(record: MakeRecord) -> None:
    hard = np.arange(40.0)[:, None] + 5  # images differ by far more than the runs do
    found = compare_records(record(hard), record(hard + 0.2))
    assert found.overall.verdict == "worse"
    assert found.overall.interval is not None and found.overall.interval[0] > 0
    intervals = [record(errors)["interval"]["mre_mm"] for errors in (hard, hard + 0.2)]
    assert intervals[0][1] > intervals[1][0]  # they overlap


def test_images_are_joined_by_id_and_landmarks_by_name(record: MakeRecord) -> None:
    first = record([[1, 9], [3, 9], [5, 9]], ["a", "b", "c"], names=["x", "y"])
    second = record([[7, 4], [7, 2]], ["c", "a"], names=["z", "x"])
    found = compare_records(first, second)
    assert list(found.per_landmark) == ["x"] and found.num_images == 2
    assert found.overall.first == pytest.approx((1 + 5) / 2 / 2)
    assert found.overall.second == pytest.approx((2 + 4) / 2 / 2)


def test_only_points_that_both_know_count(record: MakeRecord) -> None:
    found = compare_records(record([[2, NAN], [4, NAN]]), record([[NAN, 3], [6, NAN]]))
    assert list(found.per_landmark) == ["L0"] and found.num_images == 1
    assert found.overall.difference == pytest.approx(1.0)
    assert found.overall.interval is None and found.overall.verdict == "open"


def test_pixels_where_one_of_the_two_has_no_millimetres(record: MakeRecord) -> None:
    found = compare_records(record([[2], [4]]), record([[3], [5]], mm_per_px=NAN))
    assert found.unit == "px" and found.overall.difference == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"about": {"dataset": "others", "split": "test"}}, "different data sets, films and others"),
        ({"about": {"dataset": "films", "split": "valid"}}, "different splits"),
        ({"readers": {"truth": "senior"}}, "different truths, mean and senior"),
    ],
)
def test_what_was_measured_differently_is_not_compared(
    record: MakeRecord, change: dict[str, Any], words: str
) -> None:
    first = record([[2], [4]])
    with pytest.raises(UserError, match=words):
        compare_records(first, {**first, **change})


def test_nothing_in_common_is_told(record: MakeRecord) -> None:
    with pytest.raises(UserError, match="no image and landmark in common"):
        compare_records(record([[1], [2]], ["a", "b"]), record([[1], [2]], ["c", "d"]))
