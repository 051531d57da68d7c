from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from backend.errors import UserError
from backend.evaluation.comparison import Comparison
from backend.evaluation.paired import compare_records
from backend.evaluation.record import measure

NAN = float("nan")


MakeRecord = Callable[..., dict[str, Any]]


@pytest.fixture
def record(make_comparison: Callable[..., Comparison]) -> MakeRecord:
    def made(
        errors_px: Any, ids: Sequence[str] | None = None, columns: Any = None, **how: Any
    ) -> dict[str, Any]:
        columns = {**({"image_id": ids} if ids else {}), **(columns or {})}
        comparison = make_comparison(errors_px, columns=columns, **how)
        return {**measure(comparison), "about": {"dataset": "films", "split": "test"}}

    return made


def test_a_hand_case(record: MakeRecord) -> None:
    """0.5 mm a pixel; the second is 2 px nearer on L0 of every image, equal on L1."""
    errors = np.array([[4, 6], [8, 6], [6, 2], [3, 1], [5, 5], [9, 2], [2, 8]])
    first, second = record(errors), record(errors - [2, 0])
    comparison = compare_records(first, second)
    assert comparison.unit == "mm" and comparison.num_images == comparison.overall.num_cases == 7
    assert comparison.overall.first == pytest.approx(errors.mean() / 2)
    assert comparison.overall.second == pytest.approx(errors.mean() / 2 - 0.5)
    assert comparison.overall.difference == pytest.approx(-0.5)
    # every image differs by the same: all but two of the 2 ** 7 sign vectors take the mean nearer to 0
    assert comparison.overall.p == 2 / 2**7 and comparison.overall.interval == pytest.approx((-0.5, -0.5))
    assert comparison.overall.verdict == "better"
    assert list(comparison.per_landmark) == ["L0", "L1"]  # the most improved first
    assert comparison.per_landmark["L0"].difference == pytest.approx(-1.0)
    assert (
        comparison.per_landmark["L0"].p == 2 * 2 / 2**7 and comparison.per_landmark["L0"].verdict == "better"
    )
    assert comparison.per_landmark["L1"].difference == 0 and comparison.per_landmark["L1"].p == 1
    assert comparison.per_landmark["L1"].verdict == "open"


@pytest.mark.parametrize("num_images", [1, 2, 4, 5, 6])
def test_below_six_images_there_is_no_verdict_however_large_the_difference(
    record: MakeRecord, num_images: int
) -> None:
    errors = np.linspace(1, 2, num_images)[:, None]
    overall = compare_records(record(errors), record(errors + 90)).overall
    assert overall.verdict == ("worse" if num_images == 6 else "too_few")
    assert (overall.num_cases, overall.least_cases) == (num_images, 6)
    assert (overall.interval is None) is (overall.p is None) is (num_images < 6)


@pytest.mark.parametrize(("num_images", "verdict"), [(9, "too_few"), (10, "worse")])
def test_the_fewest_images_for_a_verdict_on_one_of_19_landmarks(
    record: MakeRecord, num_images: int, verdict: str
) -> None:
    errors = np.ones((num_images, 19))
    comparison = compare_records(record(errors), record(errors + 90))
    assert comparison.overall.verdict == "worse"
    assert {difference.verdict for difference in comparison.per_landmark.values()} == {verdict}
    assert {difference.least_cases for difference in comparison.per_landmark.values()} == {10}


def test_a_rarely_visible_landmark_gets_no_verdict_and_leaves_the_others_theirs(record: MakeRecord) -> None:
    errors = np.ones((12, 3))
    errors[4:, 2] = NAN
    landmarks = compare_records(record(errors), record(errors - [0.5, 0, 0.5])).per_landmark
    assert {name: difference.verdict for name, difference in landmarks.items()} == {
        "L0": "better",
        "L1": "open",
        "L2": "too_few",
    }
    assert landmarks["L0"].p == 2 * 2 / 2**12, "corrected for the two landmarks that can have a verdict"
    assert (landmarks["L2"].num_cases, landmarks["L2"].least_cases) == (4, 7)


@pytest.mark.parametrize("seed", range(6))
def test_an_interval_never_contradicts_its_verdict_and_the_order_of_the_runs_only_turns_it_round(
    record: MakeRecord, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    errors = rng.lognormal(1, 0.5, (int(rng.integers(12, 24)), 6))
    errors[rng.random(errors.shape) < 0.15] = NAN
    second = errors * rng.lognormal([0, 0, 0.1, -0.2, 0.5, -0.5], 0.2, errors.shape)
    records = record(errors), record(second[::-1], [f"i{row}" for row in reversed(range(len(errors)))])
    comparison, turned = compare_records(*records), compare_records(*reversed(records))
    verdicts = set()
    for name, difference, mirrored in [
        ("all", comparison.overall, turned.overall),
        *(
            (name, difference, turned.per_landmark[name])
            for name, difference in comparison.per_landmark.items()
        ),
    ]:
        assert difference.p is not None and difference.interval is not None and mirrored.interval is not None
        low, high = difference.interval
        assert low <= difference.difference <= high, name
        assert difference.p == mirrored.p and (-high, -low) == mirrored.interval
        assert (difference.p <= 0.05) is (difference.verdict in ("better", "worse")) is not (low <= 0 <= high)
        verdicts.add(difference.verdict)
    assert len(verdicts) > 1
    assert 0.95 <= comparison.landmark_share <= 1 - 0.05 / 6


def test_the_mean_that_is_told_is_the_one_that_is_tested(record: MakeRecord) -> None:
    """One image with many landmarks outweighs several with one: by images the second run would be better."""
    first, second = np.full((2, 8, 12), NAN)
    first[:, 0], second[:, 0] = 2.0, 1.0
    first[0], second[0] = 2.0, 8.0
    overall = compare_records(record(first), record(second)).overall
    assert overall.difference == pytest.approx((12 * 6 - 7) / 19 / 2)
    assert overall.interval is not None and overall.interval[0] <= overall.difference <= overall.interval[1]
    # the first image outweighs all others, whatever their signs: only if all agree with it, the mean is as
    # far off
    assert overall.verdict == "open" and overall.p == 2 * 128 / 2**8


@pytest.mark.parametrize(
    ("kind", "verdict", "num_cases"),
    [("patient", "too_few", 4), ("video", "too_few", 4), ("device", "worse", 20)],
)
def test_images_of_one_patient_or_video_are_one_case_and_those_of_a_device_are_not(
    record: MakeRecord, kind: str, verdict: str, num_cases: int
) -> None:
    columns = {"group": [f"g{row // 5}" for row in range(20)], "group_kind": [kind] * 20}
    errors = np.linspace(1, 3, 20)[:, None]
    comparison = compare_records(record(errors, columns=columns), record(errors + 1, columns=columns))
    assert (comparison.overall.verdict, comparison.overall.num_cases) == (verdict, num_cases)
    assert comparison.case_kind == ("image" if kind == "device" else kind) and comparison.cases_known


def as_old(record: dict[str, Any]) -> dict[str, Any]:
    """A record as version 1 wrote it."""
    errors = {key: value for key, value in record["errors"].items() if key != "cases"}
    fields = {
        key: value for key, value in record.items() if key not in ("case_kind", "intervals", "num_cases")
    }
    return {**fields, "format_version": 1, "errors": errors}


def test_records_that_know_no_patients_are_compared_by_images_which_is_said(record: MakeRecord) -> None:
    columns = {"group": [f"g{row // 3}" for row in range(24)], "group_kind": ["patient"] * 24}
    errors = np.linspace(1, 3, 24)[:, None]
    first, second = (record(values, columns=columns) for values in (errors, errors + 1))
    old = compare_records(as_old(first), as_old(second))
    assert (old.case_kind, old.cases_known, old.overall.num_cases) == ("image", False, 24)
    for records in ((as_old(first), second), (first, as_old(second))):
        comparison = compare_records(*records)
        assert (comparison.case_kind, comparison.cases_known, comparison.overall.num_cases) == (
            "patient",
            True,
            8,
        )


def test_records_with_other_patients_are_not_compared(record: MakeRecord) -> None:
    tables = [{"group": list(groups), "group_kind": ["patient"] * 4} for groups in ("aabb", "abab")]
    first, second = (record([[1], [2], [3], [4]], columns=columns) for columns in tables)
    with pytest.raises(UserError, match="different patients"):
        compare_records(first, second)


def test_pairing_sees_what_two_separate_intervals_hide(record: MakeRecord) -> None:
    # images differ by far more than the runs do
    hard = np.arange(40.0)[:, None] + 5
    comparison = compare_records(record(hard), record(hard + 0.2))
    assert comparison.overall.verdict == "worse"
    assert comparison.overall.interval is not None and comparison.overall.interval[0] > 0
    intervals = [record(errors)["interval"]["mre_mm"] for errors in (hard, hard + 0.2)]
    assert intervals[0][1] > intervals[1][0]  # they overlap


def test_images_are_joined_by_id_and_landmarks_by_name(record: MakeRecord) -> None:
    first = record([[1, 9], [3, 9], [5, 9]], ["a", "b", "c"], names=["x", "y"])
    second = record([[7, 4], [7, 2]], ["c", "a"], names=["z", "x"])
    comparison = compare_records(first, second)
    assert list(comparison.per_landmark) == ["x"] and comparison.num_images == 2
    assert comparison.overall.first == pytest.approx((1 + 5) / 2 / 2)
    assert comparison.overall.second == pytest.approx((2 + 4) / 2 / 2)


def test_only_points_that_both_know_count(record: MakeRecord) -> None:
    comparison = compare_records(record([[2, NAN], [4, NAN]]), record([[NAN, 3], [6, NAN]]))
    assert list(comparison.per_landmark) == ["L0"] and comparison.num_images == 1
    assert comparison.overall.difference == pytest.approx(1.0)
    assert comparison.overall.interval is None and comparison.overall.verdict == "too_few"


def test_pixels_where_one_of_the_two_has_no_millimetres(record: MakeRecord) -> None:
    comparison = compare_records(record([[2], [4]]), record([[3], [5]], mm_per_px=NAN))
    assert comparison.unit == "px" and comparison.overall.difference == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"about": {"dataset": "others", "split": "test"}}, "different data sets, films and others"),
        ({"about": {"dataset": "films", "split": "valid"}}, "different splits"),
        ({"readers": {"truth": "senior"}}, "different truths, mean and senior"),
    ],
)
def test_what_was_measured_differently_is_not_compared(
    record: MakeRecord, change: dict[str, Any], message: str
) -> None:
    first = record([[2], [4]])
    with pytest.raises(UserError, match=message):
        compare_records(first, {**first, **change})


def test_nothing_in_common_is_told(record: MakeRecord) -> None:
    with pytest.raises(UserError, match="no image and landmark in common"):
        compare_records(record([[1], [2]], ["a", "b"]), record([[1], [2]], ["c", "d"]))
