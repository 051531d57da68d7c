from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from backend.data.samples import Samples
from backend.run.best import MeanError
from backend.training.metrics import (
    RadialErrors,
    guess_mean_positions,
    in_one_unit,
    mean_error,
    radial_errors,
    summarize,
    summarize_per_landmark,
    summarize_readers,
)

NAN = math.nan


def test_distances_in_px_and_in_mm_with_a_spacing_of_its_own_for_each_axis() -> None:
    true = np.array([[[10.0, 10.0], [50.0, 20.0]]])
    predicted = true + np.array([[3.0, 4.0], [0.0, -2.0]])
    errors = radial_errors(predicted, true, np.array([[0.5, 0.25]]))
    assert errors.px.tolist() == [[5.0, 2.0]]
    assert errors.mm == pytest.approx(np.array([[math.hypot(1.5, 1.0), 0.5]]))


def test_mre_is_the_mean_over_visible_landmarks_not_over_images() -> None:
    true = np.zeros((2, 3, 2))
    true[1, 1:] = NAN
    predicted = np.zeros((2, 3, 2))
    predicted[0, :, 0], predicted[1, :, 0] = 1.0, 9.0
    summary = summarize(radial_errors(predicted, true, np.full((2, 2), 0.1)))
    assert summary["mre_px"] == pytest.approx((1 + 1 + 1 + 9) / 4)
    assert summary["mre_mm"] == pytest.approx(0.3)
    assert summary["num_images"] == 2


def test_sdr_counts_errors_up_to_and_including_the_threshold() -> None:
    distances_px = np.array([4.0, 4.5, 5.0, 7.0, 8.5])  # at 0.5 mm: 2, 2.25, 2.5, 3.5, 4.25
    true = np.zeros((1, 5, 2))
    predicted = np.stack([distances_px, np.zeros(5)], axis=-1)[None]
    summary = summarize(radial_errors(predicted, true, np.array([[0.5, 0.5]])))
    shares = [summary[f"sdr_{name}mm"] for name in ("2", "2.5", "3", "4")]
    assert shares == pytest.approx([0.2, 0.6, 0.6, 0.8])


def test_an_error_that_is_the_threshold_but_for_rounding_is_within() -> None:
    """Readers mark whole pixels: 18 and 24 of them at 0.1 mm are 3 mm, computed as a little more."""
    errors = radial_errors(np.array([[[18.0, 24.0]]]), np.zeros((1, 1, 2)), np.array([[0.1, 0.1]]))
    assert errors.mm[0, 0] > 3 and summarize(errors)["sdr_3mm"] == 1.0


def test_mm_are_taken_over_the_images_whose_spacing_is_known() -> None:
    true = np.zeros((3, 1, 2))
    predicted = np.array([[[3.0, 0.0]], [[100.0, 0.0]], [[0.0, 5.0]]])
    spacings = np.array([[1.0, 1.0], [NAN, NAN], [1.0, 1.0]])
    summary = summarize(radial_errors(predicted, true, spacings))
    assert summary["mre_px"] == pytest.approx(36.0)
    assert summary["mre_mm"] == pytest.approx(4.0)
    assert (summary["sdr_3mm"], summary["sdr_4mm"]) == (0.5, 0.5)
    assert summary["num_images"] == 3


def test_the_mm_of_a_part_of_the_images_are_not_reported_as_the_error_of_all() -> None:
    spacings = np.array([[0.5, 0.5], [NAN, NAN]])
    errors = radial_errors(np.full((2, 1, 2), [3.0, 4.0]), np.zeros((2, 1, 2)), spacings)
    assert mean_error(errors) == MeanError(5.0)
    assert np.isnan(in_one_unit(errors).mm).all() and summarize(in_one_unit(errors))["sdr_4mm"] is None
    of_first = RadialErrors(errors.px[:1], errors.mm[:1])
    assert mean_error(of_first) == MeanError(5.0, 2.5) and in_one_unit(of_first) is of_first


def test_an_image_without_a_landmark_needs_no_pixel_size() -> None:
    true = np.array([[[0.0, 0.0]], [[NAN, NAN]]])
    errors = radial_errors(np.full((2, 1, 2), [3.0, 4.0]), true, np.array([[0.5, 0.5], [NAN, NAN]]))
    assert mean_error(errors) == MeanError(5.0, 2.5)


def test_without_a_spacing_mm_are_none_and_never_assumed() -> None:
    summary = summarize(radial_errors(np.ones((2, 2, 2)), np.zeros((2, 2, 2)), np.full((2, 2), NAN)))
    assert summary["mre_px"] == pytest.approx(math.sqrt(2))
    assert all(value is None for name, value in summary.items() if name.endswith("mm"))
    assert set(summary) == {
        "mre_px",
        "mre_mm",
        "sdr_2mm",
        "sdr_2.5mm",
        "sdr_3mm",
        "sdr_4mm",
        "num_images",
    }


def test_where_nothing_is_known_everything_is_none_and_no_warning_is_given() -> None:
    summary = summarize(radial_errors(np.zeros((2, 2, 2)), np.full((2, 2, 2), NAN), np.ones((2, 2))))
    assert summary.pop("num_images") == 0
    assert set(summary.values()) == {None}


def test_image_without_a_landmark_is_not_counted() -> None:
    true = np.zeros((2, 2, 2))
    true[1] = NAN
    assert summarize(radial_errors(np.zeros((2, 2, 2)), true, np.ones((2, 2))))["num_images"] == 1


def test_each_landmark_has_its_own_summary_under_its_name_in_order() -> None:
    true = np.zeros((2, 3, 2))
    true[0, 2] = true[1, 2] = NAN
    predicted = np.zeros((2, 3, 2))
    predicted[:, 1, 1] = (2.0, 4.0)
    named = summarize_per_landmark(radial_errors(predicted, true, np.ones((2, 2))), ["A", "B", "Pog`"])
    assert list(named) == ["A", "B", "Pog`"]
    assert (named["A"]["mre_px"], named["B"]["mre_px"], named["Pog`"]["mre_px"]) == (0.0, 3.0, None)
    assert (named["B"]["sdr_2mm"], named["B"]["sdr_4mm"]) == (0.5, 1.0)
    assert (named["B"]["num_images"], named["Pog`"]["num_images"]) == (2, 0)


def test_readers_differ_by_their_distance_over_all_pairs() -> None:
    """Three readers of one image: 3, 4 and 5 px apart at the first landmark; only two marked the second, none
    the third."""
    first = [[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]]
    second = [[10.0, 10.0], [10.0, 12.0], [np.nan, np.nan]]
    third = [[np.nan, np.nan]] * 3
    readers = np.moveaxis(np.array([[first, second, third]]), 1, 2)
    apart = summarize_readers(readers, np.array([[0.5, 0.5]]), ["S", "N", "Or"])
    assert apart == {
        "mre_px": (3 + 4 + 5 + 2) / 4,
        "mre_mm": (3 + 4 + 5 + 2) / 8,
        "per_landmark": {
            "S": {"mre_px": 4.0, "mre_mm": 2.0},
            "N": {"mre_px": 2.0, "mre_mm": 1.0},
            "Or": {"mre_px": None, "mre_mm": None},
        },
    }


def test_one_reader_or_two_of_different_landmarks_differ_by_nothing() -> None:
    spacing = np.array([[0.5, 0.5]])
    assert summarize_readers(np.zeros((1, 1, 2, 2)), spacing, ["S", "N"]) is None
    apart = np.full((1, 2, 2, 2), np.nan)
    apart[0, 0, 0], apart[0, 1, 1] = 1.0, 2.0
    assert summarize_readers(apart, spacing, ["S", "N"]) is None


def samples_of(points_xy: list[list[list[float]]], sizes_hw: list[tuple[int, int]]) -> Samples:
    images = pd.DataFrame(sizes_hw, columns=["height", "width"])
    return Samples(images, np.array(points_xy, np.float64))


def test_mean_positions_are_shares_of_each_image() -> None:
    train = samples_of(
        [[[10, 20], [30, NAN], [NAN, NAN]], [[60, 20], [50, 50], [NAN, NAN]]], [(100, 100), (200, 200)]
    )
    images = samples_of([[[0, 0]] * 3], [(40, 80)])
    # landmark 0 at (0.1, 0.2) and (0.3, 0.1); landmark 1 in one image alone, at a quarter; landmark 2 nowhere
    assert guess_mean_positions(train, images)[0, :2].tolist() == [
        pytest.approx([16, 6]),
        pytest.approx([20, 10]),
    ]
    assert np.isnan(guess_mean_positions(train, images)[0, 2]).all()
