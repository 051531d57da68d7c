from __future__ import annotations

import re
from typing import Any

from ui.monitor.landmarks import TREND_EPOCHS, landmark_table, overall_readers


def row(epoch: int, **errors_mm: float | None) -> dict[str, Any]:
    known = [value for value in errors_mm.values() if value is not None]
    mean = sum(known) / len(known)
    values: dict[str, Any] = {"epoch": epoch, "phase": "train", "val/mre_px": 10 * mean, "val/mre_mm": mean}
    for name, value in errors_mm.items():
        values |= {f"val/mre_mm/{name}": value, f"val/mre_px/{name}": None if value is None else 10 * value}
    return values


def cells(table: str) -> list[list[str]]:
    """The words of each line of an HTML table, heads first."""
    lines = re.findall("<tr>(.*?)</tr>", table)
    return [
        [re.sub("<[^>]*>", "", cell) for cell in re.findall("<t[hd][^>]*>(.*?)</t[hd]>", line)]
        for line in lines
    ]


READERS = {"mre_mm": 1.2, "mre_px": 12.0, "per_landmark": {"bad": {"mre_mm": 2.5, "mre_px": 25.0}}}


def test_landmarks_stand_worst_first_in_mm_where_known() -> None:
    heads, *lines = cells(landmark_table([row(4, good=0.1, bad=0.9, never_seen=None)]))
    assert heads == ["landmark", "mean error, epoch 4 of training"]  # one validation has no course yet
    assert lines == [["bad", "0.90 mm"], ["good", "0.10 mm"]]


def test_the_change_is_told_by_words_and_signs_against_some_epochs_before() -> None:
    rows = [row(epoch, better=9.0 - epoch / 2, worse=0.1 * epoch, same=1.0) for epoch in range(1, 16)]
    heads, *lines = cells(landmark_table(rows))
    assert heads[2] == f"since epoch {15 - TREND_EPOCHS} of training"
    assert {line[0]: line[2] for line in lines} == {
        "better": "↓ 5.00 mm",
        "worse": "↑ 1.00 mm",
        "same": "the same",
    }
    assert landmark_table(rows).count("<polyline") == 3
    assert cells(landmark_table(rows[:3]))[0][2] == "since epoch 1 of training"


def test_a_sparkline_falls_as_the_error_falls() -> None:
    (points,) = re.findall('points="([^"]*)"', landmark_table([row(1, S=4.0), row(2, S=2.0), row(3, S=1.0)]))
    xy = [tuple(map(float, point.split(","))) for point in points.split()]
    assert [y for _, y in xy] == [1.0, 10.0, 14.5]  # from the top, of 20 px with a margin of 1
    assert [x for x, _ in xy] == [1.0, 42.0, 83.0]


def test_what_the_readers_differ_by_stands_beside_each_error() -> None:
    table = landmark_table([row(1, good=0.1, bad=0.9)], READERS)
    heads, *lines = cells(table)
    assert heads[-1] == "inter-reader distance"
    assert [line[-1] for line in lines] == ["2.50 mm", "-"]
    assert "can be smaller" in table
    assert "readers" not in landmark_table([row(1, good=0.1)], None)


def test_names_are_escaped() -> None:
    assert "<b>" not in landmark_table([row(1, **{"<b>": 1.0})])


def test_the_line_of_the_readers_is_in_the_unit_of_the_errors() -> None:
    line = overall_readers("px", READERS)
    assert line is not None and (line.distance, line.unit) == (12.0, "px")
    assert (
        overall_readers("mm", {"mre_px": 1.0, "mre_mm": None}) is None and overall_readers("mm", None) is None
    )


def test_a_run_without_validation_images_does_not_promise_a_validation() -> None:
    html = landmark_table([{"epoch": 1, "train/loss": 1.0}])
    assert "has no validation images" in html and "after the first validation" not in html
    assert "after the first validation" in landmark_table([])
