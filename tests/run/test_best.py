from __future__ import annotations

from typing import Any

import pytest

from backend.run.best import MeanError, best_row, error_unit


@pytest.mark.parametrize(
    ("error", "other", "is_below"),
    [
        (MeanError(5.0, 0.4), MeanError(4.0, 0.5), True),
        (MeanError(4.0, 0.5), MeanError(5.0, 0.4), False),
        (MeanError(4.0, 0.5), MeanError(5.0), True),  # one of them is known in px alone
        (MeanError(5.0), MeanError(4.0, 0.5), False),
        (MeanError(4.0, 0.4), MeanError(4.0, 0.4), False),
        (MeanError(), MeanError(4.0), False),
        (MeanError(4.0), MeanError(), False),
    ],
)
def test_errors_are_compared_in_mm_where_both_are_known_in_mm(
    error: MeanError, other: MeanError, is_below: bool
) -> None:
    assert error.is_below(other) is is_below


def rows(*errors: tuple[float | None, float | None]) -> list[dict[str, Any]]:
    return [{"epoch": i, "val/mre_px": px, "val/mre_mm": mm} for i, (px, mm) in enumerate(errors, start=1)]


@pytest.mark.parametrize(
    ("errors", "unit", "epoch"),
    [
        ([(5.0, 0.4), (4.0, 0.5)], "mm", 1),
        ([(5.0, None), (4.0, 0.5), (3.0, 0.6)], "px", 3),
        ([(5.0, 0.4), (None, None), (5.0, 0.4)], "mm", 1),
        ([(None, None)], "px", None),
        ([], "px", None),
    ],
)
def test_the_best_row_has_the_lowest_error_in_the_unit_of_them_all(
    errors: list[tuple[float | None, float | None]], unit: str, epoch: int | None
) -> None:
    known = rows(*errors)
    best = best_row(known)
    assert error_unit(known) == unit and (best and best["epoch"]) == epoch
