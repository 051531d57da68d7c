from __future__ import annotations

import itertools
from typing import Any

import pytest

from backend.run.best import best_row
from ui.figures.plots import MAX_POINTS
from ui.monitor.curves import CurveOptions, ReaderDistance, plot_curves, smooth
from ui.text.language import speaking


def rows(num: int, *, mm: bool = True, **more: Any) -> list[dict[str, Any]]:
    return [
        {
            "epoch": epoch,
            "train/loss": 1 / epoch,
            "val/loss": 2 / epoch,
            "val/mre_px": 10.0 + abs(epoch - 3),
            "val/mre_mm": (10.0 + abs(epoch - 3)) / 10 if mm else None,
            **more,
        }
        for epoch in range(1, num + 1)
    ]


EVERYTHING = {"val/sdr_2mm": 0.5, "lr": 1e-3, "images_per_s": 8.0, "memory_bytes": 3 * 2**30}


def curves_on(figure: Any, axis: str) -> list[Any]:
    return [trace for trace in figure.data if trace.yaxis == axis]


def titles(figure: Any) -> list[str]:
    return [note.text for note in figure.layout.annotations if "<b>" in note.text]


def test_all_curves_stand_over_one_axis_of_epochs() -> None:
    known = rows(6, **EVERYTHING)
    figure = plot_curves(known, [], best=best_row(known), memory_title="memory, GiB")
    assert [trace.yaxis for trace in figure.data] == ["y", "y", "y", "y2", "y2", "y3", "y4", "y5", "y6"]
    assert {trace.xaxis for trace in figure.data} == {None}  # the one axis there is: a zoom is a zoom of all
    domains = [figure.layout[f"yaxis{number}"].domain for number in ("", 2, 3, 4, 5, 6)]
    assert all(upper[0] > lower[1] for upper, lower in itertools.pairwise(domains))
    assert figure.layout.xaxis.anchor == "y6"
    (sdr,), (memory,) = curves_on(figure, "y3"), curves_on(figure, "y6")
    assert sdr.y[0] == 50.0 and memory.y[0] == 3.0


def test_a_value_that_a_run_lacks_leaves_no_panel() -> None:
    figure = plot_curves(rows(6, mm=False), [])
    assert {trace.yaxis for trace in figure.data} == {"y", "y2"}
    assert [title.split("<")[1] for title in titles(figure)] == ["b>Loss", "b>validation MRE, px"]
    assert len(plot_curves([], []).data) == 0
    lone = plot_curves([{"epoch": 1, "train/loss": 1.0}], [])
    assert [trace.yaxis for trace in lone.data] == ["y"]


def test_both_panels_mark_the_same_best_epoch_with_a_star() -> None:
    best = best_row(rows(6))
    stars = [trace for trace in plot_curves(rows(6), [], best=best).data if trace.marker.symbol == "star"]
    assert [(star.yaxis, star.x[0], star.y[0]) for star in stars] == [
        ("y", 3, pytest.approx(2 / 3)),
        ("y2", 3, 1.0),
    ]
    assert "best: 1.00 mm" in titles(plot_curves(rows(6), [], best=best))[1]


def test_the_star_stands_at_the_error_of_best_pt_and_at_no_epoch_of_another_run() -> None:
    """Training went back from epoch 5 and repeated it: the weights kept are those of before."""
    best = {"epoch": 5, "val/mre_px": 5.0, "val/mre_mm": 0.5}
    (star,) = [
        trace for trace in plot_curves(rows(6), [], best=best).data if trace.marker.symbol == "star"
    ]  # fmt: skip
    assert (star.x[0], star.y[0], star.yaxis) == (5, 0.5, "y2")
    for epoch in (None, 40):
        figure = plot_curves(rows(6), [], best={**best, "epoch": epoch})
        assert not [trace for trace in figure.data if trace.marker.symbol == "star"]


def test_the_refinement_stands_apart_with_the_first_network_beside_it() -> None:
    first = [{**row, "phase": "train"} for row in rows(6)]
    second = [{**row, "phase": "refine", "val/mre_mm": 0.5, "val/unrefined_mre_mm": 1.0} for row in rows(3)]
    figure = plot_curves(
        [*first, *second], [{"kind": "resumed", "phase": "refine", "epoch": 2}], best=second[0]
    )
    assert figure.data[0].x == (1, 2, 3, 4, 5, 6, None, 7, 8, 9)
    assert [shape.x0 for shape in figure.layout.shapes] == [6, 8]
    refined, unrefined, _ = curves_on(figure, "y2")
    assert refined.y[-3:] == (0.5, 0.5, 0.5)
    assert unrefined.x == (7, 8, 9) and unrefined.y == (1.0, 1.0, 1.0)


def test_smoothing_is_the_mean_with_the_neighbours_that_are_there() -> None:
    assert smooth([4.0, 2.0, 7.0], 0) == [4.0, 2.0, 7.0]
    assert smooth([4.0, 2.0, 9.0, 1.0], 1) == [3.0, 5.0, 4.0, 5.0]
    assert smooth([4.0, 2.0], 5) == [3.0, 3.0]


def test_a_smoothed_curve_keeps_the_values_faintly_behind_and_the_phases_apart() -> None:
    first = [{"epoch": e, "phase": "train", "train/loss": 8.0 * e, "lr": 0.1 * e} for e in (1, 2)]
    second = [{"epoch": 1, "phase": "refine", "train/loss": 1.0, "lr": 0.5}]
    raw, smoothed, lr = plot_curves([*first, *second], [], CurveOptions(smoothing=1)).data
    assert raw.y == (8.0, 16.0, None, 1.0) and raw.opacity < 0.5 and raw.hoverinfo == "skip"
    assert smoothed.y == (12.0, 12.0, None, 1.0)
    assert smoothed.name == "train, smoothed"
    assert lr.y == (0.1, 0.2, None, 0.5)  # it is what it is


def test_outliers_are_cut_off_and_that_is_said() -> None:
    far = [{"epoch": e, "val/mre_px": v, "val/mre_mm": None} for e, v in enumerate((900, 80, 20, 10), 1)]
    clipped = plot_curves(far, [])
    assert clipped.layout.yaxis.range == (0, pytest.approx(1.05 * 50))
    assert "▲ 2 above, up to 900.00 px" in [note.text for note in clipped.layout.annotations]
    for options in (CurveOptions(clip=False), CurveOptions(log_axis=True)):
        whole = plot_curves(far, [], options)
        assert whole.layout.yaxis.range is None
        assert not any("▲" in note.text for note in whole.layout.annotations)
    near = plot_curves(far[2:], [])
    assert near.layout.yaxis.range is None and not any("▲" in note.text for note in near.layout.annotations)


def test_at_least_half_of_the_errors_stay_in_sight() -> None:
    far = [{"epoch": e, "val/mre_px": v, "val/mre_mm": None} for e, v in enumerate((900, 400, 120, 80, 1), 1)]
    layout = plot_curves(far, []).layout
    assert layout.yaxis.range == (0, pytest.approx(1.05 * 120))
    assert "▲ 2 above, up to 900.00 px" in [note.text for note in layout.annotations]


def test_what_the_readers_differ_by_is_a_line_that_clipping_leaves_in_sight() -> None:
    far = [{"epoch": e, "val/mre_px": v, "val/mre_mm": None} for e, v in enumerate((900, 10), 1)]
    figure = plot_curves(far, [], readers=ReaderDistance(60.0, "px"))
    (line,) = (shape for shape in figure.layout.shapes if shape.y0 == 60.0)
    assert (line.yref, line.y1) == ("y", 60.0)
    assert figure.layout.yaxis.range[1] > 60
    assert "inter-reader distance 60.00 px" in titles(figure)[0]


def test_the_axis_of_loss_and_error_can_be_logarithmic() -> None:
    layout = plot_curves(rows(6, **EVERYTHING), [], CurveOptions(log_axis=True)).layout
    assert [layout[f"yaxis{number}"].type for number in ("", 2, 3, 4)] == ["log", "log", "linear", "linear"]


def test_another_wish_overrides_a_zoom_of_the_values_and_another_epoch_does_not() -> None:
    def revision(num: int, options: CurveOptions) -> str:
        return str(plot_curves(rows(num), [], options, revision="run").layout.yaxis2.uirevision)

    assert revision(3, CurveOptions()) == revision(4, CurveOptions(smoothing=5))
    assert (
        len(
            {
                revision(3, CurveOptions(log_axis=log, clip=clip))
                for log in (False, True)
                for clip in (False, True)
            }
        )
        == 4
    )


def test_long_curves_are_thinned() -> None:
    for options in (CurveOptions(), CurveOptions(smoothing=3)):
        figure = plot_curves(rows(5001), [], options)
        assert all(len(trace.x) <= MAX_POINTS for trace in figure.data)


def test_titles_stand_at_their_left_end_in_persian_too() -> None:
    with speaking("fa"):
        assert all(title.startswith("\u200e") for title in titles(plot_curves(rows(6), [])))


@pytest.mark.parametrize("language", ["en", "fa"])
def test_titles_are_broken_before_they_leave_a_phone(language: str) -> None:
    with speaking(language):
        figure = plot_curves(
            [{**row, "val/unrefined_mre_mm": 2.0} for row in rows(6)], [], readers=ReaderDistance(2.2, "mm")
        )
    loss, error = titles(figure)
    assert "<br>" not in loss and error.count("<br>") == 1


EVENTS: list[dict[str, Any]] = [
    {"kind": "lr_lowered", "message": "...", "epoch": 20, "new_lr": 1.67e-4},
    {"kind": "resumed", "message": "...", "epoch": 20},
    {"kind": "resumed", "message": "...", "epoch": 20},
    {"kind": "image_left_out", "message": "..."},
    {"kind": "landmark_stuck", "message": "...", "epoch": 30, "landmarks": ["S"]},
    {"kind": "save_now", "message": "...", "epoch": 31},
    {"kind": "oom_retry", "message": "...", "epoch": 40, "largest_part": 8, "micro_batch": 8},
    {"kind": "oom_retry", "message": "...", "during": "prediction", "pass_micro_batch": 4},
    {"kind": "oom_retry", "message": "...", "epoch": 50, "during": "validation", "pass_micro_batch": 4},
    {"kind": "early_stop", "message": "...", "epoch": 60},
]


@pytest.mark.parametrize("log_axis", [False, True])
def test_events_that_change_the_course_stand_as_labeled_lines_through_all_panels(log_axis: bool) -> None:
    figure = plot_curves(rows(60), EVENTS, CurveOptions(log_axis=log_axis))
    assert [(shape.x0, shape.x1, shape.yref, shape.y0, shape.y1) for shape in figure.layout.shapes] == [
        (20, 20, "paper", 0, 1),
        (40, 40, "paper", 0, 1),
        (60, 60, "paper", 0, 1),
    ]
    labels = [note for note in figure.layout.annotations if note.textangle == -90]
    assert [note.text for note in labels] == ["LR 1.7e-04, resumed", "parts of 8", "early stop"]
    assert len(plot_curves(rows(60), [], CurveOptions(log_axis=log_axis)).layout.shapes) == 0


def test_labels_do_not_stand_on_one_another() -> None:
    """A run resumed in every epoch has a line at each, and a label where there is room for one."""
    figure = plot_curves(rows(100), [{"kind": "resumed", "epoch": epoch} for epoch in range(1, 101)])
    assert len(figure.layout.shapes) == 100
    labeled = [note.x for note in figure.layout.annotations if note.textangle == -90]
    assert labeled == [*range(1, 101, 6)]
