from __future__ import annotations

from typing import Any

import numpy as np

from ui.figures.pictures import plot_prediction, plot_sample
from ui.figures.plots import MAX_POINTS, curve_figure, error_unit, in_one_line, thin


def rows(num: int, *, mm: bool = True) -> list[dict[str, Any]]:
    return [
        {"epoch": epoch, "val/mre_px": 10.0, "val/mre_mm": 1.0 if mm else None} for epoch in range(1, num + 1)
    ]


def test_long_curves_are_thinned_and_keep_their_ends() -> None:
    thinned = thin(rows(5001))
    assert len(thinned) == MAX_POINTS
    assert [thinned[0]["epoch"], thinned[-1]["epoch"]] == [1, 5001]


def test_the_refinement_follows_the_first_network_on_one_axis() -> None:
    first = [{**row, "phase": "train"} for row in rows(6)]
    second = [{**row, "phase": "refine"} for row in rows(3)]
    line, events = in_one_line([*first, *second], [{"kind": "resumed", "phase": "refine", "epoch": 2}])
    assert [row["epoch"] for row in line] == [*range(1, 10)]
    assert [(event["kind"], event["epoch"]) for event in events] == [("refinement", 6), ("resumed", 8)]


def test_mm_and_px_never_share_an_axis() -> None:
    mixed = rows(3) + [{**row, "epoch": row["epoch"] + 3} for row in rows(3, mm=False)]
    assert error_unit(mixed) == "px"
    assert error_unit(rows(3)) == "mm"


def test_few_epochs_have_a_tick_each_and_none_between() -> None:
    assert curve_figure(log_axis=False, last_epoch=4).layout.xaxis.dtick == 1
    assert curve_figure(log_axis=False, last_epoch=60).layout.xaxis.dtick is None


def test_points_are_shown_in_the_original_images_pixels_with_their_names() -> None:
    display = np.zeros((50, 40), np.uint8)
    points = np.array([[10.0, 20.0], [np.nan, np.nan]])
    figure = plot_sample(
        display, (500, 400), points, ["Sella", "Nasion"], sigma_px_image=7.0, crop_sides_xy_image=None
    )
    image = figure.layout.images[0]
    assert (image.x, image.y, image.sizex, image.sizey) == (-0.5, -0.5, 400, 500)
    circle, truth = figure.data
    assert truth.x[0] == 10.0 and truth.text[0] == "Sella"
    assert np.nanmax(circle.x) == 17.0


def test_truth_and_prediction_differ_in_shape_and_are_joined_by_their_error() -> None:
    truth, predicted = np.array([[10.0, 20.0]]), np.array([[13.0, 24.0]])
    figure = plot_prediction(np.zeros((50, 40), np.uint8), (500, 400), truth, predicted, ["S"], ["5.0 px"])
    line, true_trace, predicted_trace = figure.data
    assert list(line.x[:2]) == [10.0, 13.0]
    assert true_trace.marker.symbol != predicted_trace.marker.symbol
    assert predicted_trace.text[0] == "S: 5.0 px"
