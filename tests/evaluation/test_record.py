from __future__ import annotations

import json
import math
from collections.abc import Callable

import numpy as np
import pytest

from backend.evaluation.comparison import Comparison
from backend.evaluation.record import MAX_WORST_IMAGES, is_old, is_readable, measure
from backend.training.metrics import radial_errors, summarize

NAN = math.nan
Make = Callable[..., Comparison]


def test_the_top_level_says_what_the_summary_of_a_training_says(make_comparison: Make) -> None:
    comparison = make_comparison([[2.0, 4.0], [6.0, NAN], [8.0, 20.0]])
    record = measure(comparison)
    samples = comparison.samples
    errors = radial_errors(comparison.predicted_xy_image, samples.points_xy_image, samples.mm_per_px_xy)
    assert summarize(errors).items() <= record.items()
    assert record["format_version"] == 2 and record["unit"] == "mm"
    assert record["nme_by"] == "diagonal" and record["nme"] == pytest.approx(8 / 50)
    assert "unrefined" not in record


def test_landmarks_keep_their_order_and_are_ranked_worst_first(make_comparison: Make) -> None:
    record = measure(make_comparison([[1.0, 9.0, NAN, 3.0], [1.0, 7.0, NAN, NAN]]))
    assert list(record["per_landmark"]) == ["L0", "L1", "L2", "L3"]
    assert record["landmarks_worst_first"] == ["L1", "L3", "L0", "L2"]
    assert record["per_landmark"]["L3"]["num_images"] == 1
    assert record["per_landmark"]["L2"]["mre_mm"] is None


def test_a_record_is_json_without_nan(make_comparison: Make) -> None:
    record = measure(make_comparison([[1.0, NAN], [NAN, 2.0]], mm_per_px=[0.5, NAN]))
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record["unit"] == "px"
    assert record["errors"]["px"] == [[1.0, None], [None, 2.0]]
    assert record["errors"]["mm"] == [[0.5, None], [None, None]]


def test_errors_by_group(make_comparison: Make) -> None:
    columns = {"group": ["a", "b", "a", ""], "sex": ["f", "f", "m", "m"]}
    record = measure(make_comparison([[2.0], [4.0], [6.0], [8.0]], columns=columns))
    assert {
        key: {k: d["mre_mm"] for k, d in groups.items()} for key, groups in record["by_group"].items()
    } == {
        "group": {"": 4.0, "a": 2.0, "b": 2.0},
        "sex": {"f": 1.5, "m": 3.5},
    }
    assert record["by_group"]["group"]["a"]["num_images"] == 2


def test_worst_images_come_with_their_points(make_comparison: Make) -> None:
    errors = np.arange(1.0, 2 * (MAX_WORST_IMAGES + 3) + 1).reshape(-1, 2)
    errors[2] = NAN
    errors[0, 1] = NAN
    worst = measure(make_comparison(errors))["worst_images"]
    assert len(worst) == MAX_WORST_IMAGES
    assert [image["image_id"] for image in worst[:2]] == ["i8", "i7"]
    assert worst[0]["mre_px"] == 17.5 and worst[0]["errors"] == [8.5, 9.0]
    assert worst[0]["predicted_xy_image"] == [[27.0, 10.0], [28.0, 10.0]]
    few = measure(make_comparison(errors[:3]))["worst_images"]
    assert [image["image_id"] for image in few] == ["i1", "i0"]
    assert few[1]["true_xy_image"] == [[10.0, 10.0], [None, None]]


def test_one_reader_has_nobody_to_differ_from(make_comparison: Make) -> None:
    readers = measure(make_comparison([[2.0, 4.0]]))["readers"]
    assert readers["names"] == ["annotator"] and readers["between"] is None
    assert list(readers["against"]) == ["annotator"]
    assert readers["against"]["annotator"]["mre_px"] == 3.0


def test_two_readers_and_their_mean(make_comparison: Make) -> None:
    readers = {"senior": [[-1.0, 0.0], [-3.0, NAN]], "junior": [[1.0, 4.0], [3.0, 2.0]]}
    record = measure(make_comparison([[0.0, 2.0], [0.0, 2.0]], readers=readers))
    against = {name: described["mre_px"] for name, described in record["readers"]["against"].items()}
    assert against == {
        "senior": pytest.approx((1 + 2 + 3) / 3),
        "junior": pytest.approx((1 + 2 + 3 + 0) / 4),
        "mean": 0.0,  # of both, or of the one who has the landmark
    }
    between = record["readers"]["between"]
    assert between["mre_px"] == pytest.approx((2 + 4 + 6) / 3)
    assert between["mre_mm"] == pytest.approx(2.0)
    assert {name: d["mre_px"] for name, d in between["per_landmark"].items()} == {"L0": 4.0, "L1": 4.0}
    assert (between["num_images"], between["num_points"]) == (2, 3)


def test_three_readers_differ_by_the_mean_over_their_pairs(make_comparison: Make) -> None:
    readers = {"a": [[0.0]], "b": [[2.0]], "c": [[6.0]]}
    between = measure(make_comparison([[0.0]], readers=readers))["readers"]["between"]
    assert between["mre_px"] == pytest.approx((2 + 6 + 4) / 3)
    assert between["num_images"] == 1 and between["interval"]["mre_px"] is None


def test_unrefined_points_get_the_same_headline(make_comparison: Make) -> None:
    record = measure(make_comparison([[2.0, 2.0]], unrefined_errors_px=[[4.0, 8.0]]))
    assert record["unrefined"]["mre_px"] == 6.0 and record["mre_px"] == 2.0
    assert "unshaped" not in record
    assert set(record["unrefined"]) == set(record["per_landmark"]["L0"])


def test_one_image_is_measured_without_intervals(make_comparison: Make) -> None:
    record = measure(make_comparison([[1.0, 3.0]], confidence=[[0.2, 0.9]]))
    assert record["mre_mm"] == 1.0 and set(record["interval"].values()) == {None}
    assert record["by_group"] == {} and record["confidence"]["spearman"] is None


def test_nme_by_a_named_pair(make_comparison: Make) -> None:
    true_xy = [[[0.0, 0.0], [0.0, 10.0]]] * 2
    record = measure(make_comparison([[1.0, 1.0], [2.0, 4.0]], true_xy=true_xy), ("L0", "L1"))
    assert record["nme"] == pytest.approx(0.2) and record["nme_by"] == ["L0", "L1"]
    assert record["per_landmark"]["L1"]["nme"] == pytest.approx(0.25)


def test_the_record_holds_the_case_of_each_image_and_what_its_intervals_are(make_comparison: Make) -> None:
    columns = {"group": ["p", "q", "p", "r"], "group_kind": ["patient"] * 4}
    record = measure(make_comparison([[1.0], [2.0], [3.0], [NAN]], columns=columns))
    assert (record["case_kind"], record["errors"]["cases"]) == ("patient", [0, 1, 0, 2])
    assert (record["num_images"], record["num_cases"]) == (3, 2)
    assert record["intervals"] == {
        "share": 0.95,
        "least_cases": 6,
        "mean": {"method": "bootstrap-t", "resamples": 2000, "seed": 0},
        "within": {"method": "Korn-Graubard"},
    }
    by_device = measure(make_comparison([[1.0], [2.0]], columns={"group": "m", "group_kind": "device"}))
    assert (by_device["case_kind"], by_device["errors"]["cases"]) == ("image", [0, 1])


def test_both_versions_are_readable_and_no_other(make_comparison: Make) -> None:
    record = measure(make_comparison([[1.0]]))
    assert is_readable(record) and not is_old(record)
    assert is_readable({**record, "format_version": 1}) and is_old({**record, "format_version": 1})
    assert not is_readable({**record, "format_version": 3}) and not is_readable({}) and not is_readable(None)
