"""A record as plotly figures.

Transparent, and in colors that every kind of color vision tells apart (Okabe and Ito) in light and in dark;
what differs in color differs in shape or dash too.
"""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from backend.evaluation.record import Record
from backend.evaluation.statistics import INTERVAL_MM, QUANTILE_SHARES
from backend.evaluation.text import Translate, to_english

PREDICTION_COLOR = "#0072B2"
READERS_COLOR = "#D55E00"
UNREFINED_COLOR = "#CC79A7"
AXIS_COLOR = "#7d828a"
GRID_COLOR = "rgba(128, 134, 142, 0.25)"
HEIGHT_PX = 340
ROW_PX = 24  # of a bar
CURVE_SHARE = 99  # per cent: the curve's axis ends there, and zooming out shows the rest
MAX_SCATTERED = 4000


def plot_cumulative(record: Record, translate: Translate = to_english) -> go.Figure:
    """Plot the share of landmarks by the error they do not exceed, and that of the inter-reader distance."""
    unit = record["unit"]
    figure = _figure(translate("figure_error", unit=unit), translate("figure_share_within"))
    curves = [("figure_prediction", record, PREDICTION_COLOR, "solid")]
    if record.get("unrefined"):
        curves.append(("figure_unrefined", record["unrefined"], UNREFINED_COLOR, "dot"))
    if record["readers"]["between"]:
        curves.append(("figure_readers", record["readers"]["between"], READERS_COLOR, "dash"))
    ends = []
    for name, statistics, color, dash in curves:
        if statistics["quantiles"]:
            ends.append(statistics["quantiles"][CURVE_SHARE])
            figure.add_scatter(
                x=[0, *statistics["quantiles"]],
                y=[0, *(100 * share for share in QUANTILE_SHARES)],
                name=translate(name),
                mode="lines",
                line={"color": color, "dash": dash, "width": 2, "shape": "hv"},
                hovertemplate="%{y:.0f} % &#8804; %{x:.2f} " + unit,
            )
    if unit == "mm":
        figure.add_vline(
            INTERVAL_MM,
            line={"color": AXIS_COLOR, "width": 1, "dash": "dot"},
            annotation_text=f"{INTERVAL_MM:g} mm",
            annotation_position="top",
        )
    if ends:
        figure.update_xaxes(range=[0, max(ends) * 1.05 or 1])
    figure.update_yaxes(range=[0, 101])
    return figure


def plot_landmarks(record: Record, translate: Translate = to_english) -> go.Figure:
    """Plot the MRE of each landmark with its interval, worst on top, and the inter-reader distance."""
    names = [n for n in record["landmarks_worst_first"] if record["per_landmark"][n]["num_points"]]
    figure = _bars(names, [record["per_landmark"][name] for name in names], record["unit"], translate)
    between = record["readers"]["between"]
    if between:
        distances = [between["per_landmark"][name][f"mre_{record['unit']}"] for name in names]
        figure.add_scatter(
            x=distances,
            y=names,
            mode="markers",
            name=translate("figure_readers"),
            marker={
                "symbol": "diamond-open",
                "size": 9,
                "color": READERS_COLOR,
                "line": {"width": 2},
            },
            hovertemplate="%{x:.2f} " + record["unit"],
        )
    return figure


def plot_groups(record: Record, column: str, translate: Translate = to_english) -> go.Figure:
    """Plot the MRE of each group of images with its interval; `column` is a key of `by_group`."""
    groups = record["by_group"][column]
    names = [
        translate("figure_images", value=value or translate("figure_unknown"), num=statistics["num_images"])
        for value, statistics in groups.items()
    ]
    return _bars(names, list(groups.values()), record["unit"], translate)


def plot_confidence(record: Record, translate: Translate = to_english) -> go.Figure:
    """Plot every landmark's error by the rank of its confidence, and the mean of each bin of equal counts.

    By rank, because a network's confidences crowd near one end of 0 to 1.
    """
    unit = record["unit"]
    figure = _figure(translate("figure_rank"), translate("figure_error", unit=unit))
    ranked = sorted(
        (confidence, error)
        for row, errors in zip(record["errors"]["confidence"], record["errors"][unit], strict=True)
        for confidence, error in zip(row, errors, strict=True)
        if confidence is not None and error is not None
    )
    points = [(100 * (rank + 0.5) / len(ranked), error) for rank, (_, error) in enumerate(ranked)]
    points = points[:: max(1, -(-len(points) // MAX_SCATTERED))]
    figure.add_scatter(
        x=[rank for rank, _ in points],
        y=[error for _, error in points],
        mode="markers",
        name=translate("figure_single"),
        marker={"size": 4, "color": AXIS_COLOR, "opacity": 0.35},
        hoverinfo="skip",
    )
    bins = record["confidence"]["bins"]
    figure.add_scatter(
        x=[100 * (number + 0.5) / len(bins) for number in range(len(bins))],
        y=[bin["mean_error"] for bin in bins],
        mode="lines+markers",
        name=translate("figure_bin"),
        customdata=[bin["mean_confidence"] for bin in bins],
        line={"color": PREDICTION_COLOR, "width": 2},
        marker={"symbol": "diamond", "size": 9},
        hovertemplate=translate("figure_confidence")
        + " %{customdata:.3f}: %{y:.2f} "
        + unit
        + "<extra></extra>",
    )
    figure.update_xaxes(range=[0, 100])
    if record["quantiles"]:
        figure.update_yaxes(range=[0, record["quantiles"][CURVE_SHARE] * 1.1 or 1])
    return figure


def to_html(figure: go.Figure) -> str:
    """Return a figure as a part of a page that holds `plotly_script` already."""
    html: str = figure.to_html(
        full_html=False, include_plotlyjs=False, config={"responsive": True, "displaylogo": False}
    )
    return html


def plotly_script() -> str:
    """Return all of plotly.js, to be written inside one <script>."""
    script: str = get_plotlyjs()
    assert "</script" not in script, "it would end the element that holds it"
    return script


def _bars(names: list[str], rows: list[Any], unit: str, translate: Translate) -> go.Figure:
    """Plot horizontal bars of MRE, the first on top, each with its interval if it has one."""
    figure = _figure(translate("figure_mean_error", unit=unit), "")
    key = f"mre_{unit}"
    means = [row[key] for row in rows]
    intervals = [row["interval"][key] or [row[key], row[key]] for row in rows]
    figure.add_bar(
        x=means,
        y=names,
        orientation="h",
        name=translate("figure_interval"),
        marker={"color": PREDICTION_COLOR, "opacity": 0.45},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [_length(high, mean) for mean, (_, high) in zip(means, intervals, strict=True)],
            "arrayminus": [_length(mean, low) for mean, (low, _) in zip(means, intervals, strict=True)],
            "color": PREDICTION_COLOR,
            "thickness": 2,
        },
        hovertemplate="%{y}: %{x:.2f} " + unit + "<extra></extra>",
    )
    figure.update_layout(height=130 + ROW_PX * max(3, len(names)), hovermode="closest", bargap=0.35)
    figure.update_xaxes(rangemode="tozero")
    figure.update_yaxes(autorange="reversed", type="category", automargin=True, showgrid=False)
    return figure


def _length(high: float | None, low: float | None) -> float | None:
    return None if high is None or low is None else high - low


def _figure(x_title: str, y_title: str) -> go.Figure:
    """Return an empty figure in the common style: transparent, so that it fits light and dark pages."""
    figure = go.Figure()
    figure.update_layout(
        template="none",
        height=HEIGHT_PX,
        margin={"l": 55, "r": 14, "t": 34, "b": 96},
        paper_bgcolor="rgba(0, 0, 0, 0)",
        plot_bgcolor="rgba(0, 0, 0, 0)",
        font={"color": AXIS_COLOR, "size": 13, "family": "system-ui, sans-serif"},
        # at the foot: the page lays a title over the head, and on a small screen the legend takes two lines
        legend={"orientation": "h", "y": 0, "yref": "container", "yanchor": "bottom"},
        hovermode="closest",
        dragmode=False,  # a finger on a small screen scrolls the page
        uirevision="kept",
    )
    figure.update_xaxes(
        title={"text": x_title, "font": {"size": 13}},
        gridcolor=GRID_COLOR,
        zeroline=False,
        rangemode="nonnegative",
    )
    figure.update_yaxes(title={"text": y_title, "font": {"size": 13}}, gridcolor=GRID_COLOR, zeroline=False)
    return figure
