from __future__ import annotations

from typing import Any

import pytest

from ui.runs.evaluation_view import _interval_note, _interval_text
from ui.text.language import speaking

RECORD: dict[str, Any] = {
    "format_version": 2,
    "case_kind": "patient",
    "num_cases": 8,
    "intervals": {"least_cases": 6},
    "interval": {"mre_mm": [1.0, 2.5], "sdr_2mm": [0.5, 0.75]},
}


def test_an_interval_is_shown_with_what_it_is_over() -> None:
    assert _interval_text(RECORD, "mre_mm", "mm") == "95 % interval 1.00 to 2.50 mm"
    assert _interval_text(RECORD, "sdr_2mm", "%") == "95 % interval 50.0 to 75.0 %"
    assert "Intervals are over 8 patients" in _interval_note(RECORD)
    assert _interval_note({**RECORD, "case_kind": "image"}) == ""


@pytest.mark.parametrize(
    ("kind", "num", "text"),
    [("image", 1, "1 image,"), ("video", 3, "3 videos,"), ("group", 2, "2 patients or videos,")],
)
def test_where_cases_are_too_few_the_page_says_so(kind: str, num: int, text: str) -> None:
    few = {**RECORD, "case_kind": kind, "num_cases": num, "interval": {"mre_mm": None}}
    assert _interval_text(few, "mre_mm", "mm") == f"no interval: {text} at least 6 needed"
    with speaking("fa"):
        assert "بدون بازه" in _interval_text(few, "mre_mm", "mm")


def test_an_evaluation_of_version_1_is_shown_and_its_intervals_are_not_trusted() -> None:
    old = {"format_version": 1, "interval": {"mre_mm": [1.0, 2.5], "sdr_2mm": None}}
    assert _interval_text(old, "mre_mm", "mm") == "95 % interval 1.00 to 2.50 mm"
    assert _interval_text(old, "sdr_2mm", "%") == "95 % interval -"
    assert "too narrow for few images" in _interval_note(old)
