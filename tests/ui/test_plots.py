from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ui.pictures import plot_prediction, plot_sample
from ui.plots import MAX_POINTS, error_unit, plot_errors, plot_losses, thin


def rows(num: int, *, mm: bool = True) -> list[dict[str, Any]]:
    return [
        {
            "epoch": epoch,
            "train/loss": 1 / epoch,
            "val/loss": 2 / epoch,
            "val/mre_px": 10.0 + abs(epoch - 3),
            "val/mre_mm": (10.0 + abs(epoch - 3)) / 10 if mm else None,
        }
        for epoch in range(1, num + 1)
    ]


def test_long_curves_are_thinned_and_keep_their_ends() -> None:
    thinned = thin(rows(5001))
    assert len(thinned) == MAX_POINTS
    assert [thinned[0]["epoch"], thinned[-1]["epoch"]] == [1, 5001]
    assert all(len(trace.x) <= MAX_POINTS for trace in plot_losses(rows(5001), log_axis=False).data)


def test_the_best_epoch_is_marked_on_the_error_plot() -> None:
    best = plot_errors(rows(6), log_axis=False).data[-1]
    assert (best.x[0], best.y[0]) == (3, 1.0)
    assert best.marker.symbol == "star"


def test_both_plots_mark_the_same_best_epoch() -> None:
    losses, errors = plot_losses(rows(6), log_axis=False), plot_errors(rows(6), log_axis=False)
    assert losses.data[-1].marker.symbol == errors.data[-1].marker.symbol == "star"
    assert losses.data[-1].x[0] == errors.data[-1].x[0] == 3
    assert losses.data[-1].y[0] == pytest.approx(2 / 3)


def test_the_refinement_follows_the_first_network_on_one_axis() -> None:
    first = [{**row, "phase": "train"} for row in rows(6)]
    second = [{**row, "phase": "refine", "val/mre_mm": 0.5, "val/unrefined_mre_mm": 1.0} for row in rows(3)]
    resumed = {"kind": "resumed", "phase": "refine", "epoch": 2}
    losses = plot_losses([*first, *second], log_axis=False, events=[resumed])
    assert losses.data[0].x == (1, 2, 3, 4, 5, 6, None, 7, 8, 9)
    assert [shape.x0 for shape in losses.layout.shapes] == [6, 8]
    errors = plot_errors([*first, *second], log_axis=False)
    assert errors.data[0].y[-3:] == (0.5, 0.5, 0.5)
    assert errors.data[1].x == (7, 8, 9) and errors.data[1].y == (1.0, 1.0, 1.0)


EVENTS: list[dict[str, Any]] = [
    {"kind": "lr_lowered", "message": "...", "epoch": 20, "new_lr": 1.67e-4},
    {"kind": "resumed", "message": "...", "epoch": 20},
    {"kind": "resumed", "message": "...", "epoch": 20},
    {"kind": "image_left_out", "message": "..."},
    {"kind": "landmark_stuck", "message": "...", "epoch": 30, "landmarks": ["S"]},
    {"kind": "oom_retry", "message": "...", "epoch": 40, "largest_part": 8, "micro_batch": 8},
    {"kind": "oom_retry", "message": "...", "during": "prediction", "micro_batch": 4},
    {"kind": "early_stop", "message": "...", "epoch": 60},
]


@pytest.mark.parametrize("plot", [plot_losses, plot_errors])
@pytest.mark.parametrize("log_axis", [False, True])
def test_events_that_change_the_course_stand_as_labelled_lines(plot: Any, log_axis: bool) -> None:
    figure = plot(rows(60), log_axis=log_axis, events=EVENTS)
    assert [(shape.type, shape.x0, shape.x1) for shape in figure.layout.shapes] == [
        ("line", 20, 20),
        ("line", 40, 40),
        ("line", 60, 60),
    ]
    assert [note.text for note in figure.layout.annotations] == [
        "LR 1.7e-04, resumed",
        "parts of 8",
        "early stop",
    ]
    assert all(note.textangle == -90 for note in figure.layout.annotations)
    assert len(plot(rows(60), log_axis=log_axis).layout.shapes) == 0


def test_labels_do_not_stand_on_one_another() -> None:
    """A run resumed in every epoch: a line each, and a label where there is room for one."""
    events = [{"kind": "resumed", "epoch": epoch} for epoch in range(1, 101)]
    figure = plot_losses(rows(100), log_axis=False, events=events)
    assert len(figure.layout.shapes) == 100
    labelled = [note.x for note in figure.layout.annotations if note.text]
    assert labelled == [*range(1, 101, 6)]


def test_events_before_the_first_epoch_are_no_curve_yet() -> None:
    figure = plot_errors([], log_axis=False, events=[{"kind": "resumed", "epoch": 0}])
    assert len(figure.data) == 0 and len(figure.layout.shapes) == 1


def test_mm_and_px_never_share_an_axis() -> None:
    mixed = rows(3) + [{**row, "epoch": row["epoch"] + 3} for row in rows(3, mm=False)]
    assert error_unit(mixed) == "px"
    assert plot_errors(mixed, log_axis=False).layout.yaxis.title.text == "MRE, px"
    assert error_unit(rows(3)) == "mm"


def test_the_axis_can_be_logarithmic_and_no_rows_give_an_empty_plot() -> None:
    assert plot_losses(rows(3), log_axis=True).layout.yaxis.type == "log"
    assert len(plot_losses([], log_axis=False).data) == 0
    assert len(plot_errors([{"epoch": 1, "train/loss": 1.0}], log_axis=False).data) == 0


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
