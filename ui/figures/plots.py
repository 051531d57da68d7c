"""What all curves over epochs share: one axis for both phases, the look, and ticks at whole epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from backend.run.best import error_unit as error_unit
from ui.figures.theme import AXIS_COLOR, GRID_COLOR
from ui.text.say import say

MAX_POINTS = 2000
HEIGHT_PX = 300
REFINE = "refine"
# up to so many epochs, each has a tick: plotly's own choice would be 1.2, 1.4 ...
MAX_SINGLE_TICKS = 12
Row = Mapping[str, Any]


def in_one_line(rows: Sequence[Row], events: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Return rows and events with the refinement's epochs counted on from the first network's last one.

    The beginning of the refinement is added as an event.
    """
    before = max((row["epoch"] for row in rows if row.get("phase") != REFINE), default=0)

    def shift(item: Row) -> Row:
        counts_on = item.get("phase") == REFINE and isinstance(item.get("epoch"), int)
        return {**item, "epoch": item["epoch"] + before} if counts_on else item

    beginning: list[Row] = []
    if any(row.get("phase") == REFINE for row in rows):
        beginning = [{"kind": "refinement", "epoch": before}]
    return [shift(row) for row in rows], [*beginning, *(shift(event) for event in events)]


def place_in_line(best: Row | None, rows: Sequence[Row]) -> Row | None:
    """Return the best epoch, counted as by `in_one_line`; None if it is not one of this run."""
    epochs = {(row.get("phase"), row["epoch"]) for row in rows}
    if best is None or (best.get("phase"), best["epoch"]) not in epochs:
        return None
    return in_one_line([*rows, best], ())[0][-1]


def thin(rows: Sequence[Row], max_points: int = MAX_POINTS) -> list[Row]:
    """Return at most `max_points` rows, evenly spread, with the first and the last."""
    if len(rows) <= max_points:
        return list(rows)
    last = len(rows) - 1
    return [rows[round(i * last / (max_points - 1))] for i in range(max_points)]


def plain_figure(**layout: Any) -> go.Figure:
    """Return an empty figure with axes in the page's look, light and dark; `layout` is plotly's."""
    figure = go.Figure()
    figure.update_layout(
        paper_bgcolor="rgba(0, 0, 0, 0)",
        plot_bgcolor="rgba(0, 0, 0, 0)",
        font={"color": AXIS_COLOR, "size": 13},
        hovermode="x unified",
        **layout,
    )
    for update_axes in (figure.update_xaxes, figure.update_yaxes):
        update_axes(gridcolor=GRID_COLOR, zeroline=False)
    return figure


def curve_figure(*, log_axis: bool, last_epoch: int, y_title: str = "") -> go.Figure:
    """Return an empty figure over epochs."""
    figure = plain_figure(
        height=HEIGHT_PX,
        margin={"l": 50, "r": 12, "t": 44, "b": 40},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 1, "xanchor": "right"},
        uirevision="kept",  # a zoom survives the next update
    )
    figure.update_xaxes(title=say("epoch"), rangemode="nonnegative", **whole_epochs(last_epoch))
    figure.update_yaxes(title=y_title, type="log" if log_axis else "linear")
    return figure


def whole_epochs(last_epoch: int) -> dict[str, Any]:
    """Return the tick settings of an axis with few epochs: one tick at each."""
    return {"tick0": 0, "dtick": 1} if last_epoch <= MAX_SINGLE_TICKS else {}
