"""Metrics rows to plotly figures. Pure: no files, no components."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from ui.text import say
from ui.theme import AXIS_COLOUR, BEST_COLOUR, GRID_COLOUR, TRAIN_COLOUR, VALID_COLOUR

MAX_POINTS = 2000
HEIGHT_PX = 300
Row = Mapping[str, Any]


def plot_losses(rows: Sequence[Row], *, log_axis: bool) -> go.Figure:
    """Training and validation loss by epoch."""
    figure = _figure(log_axis=log_axis)
    _add_curve(figure, rows, "train/loss", say("train"), TRAIN_COLOUR, "circle")
    _add_curve(figure, rows, "val/loss", say("validation"), VALID_COLOUR, "diamond")
    return figure


def plot_errors(rows: Sequence[Row], *, log_axis: bool) -> go.Figure:
    """Mean radial error on the validation images by epoch, its best marked; in mm where known, else in px."""
    unit = error_unit(rows)
    figure = _figure(log_axis=log_axis, y_title=f"MRE, {unit}")
    key = f"val/mre_{unit}"
    _add_curve(figure, rows, key, f"MRE, {unit}", VALID_COLOUR, "diamond")
    best = min((row for row in rows if row.get("val/mre_px") is not None), key=_mre_px, default=None)
    if best is not None:
        figure.add_scatter(
            x=[best["epoch"]],
            y=[best[key]],
            mode="markers",
            name=f"{say('best_mark')}: {best[key]:.2f} {unit}",
            marker={"symbol": "star", "size": 14, "color": BEST_COLOUR},
        )
        if not log_axis:
            figure.update_yaxes(range=[0, _clipped_top([row[key] for row in rows if row.get(key)])])
    return figure


def _clipped_top(values: Sequence[float]) -> float:
    """The first epochs miss by a hundred times more: up to five times the best, so that the rest can be read."""
    return 1.05 * min(max(values), 5 * min(values))


def error_unit(rows: Sequence[Row]) -> str:
    """`mm` where every validated row has it, else `px`: the two never share an axis."""
    validated = [row for row in rows if row.get("val/mre_px") is not None]
    return "mm" if validated and all(row.get("val/mre_mm") is not None for row in validated) else "px"


def thin(rows: Sequence[Row], max_points: int = MAX_POINTS) -> list[Row]:
    """At most `max_points` rows, evenly spread, first and last among them."""
    if len(rows) <= max_points:
        return list(rows)
    last = len(rows) - 1
    return [rows[round(i * last / (max_points - 1))] for i in range(max_points)]


def _mre_px(row: Row) -> float:
    return float(row["val/mre_px"])


def _add_curve(figure: go.Figure, rows: Sequence[Row], key: str, name: str, colour: str, symbol: str) -> None:
    shown = thin([row for row in rows if row.get(key) is not None])
    if not shown:
        return
    figure.add_scatter(
        x=[row["epoch"] for row in shown],
        y=[row[key] for row in shown],
        name=name,
        mode="lines+markers" if len(shown) <= 60 else "lines",
        line={"color": colour, "width": 2},
        marker={"symbol": symbol, "size": 6},
    )


def _figure(*, log_axis: bool, y_title: str = "") -> go.Figure:
    figure = go.Figure()
    figure.update_layout(
        height=HEIGHT_PX,
        margin={"l": 50, "r": 12, "t": 44, "b": 40},
        paper_bgcolor="rgba(0, 0, 0, 0)",
        plot_bgcolor="rgba(0, 0, 0, 0)",
        font={"color": AXIS_COLOUR, "size": 13},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 1, "xanchor": "right"},
        hovermode="x unified",
        uirevision="kept",  # a zoom survives the next update
    )
    figure.update_xaxes(title=say("epoch"), gridcolor=GRID_COLOUR, zeroline=False, rangemode="nonnegative")
    figure.update_yaxes(
        title=y_title, gridcolor=GRID_COLOUR, zeroline=False, type="log" if log_axis else "linear"
    )
    return figure
