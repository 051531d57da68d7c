"""The values of each epoch of a run: panels of lines for the curves, and a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from ui.figures.plots import Row, error_unit
from ui.figures.table import cell_html, table_html
from ui.figures.theme import TRAIN_COLOR, VALID_COLOR
from ui.text.say import say

TALL_PX, LOW_PX = 190, 84  # heights of panels
MAX_TABLE_ROWS = 200


@dataclass(frozen=True)
class Line:
    """One curve. `scale` converts the row's value to the shown one, `format` formats it."""

    key: str
    name: str
    color: str
    symbol: str
    format: str
    unit: str = ""
    scale: float = 1.0
    dash: str = "solid"
    smooths: bool = True

    def value(self, row: Row) -> float | None:
        stored = row.get(self.key)
        return None if stored is None else float(stored) * self.scale

    def is_known(self, rows: Sequence[Row]) -> bool:
        return any(row.get(self.key) is not None for row in rows)

    def text(self, row: Row) -> str:
        value = self.value(row)
        return "-" if value is None else f"{value:{self.format}}{self.unit}"


@dataclass(frozen=True)
class Panel:
    """Curves over one axis of values."""

    title: str
    lines: tuple[Line, ...]
    height_px: int = LOW_PX
    follows_log: bool = False


def known_panels(rows: Sequence[Row], memory_title: str) -> list[Panel]:
    """Return the panels that have a value, from top to bottom."""
    unit = error_unit(rows)
    error = say("axis_mre", unit=unit)
    train, valid = (TRAIN_COLOR, "circle"), (VALID_COLOR, "diamond")

    def alone(key: str, title: str, *look: Any, **more: Any) -> Panel:
        return Panel(title, (Line(key, title, *look, **more),))

    panels = [
        Panel(
            say("losses"),
            (
                Line("train/loss", say("train"), *train, ".4f"),
                Line("val/loss", say("validation"), *valid, ".4f"),
            ),
            TALL_PX,
            follows_log=True,
        ),
        Panel(
            error,
            (
                Line(f"val/mre_{unit}", error, *valid, ".2f", f" {unit}"),
                Line(f"val/unrefined_mre_{unit}", say("unrefined"), *train, ".2f", f" {unit}", dash="dash"),
            ),
            TALL_PX,
            follows_log=True,
        ),
        alone("val/sdr_2mm", say("axis_sdr"), *valid, ".1f", " %", scale=100.0),
        alone("lr", say("lr"), *train, ".2e", smooths=False),
        alone("images_per_s", say("axis_speed"), *train, ".1f"),
        alone("memory_bytes", memory_title, *train, ".2f", " GiB", scale=2**-30, smooths=False),
    ]
    return [panel for panel in panels if any(line.is_known(rows) for line in panel.lines)]


def curves_table(rows: Sequence[Row], memory_title: str = "") -> str:
    """Render the values of the curves as a table, the newest epoch first."""
    lines = [
        (panel, line)
        for panel in known_panels(rows, memory_title)
        for line in panel.lines
        if line.is_known(rows)
    ]
    newest = list(rows)[::-1][:MAX_TABLE_ROWS]
    heads = [say("epoch"), say("phase"), *(_head(panel, line) for panel, line in lines)]
    body = [
        cell_html(str(row["epoch"]), row["epoch"])
        + cell_html(say(f"phase_{row.get('phase', 'train')}"))
        + "".join(cell_html(line.text(row), line.value(row)) for _, line in lines)
        for row in newest
    ]
    note = say("values_cut", shown=len(newest), num=len(rows)) if len(newest) < len(rows) else ""
    box = table_html(say("values"), heads, [f"<tr>{row}</tr>" for row in body], classes="values-table")
    return f'{box}<p class="note">{escape(note)}</p>'


def _head(panel: Panel, line: Line) -> str:
    return panel.title if line.name == panel.title else f"{panel.title}: {line.name}"
