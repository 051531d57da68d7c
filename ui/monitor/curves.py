"""A run's curves over one axis of epochs: loss, error, SDR, learning rate, speed and memory."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from statistics import median_low
from typing import Any

import plotly.graph_objects as go

from ui.figures.plots import (
    REFINE,
    Row,
    error_unit,
    in_one_line,
    place_in_line,
    plain_figure,
    thin,
    whole_epochs,
)
from ui.figures.theme import AXIS_COLOR, BEST_COLOR, GRID_COLOR, HOVER_BACKGROUND, HOVER_COLOR, MARK_COLOR
from ui.monitor.values import TALL_PX, Line, Panel, known_panels
from ui.text.say import from_left, quote, say

MARKED_EVENTS = ("refinement", "lr_lowered", "oom_retry", "early_stop", "resumed")
MIN_LABEL_GAP = 0.06  # share of the axis: a line of small type on a phone
GAP_PX = 44  # above each panel, for its title
BOTTOM_PX = 44
CLIP_AT = 5  # times the best error; the first epochs have a hundred times as much
TITLE_WIDTH, TITLE_GAP = 50, 3  # characters: what fits on a phone, and the space between two parts
UNSEEN = re.compile("<[^>]*>|[\u2066-\u2069]")  # markup and marks of direction, which have no width
SIGNS = {"circle": "●", "diamond": "◆", "square": "■", "star": "★"}


@dataclass(frozen=True)
class CurveOptions:
    """The choices of how the curves are drawn. `smoothing`: epochs averaged on each side; 0: none."""

    smoothing: int = 0
    log_axis: bool = False
    clip: bool = True


@dataclass(frozen=True)
class ReaderDistance:
    """The inter-reader distance on the validation images, in the unit of the errors."""

    distance: float
    unit: str


def plot_curves(
    rows: Sequence[Row],
    events: Sequence[Row],
    options: CurveOptions = CurveOptions(),
    *,
    best: Row | None = None,
    readers: ReaderDistance | None = None,
    memory_title: str = "",
    revision: str = "kept",
) -> go.Figure:
    """Plot everything known about each epoch, one panel below another, zoomed together.

    A panel without values is left out. The refinement's epochs follow those of the first network, with
    separate curves, since it learns something else. `best`, the epoch of the weights in best.pt, is a star;
    events that changed the training are thin lines through all panels. A zoom lasts while `revision` stays
    the same.
    """
    best = place_in_line(best, rows)
    rows, events = in_one_line(rows, events)
    panels = known_panels(rows, memory_title)
    last_epoch = max((row["epoch"] for row in rows), default=0)
    figure, tops = _panel_figure(panels, options, last_epoch, revision)
    error_key = f"val/mre_{error_unit(rows)}"
    for number, panel in enumerate(panels):
        axis = _axis(number)
        for line in panel.lines:
            _add_line(figure, rows, line, axis, options.smoothing)
        titles = []
        if best is not None and panel.follows_log:
            titles += _add_star(figure, best, panel, axis)
        titles += [
            _line_title(line) for line in panel.lines if line.name != panel.title and line.is_known(rows)
        ]
        if panel.lines[0].key == error_key:
            titles += _add_readers(figure, axis, readers)
            _clip(figure, rows, panel, number, tops[number], options, readers)
        _add_title(figure, panel.title, titles, tops[number])
    _add_marks(figure, rows, events)
    return figure


def smooth(values: Sequence[float], reach: int) -> list[float]:
    """Return the mean of each value and up to `reach` values before and after it.

    A mean of past values only, such as an exponential one, would lag far behind an error that falls by
    decades.
    """
    windows = (values[max(0, i - reach) : i + reach + 1] for i in range(len(values)))
    return [sum(window) / len(window) for window in windows]


def _panel_figure(
    panels: Sequence[Panel], options: CurveOptions, last_epoch: int, revision: str
) -> tuple[go.Figure, list[float]]:
    """Return empty panels over one axis of epochs, and the top of each, as a share of the height."""
    inner = sum(GAP_PX + panel.height_px for panel in panels) or 1
    figure = plain_figure(
        height=inner + BOTTOM_PX,
        margin={"l": 56, "r": 12, "t": 0, "b": BOTTOM_PX},
        showlegend=False,
        hoversubplots="axis",
        hoverlabel={"bgcolor": HOVER_BACKGROUND, "font": {"color": HOVER_COLOR, "size": 12}},
        uirevision=revision,
    )
    tops, done = [], 0
    for number, panel in enumerate(panels):
        top = 1 - (done + GAP_PX) / inner
        done += GAP_PX + panel.height_px
        is_log = options.log_axis and panel.follows_log
        figure.update_layout(
            {
                f"yaxis{number + 1 if number else ''}": {
                    "domain": [max(0.0, 1 - done / inner), top],
                    "type": "log" if is_log else "linear",
                    "gridcolor": GRID_COLOR,
                    "zeroline": False,
                    "nticks": 6 if panel.height_px == TALL_PX else 4,
                    "rangemode": "normal" if panel.follows_log else "tozero",
                    "anchor": "x",
                    "exponentformat": "e" if panel.lines[0].key == "lr" else "B",
                    "uirevision": f"{revision} {is_log} {options.clip}",  # another option overrides a zoom
                }
            }
        )
        tops.append(top)
    last_axis = _axis(max(0, len(panels) - 1))
    figure.update_xaxes(
        title=say("epoch"), rangemode="nonnegative", anchor=last_axis, **whole_epochs(last_epoch)
    )
    return figure, tops


def _axis(number: int) -> str:
    return f"y{number + 1}" if number else "y"


def _add_line(figure: go.Figure, rows: Sequence[Row], line: Line, axis: str, smoothing: int) -> None:
    """Add a curve with a gap between the phases; raw values stay faintly visible behind a smoothed one."""
    measured = [row for row in rows if row.get(line.key) is not None]
    phases = [[row for row in measured if (row.get("phase") == REFINE) is second] for second in (False, True)]
    is_smoothed = smoothing > 0 and line.smooths
    raw: list[Row] = []
    curve: list[Row] = []
    for phase in filter(None, phases):
        values = [value for row in phase if (value := line.value(row)) is not None]
        gap: list[Row] = [{"epoch": None, "value": None}] if curve else []
        points: list[Row] = [
            {"epoch": row["epoch"], "value": v} for row, v in zip(phase, values, strict=True)
        ]
        raw += [*gap, *thin(points)]
        smoothed = smooth(values, smoothing) if is_smoothed else values
        curve += [*gap, *thin([{**p, "value": v} for p, v in zip(points, smoothed, strict=True)])]
    if not curve:
        return
    if is_smoothed:
        _add_scatter(figure, raw, line, axis, opacity=0.3, hoverinfo="skip", width=1, has_marks=False)
    name = say("smoothed", name=line.name) if is_smoothed else line.name
    template = f"%{{y:{line.format}}}{line.unit}"
    _add_scatter(
        figure, curve, line, axis, name=name, hovertemplate=template, width=2,
        has_marks=len(curve) <= 60 and line.dash == "solid",
    )  # fmt: skip


def _add_scatter(
    figure: go.Figure,
    points: Sequence[Row],
    line: Line,
    axis: str,
    *,
    width: int,
    has_marks: bool,
    **more: Any,
) -> None:
    """Add the points of a curve to a panel, as a line, with marks or without."""
    figure.add_scatter(
        x=[point["epoch"] for point in points],
        y=[point["value"] for point in points],
        yaxis=axis,
        mode="lines+markers" if has_marks else "lines",
        line={"color": line.color, "width": width, "dash": line.dash},
        marker={"symbol": line.symbol, "size": 6},
        **more,
    )


def _add_star(figure: go.Figure, best: Row, panel: Panel, axis: str) -> list[str]:
    """Mark the epoch with the best error; returns the text for the panel's title."""
    lines = {line.key: line for line in panel.lines}
    line = lines.get("val/loss") or panel.lines[0]
    value = line.value(best)
    if value is None:
        return []
    marker = {"symbol": "star", "size": 14, "color": BEST_COLOR}
    figure.add_scatter(
        x=[best["epoch"]], y=[value], yaxis=axis, mode="markers", name=say("best_mark"), marker=marker,
        hoverinfo="skip"
    )  # fmt: skip
    text = say("best_mark") if "val/loss" in lines else say("best_value", value=line.text(best))
    return [_colored("star", BEST_COLOR, text)]


def _add_readers(figure: go.Figure, axis: str, readers: ReaderDistance | None) -> list[str]:
    """Draw the inter-reader distance as a line; returns the text for the panel's title."""
    if readers is None:
        return []
    figure.add_shape(
        type="line", xref="paper", x0=0, x1=1, yref=axis, y0=readers.distance, y1=readers.distance,
        layer="below",
        line={"color": AXIS_COLOR, "width": 2, "dash": "dashdot"},
    )  # fmt: skip
    text = say("readers_line", distance=f"{readers.distance:.2f} {readers.unit}")
    return [f"┅ {escape(text)}"]


def _clip(
    figure: go.Figure,
    rows: Sequence[Row],
    panel: Panel,
    number: int,
    top: float,
    options: CurveOptions,
    readers: ReaderDistance | None,
) -> None:
    """Cut off errors far above the best, but never more than half of them, and say how many are cut off."""
    line = panel.lines[0]
    values = [value for row in rows if (value := line.value(row)) is not None]
    if not values or options.log_axis or not options.clip:
        return
    best = min((value for value in values if value > 0), default=0.0)
    limit = max(CLIP_AT * best, median_low(values))
    clipped = [value for value in values if value > limit]
    if not clipped:
        return
    highest = limit
    if readers is not None and readers.distance < 2 * limit:
        highest = max(limit, 1.02 * readers.distance)
    note = say("clipped", num=len(clipped), value=f"{max(clipped):{line.format}}{line.unit}")
    figure.update_layout({f"yaxis{number + 1 if number else ''}": {"range": [0, 1.05 * highest]}})
    figure.add_annotation(
        text=from_left("▲ " + quote(note)),
        xref="paper", x=1, xanchor="right", yref="paper", y=top, yanchor="top", showarrow=False,
        font={"size": 11},
    )  # fmt: skip


def _line_title(line: Line) -> str:
    return _colored("dash" if line.dash != "solid" else line.symbol, line.color, line.name)


def _colored(symbol: str, color: str, text: str) -> str:
    return f'<span style="color:{color}">{SIGNS.get(symbol, "╌")}</span> {escape(text)}'


def _add_title(figure: go.Figure, title: str, parts: Sequence[str], top: float) -> None:
    """Add a panel's name and what its symbols mean above it, since a phone has no room for a legend."""
    lines = [[f"<b>{escape(title)}</b>"]]
    for part in parts:
        width = sum(len(UNSEEN.sub("", text)) + TITLE_GAP for text in [*lines[-1], part])
        if width <= TITLE_WIDTH:
            lines[-1].append(part)
        else:
            lines.append([part])
    figure.add_annotation(
        text="<br>".join(from_left((TITLE_GAP * "\u00a0").join(map(quote, line))) for line in lines),
        xref="paper", x=0, xanchor="left", yref="paper", y=top, yanchor="bottom", yshift=4, align="left",
        showarrow=False, font={"size": 11},
    )  # fmt: skip


def _add_marks(figure: go.Figure, rows: Sequence[Row], events: Sequence[Row]) -> None:
    """Add a thin line at each epoch in which an event changed the training, with a label along it.

    Of lines close together only the first has a label; the list of events has them all.
    """
    labels: dict[int, list[str]] = {}
    for event in events:
        # a shortage in a validation or a preview changes no training step
        has_line = event.get("kind") in MARKED_EVENTS and "pass_micro_batch" not in event
        if has_line and isinstance(event.get("epoch"), int):
            label = say(
                f"mark_{event['kind']}", lr=event.get("new_lr") or 0, images=event.get("largest_part")
            )
            at_epoch = labels.setdefault(event["epoch"], [])
            if label not in at_epoch:
                at_epoch.append(label)

    last_epoch = max([*(row["epoch"] for row in rows), *labels], default=0)
    last_labeled = -math.inf
    for epoch in sorted(labels):
        is_free = epoch - last_labeled >= MIN_LABEL_GAP * last_epoch
        last_labeled = epoch if is_free else last_labeled
        figure.add_shape(
            type="line", xref="x", x0=epoch, x1=epoch, yref="paper", y0=0, y1=1, layer="below",
            line={"color": MARK_COLOR, "width": 1, "dash": "dot"},
        )  # fmt: skip
        if is_free:
            figure.add_annotation(
                text=", ".join(labels[epoch]), x=epoch, xref="x", y=1, yref="paper", yshift=-GAP_PX,
                textangle=-90, xanchor="right", yanchor="top", showarrow=False,
                font={"size": 10, "color": MARK_COLOR},
            )  # fmt: skip
