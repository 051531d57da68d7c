"""Metrics rows to plotly figures. Pure: no files, no components."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from ui.text import say
from ui.theme import AXIS_COLOUR, BEST_COLOUR, GRID_COLOUR, MARK_COLOUR, TRAIN_COLOUR, VALID_COLOUR

MAX_POINTS = 2000
HEIGHT_PX = 300
REFINE = "refine"
MARKED_EVENTS = ("refinement", "lr_lowered", "oom_retry", "early_stop", "resumed")
MIN_LABEL_GAP = 0.06  # of the axis: on a phone, a line of small type
Row = Mapping[str, Any]


def plot_losses(rows: Sequence[Row], *, log_axis: bool, events: Sequence[Row] = ()) -> go.Figure:
    """Training and validation loss by epoch, at the epoch with the best error marked; events as thin lines.

    The refinement's epochs follow those of the first network, its curve apart: it learns something else.
    """
    rows, events = in_one_line(rows, events)
    figure = curve_figure(log_axis=log_axis)
    _add_curve(figure, rows, "train/loss", say("train"), TRAIN_COLOUR, "circle")
    _add_curve(figure, rows, "val/loss", say("validation"), VALID_COLOUR, "diamond")
    best = _best(rows)
    if best is not None and best.get("val/loss") is not None:
        _add_star(figure, best["epoch"], best["val/loss"], say("best_mark"))
    _add_marks(figure, rows, events)
    return figure


def plot_errors(rows: Sequence[Row], *, log_axis: bool, events: Sequence[Row] = ()) -> go.Figure:
    """Mean radial error on the validation images by epoch, its best marked; in mm where known, else in px.

    Events stand as thin lines. During the refinement, the first network's error stands beside it.
    """
    rows, events = in_one_line(rows, events)
    unit = error_unit(rows)
    figure = curve_figure(log_axis=log_axis, y_title=f"MRE, {unit}")
    key = f"val/mre_{unit}"
    _add_curve(figure, rows, key, f"MRE, {unit}", VALID_COLOUR, "diamond")
    _add_curve(
        figure, rows, f"val/unrefined_mre_{unit}", say("unrefined"), TRAIN_COLOUR, "circle", dash="dash"
    )
    best = _best(rows)
    if best is not None:
        _add_star(figure, best["epoch"], best[key], say("best_value", value=f"{best[key]:.2f} {unit}"))
        if not log_axis:
            figure.update_yaxes(range=[0, _clipped_top([row[key] for row in rows if row.get(key)])])
    _add_marks(figure, rows, events)
    return figure


def in_one_line(rows: Sequence[Row], events: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Rows and events with the refinement's epochs counted on from the first network's last one, and an event where
    it begins."""
    before = max((row["epoch"] for row in rows if row.get("phase") != REFINE), default=0)

    def moved(item: Row) -> Row:
        counts_on = item.get("phase") == REFINE and isinstance(item.get("epoch"), int)
        return {**item, "epoch": item["epoch"] + before} if counts_on else item

    begins: list[Row] = []
    if any(row.get("phase") == REFINE for row in rows):
        begins = [{"kind": "refinement", "epoch": before}]
    return [moved(row) for row in rows], [*begins, *(moved(event) for event in events)]


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


def _best(rows: Sequence[Row]) -> Row | None:
    validated = [row for row in rows if row.get("val/mre_px") is not None]
    return min(validated, key=lambda row: float(row["val/mre_px"]), default=None)


def _add_star(figure: go.Figure, epoch: int, value: float, name: str) -> None:
    marker = {"symbol": "star", "size": 14, "color": BEST_COLOUR}
    figure.add_scatter(x=[epoch], y=[value], mode="markers", name=name, marker=marker)


def _add_marks(figure: go.Figure, rows: Sequence[Row], events: Sequence[Row]) -> None:
    """A thin line at each epoch in which the training's course changed, its label written along it.

    Where lines stand close, only the first of them has a label: all are told in the list of events.
    """
    words: dict[int, list[str]] = {}
    for event in events:
        if event.get("kind") in MARKED_EVENTS and isinstance(event.get("epoch"), int):
            label = say(
                f"mark_{event['kind']}", lr=event.get("new_lr") or 0, images=event.get("largest_part")
            )
            words.setdefault(event["epoch"], [])
            words[event["epoch"]] += [label] if label not in words[event["epoch"]] else []
    last_epoch = max([*(row["epoch"] for row in rows), *words], default=0)
    labelled = -math.inf
    for epoch in sorted(words):
        is_free = epoch - labelled >= MIN_LABEL_GAP * last_epoch
        labelled = epoch if is_free else labelled
        figure.add_vline(
            epoch,
            line={"color": MARK_COLOUR, "width": 1, "dash": "dot"},
            annotation={
                "text": ", ".join(words[epoch]) if is_free else "",
                "textangle": -90,
                "xanchor": "right",
                "yanchor": "top",
                "y": 1,
                "font": {"size": 10, "color": MARK_COLOUR},
                "showarrow": False,
            },
        )


def _add_curve(
    figure: go.Figure,
    rows: Sequence[Row],
    key: str,
    name: str,
    colour: str,
    symbol: str,
    *,
    dash: str = "solid",
) -> None:
    shown = thin([row for row in rows if row.get(key) is not None])
    if not shown:
        return
    points: list[tuple[int | None, float | None]] = []
    for before, row in zip([shown[0], *shown], shown, strict=False):
        if row.get("phase") != before.get("phase"):
            points.append((None, None))  # a gap between the phases
        points.append((row["epoch"], row[key]))
    figure.add_scatter(
        x=[x for x, _ in points],
        y=[y for _, y in points],
        name=name,
        mode="lines+markers" if len(shown) <= 60 and dash == "solid" else "lines",
        line={"color": colour, "width": 2, "dash": dash},
        marker={"symbol": symbol, "size": 6},
    )


def plain_figure(**layout: Any) -> go.Figure:
    """An empty figure with axes, in the page's look, light and dark; `layout` is plotly's."""
    figure = go.Figure()
    figure.update_layout(
        paper_bgcolor="rgba(0, 0, 0, 0)",
        plot_bgcolor="rgba(0, 0, 0, 0)",
        font={"color": AXIS_COLOUR, "size": 13},
        hovermode="x unified",
        **layout,
    )
    for update_axes in (figure.update_xaxes, figure.update_yaxes):
        update_axes(gridcolor=GRID_COLOUR, zeroline=False)
    return figure


def curve_figure(*, log_axis: bool, y_title: str = "") -> go.Figure:
    """An empty figure over epochs, as every curve of the page has it."""
    figure = plain_figure(
        height=HEIGHT_PX,
        margin={"l": 50, "r": 12, "t": 44, "b": 40},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 1, "xanchor": "right"},
        uirevision="kept",  # a zoom survives the next update
    )
    figure.update_xaxes(title=say("epoch"), rangemode="nonnegative")
    figure.update_yaxes(title=y_title, type="log" if log_axis else "linear")
    return figure
