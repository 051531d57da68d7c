from __future__ import annotations

import pytest

from ui.annotator.picture import read_typed


@pytest.mark.parametrize(
    ("typed", "value"), [("12.25", 12.25), ("۱۲٫۲۵", 12.25), ("0,5", 0.5), (" \u200e", None)]
)
def test_a_coordinate_is_read_in_every_digit_system(typed: str, value: float | None) -> None:
    assert read_typed(typed) == {"value": value}


@pytest.mark.parametrize("typed", ["1,000", "x", "nan", "1 2"])
def test_a_coordinate_that_is_not_a_number_is_refused(typed: str) -> None:
    assert repr(typed) in read_typed(typed)["mistake"]
