from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from backend.evaluation.comparison import Comparison
from backend.evaluation.figures import plot_confidence, plot_cumulative, plot_groups, plot_landmarks
from backend.evaluation.record import measure

Make = Callable[..., Comparison]
TWO_READERS = {"senior": [[-1.0, 0.0], [-3.0, 0.0]], "junior": [[1.0, 4.0], [3.0, 2.0]]}


def test_the_curve_rises_to_all_landmarks_beside_the_readers_and_marks_2_mm(make_comparison: Make) -> None:
    record = measure(make_comparison([[2.0, 4.0], [6.0, 8.0]], readers=TWO_READERS))
    figure = plot_cumulative(record)
    prediction, readers = figure.data
    assert prediction.x[-1] == 4.0 and prediction.y[-1] == 100
    assert prediction.line.dash != readers.line.dash
    assert figure.layout.shapes[0].x0 == 2.0
    (annotation,) = figure.layout.annotations
    assert (annotation.text, annotation.x) == ("2 mm", 2.0)
    assert (annotation.y, annotation.yanchor) == (1, "bottom")  # above, clear of the curve
    assert "mm" in figure.layout.xaxis.title.text


def test_in_px_nothing_is_said_of_mm(make_comparison: Make) -> None:
    record = measure(make_comparison([[2.0, 4.0], [6.0, 8.0]], mm_per_px=[0.5, float("nan")]))
    figures = [plot_cumulative(record), plot_landmarks(record), plot_confidence(record)]
    titles = [axis.title.text or "" for f in figures for axis in (f.layout.xaxis, f.layout.yaxis)]
    assert not any("mm" in title for title in titles) and sum("px" in title for title in titles) == 3
    assert not figures[0].layout.shapes
    assert max(figures[0].data[0].x) == 8.0


def test_bars_stand_worst_first_with_interval_and_the_readers_beside_them(make_comparison: Make) -> None:
    readers = {name: 3 * offsets for name, offsets in TWO_READERS.items()}
    errors = [[2.0, 4.0], [3.0, 8.0], [2.0, 5.0], [3.0, 7.0], [1.0, 6.0], [4.0, 6.0]]
    record = measure(make_comparison(errors, readers=readers))
    figure = plot_landmarks(record)
    bars, readers = figure.data
    assert list(bars.y) == ["L1", "L0"] and list(bars.x) == [3.0, 1.25]
    assert figure.layout.yaxis.autorange == "reversed"
    low, high = record["per_landmark"]["L1"]["interval"]["mre_mm"]
    assert bars.error_x.array[0] == pytest.approx(high - 3.0)
    assert bars.error_x.arrayminus[0] == pytest.approx(3.0 - low)
    assert list(readers.x) == [1.5, 2.0]


def test_groups_say_how_many_images_they_hold(make_comparison: Make) -> None:
    record = measure(make_comparison([[2.0], [4.0], [6.0]], columns={"group": ["", "b", "b"]}))
    assert list(plot_groups(record, "group").data[0].y) == ["unknown (n = 1)", "b (n = 2)"]


def test_confidence_is_shown_by_rank_with_the_mean_of_each_bin(make_comparison: Make) -> None:
    record = measure(make_comparison([[8.0, 2.0], [6.0, 4.0]], confidence=[[0.1, 0.99], [0.2, 0.98]]))
    single, bins = plot_confidence(record).data
    assert list(single.y) == [4.0, 3.0, 2.0, 1.0] == list(bins.y)
    assert list(single.x) == [12.5, 37.5, 62.5, 87.5]
    assert list(bins.customdata) == [0.1, 0.2, 0.98, 0.99]


def test_a_page_can_show_the_text_in_its_own_language(make_comparison: Make) -> None:
    def translate(key: str, **values: Any) -> str:
        return f"<{key}>"

    record = measure(make_comparison([[2.0], [4.0]]))
    assert plot_cumulative(record, translate).data[0].name == "<figure_prediction>"


def test_before_refinement_has_a_curve_of_its_own(make_comparison: Make) -> None:
    record = measure(make_comparison([[2.0], [4.0]], unrefined_errors_px=[[6.0], [8.0]]))
    assert [trace.name for trace in plot_cumulative(record).data] == ["prediction", "before refinement"]


def test_one_image_without_a_spread_can_be_drawn(make_comparison: Make) -> None:
    record = measure(make_comparison([[0.0]]))
    for plot in (plot_cumulative, plot_landmarks, plot_confidence):
        assert plot(record).data
