from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from backend.errors import UserError
from backend.evaluation.cases import Cases
from backend.evaluation.comparison import Comparison
from backend.evaluation.statistics import (
    Errors,
    choose_unit,
    describe,
    group_columns,
    norm_lengths_px,
    quantiles,
)
from backend.training.metrics import RadialErrors

NAN = math.nan
Array = np.ndarray[Any, Any]


def errors_of(px: Any, mm_per_px: float = 0.5) -> Errors:
    radial = RadialErrors(np.array(px, float), np.array(px, float) * mm_per_px)
    return Errors(radial, radial.px / 50, choose_unit(radial), Cases("image", np.arange(len(radial.px))))


def test_a_description_of_five_known_errors() -> None:
    described = describe(errors_of([[2.0, 4.0], [6.0, NAN], [8.0, 20.0]]))
    assert (described["mre_px"], described["mre_mm"]) == (8.0, 4.0)
    assert described["sd_px"] == pytest.approx(math.sqrt(200 / 4))  # 36 + 16 + 4 + 0 + 144
    assert described["sd_mm"] == pytest.approx(math.sqrt(200 / 4) / 2)
    assert (described["median_px"], described["median_mm"]) == (6.0, 3.0)
    assert (described["sdr_2mm"], described["sdr_3mm"], described["sdr_4mm"]) == (0.4, 0.6, 0.8)
    assert described["nme"] == pytest.approx(8 / 50)
    assert (described["num_images"], described["num_points"]) == (3, 5)


def test_the_curve_is_made_of_errors_that_were_made_up_to_the_largest() -> None:
    curve = quantiles(np.array([[4.0, 1.0], [NAN, 3.0], [2.0, NAN]]))
    assert curve is not None and len(curve) == 101
    assert set(curve) == {1.0, 2.0, 3.0, 4.0}
    assert [curve[share] for share in (0, 25, 26, 50, 75, 76, 100)] == [1, 1, 2, 2, 3, 4, 4]
    assert quantiles(np.full((2, 2), NAN)) is None


def test_mm_are_the_unit_only_where_every_spacing_is_known() -> None:
    px = np.array([[1.0, NAN], [2.0, 3.0]])
    assert choose_unit(RadialErrors(px, px / 2)) == "mm"
    assert choose_unit(RadialErrors(px, np.array([[0.5, NAN], [NAN, NAN]]))) == "px"
    assert choose_unit(RadialErrors(px * NAN, px * NAN)) == "px"


def test_without_a_spacing_everything_in_mm_is_none() -> None:
    described = describe(errors_of([[1.0, 2.0], [3.0, 4.0]] * 3, mm_per_px=NAN))
    in_mm = {key: value for key, value in described.items() if key.endswith("mm")}
    assert len(in_mm) == 7 and set(in_mm.values()) == {None}
    assert described["interval"]["mre_mm"] is None and described["interval"]["sdr_2mm"] is None
    assert described["interval"]["mre_px"] is not None
    assert described["quantiles"][-1] == 4.0


def test_one_error_has_no_spread_and_few_images_no_interval() -> None:
    assert describe(errors_of([[3.0, NAN]]))["sd_px"] is None
    described = describe(errors_of([[3.0, 5.0, 4.0]]))
    assert described["sd_px"] == 1.0
    assert set(described["interval"].values()) == {None}
    assert set(describe(errors_of([[3.0], [5.0], [4.0], [1.0], [2.0]]))["interval"].values()) == {None}
    assert None not in describe(errors_of([[3.0], [5.0], [4.0], [1.0], [2.0], [6.0]]))["interval"].values()
    nothing = describe(errors_of([[NAN, NAN], [NAN, NAN]]))
    assert (nothing["mre_px"], nothing["quantiles"], nothing["num_images"]) == (None, None, 0)


def test_the_interval_of_a_patient_with_many_images_is_that_of_one_image() -> None:
    """Images that err together tell no more than one of them: repeating them must not narrow the interval."""
    values = np.random.default_rng(3).gamma(2.0, 1.0, (12, 1))
    once = errors_of(values)
    repeated = errors_of(np.repeat(values, 10, axis=0))
    by_patient = replace(repeated, cases=Cases("patient", np.repeat(np.arange(12), 10)))
    for key, interval in describe(once)["interval"].items():
        by_patient_interval = describe(by_patient)["interval"][key]
        assert by_patient_interval == pytest.approx(interval, abs=0.05 if key == "sdr_2mm" else 1e-9)
    assert (describe(by_patient)["num_images"], describe(by_patient)["num_cases"]) == (120, 12)
    once_px, repeated_px = (describe(errors)["interval"]["mre_px"] for errors in (once, repeated))
    assert repeated_px[1] - repeated_px[0] < (once_px[1] - once_px[0]) / 2


def test_cases_are_counted_where_a_landmark_is_visible() -> None:
    errors = errors_of([[1.0, NAN]] * 4 + [[NAN, NAN], [2.0, 2.0], [2.0, 2.0]])
    assert describe(errors)["num_cases"] == 6 and describe(errors.select_landmark(1))["num_cases"] == 2
    assert (
        describe(errors.select_images(np.array([True, True, False, False, True, False, True])))["num_cases"]
        == 3
    )


def test_nme_is_by_the_diagonal_or_by_a_pair_of_landmarks(
    make_comparison: Callable[..., Comparison],
) -> None:
    true_xy = [[[0.0, 0.0], [3.0, 4.0], [9.0, 9.0]]] * 2
    comparison = make_comparison([[1.0, 1.0, 1.0], [1.0, NAN, 1.0]], true_xy=true_xy)
    assert norm_lengths_px(comparison, None).tolist() == [50.0, 50.0]
    by_pair = norm_lengths_px(comparison, ("L1", "L0"))
    assert by_pair[0] == 5.0 and math.isnan(by_pair[1])
    for wrong, message in ((("L0", "chin"), "no landmark chin"), (("L0", "L0"), "twice")):
        with pytest.raises(UserError, match=message) as caught:
            norm_lengths_px(comparison, wrong)
        assert caught.value.field == "nme_landmarks" and "L0, L1, L2" in caught.value.cure


def test_a_pair_at_one_place_gives_no_nme_and_not_an_infinite_one(
    make_comparison: Callable[..., Comparison],
) -> None:
    assert np.isnan(norm_lengths_px(make_comparison([[1.0, 1.0]]), ("L0", "L1"))).all()


def test_columns_that_sort_the_images_are_found() -> None:
    images = pd.DataFrame(
        {
            "image_id": list("abcdef"),
            "path": ["x", "y"] * 3,
            "split": "test",
            "group": ["m1", "m1", "m2", "", "", "m2"],
            "group_kind": ["device", "device", "device", "", "", "device"],
            "mm_per_px_x": [0.1, 0.1, 0.2, NAN, NAN, 0.2],
            "mm_per_px_y": [0.1, 0.1, 0.2, NAN, NAN, 0.2],
            "width": [1, 2, 3, 4, 5, 6],
            "sex": ["f", "m", "f", "m", None, "f"],
            "age": [8.5, 9.0, 8.5, 9.0, 8.5, NAN],
        }
    )
    columns = group_columns(images)
    assert list(columns) == ["group", "sex", "age"], (
        "spacings sort as the group does, widths are all different"
    )
    assert columns["group"] == ["m1", "m1", "m2", "", "", "m2"]
    assert columns["sex"][4] == "" and columns["age"] == ["8.5", "9", "8.5", "9", "8.5", ""]


def test_more_than_twenty_groups_are_no_grouping() -> None:
    def table(num_groups: int) -> pd.DataFrame:
        ids = [str(number) for number in range(2 * num_groups)]
        return pd.DataFrame({"image_id": ids, "group": [f"g{n % num_groups}" for n in range(2 * num_groups)]})

    assert list(group_columns(table(20))) == ["group"]
    assert group_columns(table(21)) == {}
    assert group_columns(table(1)) == {}
