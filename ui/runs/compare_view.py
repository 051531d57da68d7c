"""Curves and tables of several runs, warnings about comparing them, and two runs on the same images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import plotly.graph_objects as go

from backend.config import RunConfig, settings_affecting
from backend.evaluation.paired import Difference, PairedComparison
from backend.evaluation.text import as_interval, in_unit
from ui.figures.plots import HEIGHT_PX, curve_figure, error_unit, in_one_line, place_in_line, thin
from ui.figures.table import SortKey, cell_html, table_html
from ui.runs.looks import Look
from ui.text.say import say, say_cases, say_count

METRICS = ("mre", "sdr", "val_loss", "train_loss")
"""The values whose curves can be laid over each other; the text of each is `metric_<name>`."""

LEGEND_ROW_PX = 22
Row = Mapping[str, Any]
Runs = Mapping[str, Sequence[Row]]
Looks = Mapping[str, Look]
Cells = list[tuple[str, SortKey]]
SIGN_WH = (40, 12)  # px
# as plotly draws them, in px
DASH_PX = {
    "solid": "", "dash": "6 4", "dot": "2 3", "dashdot": "6 3 2 3", "longdash": "11 4",
    "longdashdot": "11 3 2 3"
}  # fmt: skip
SYMBOL_PATHS = {
    "circle": "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0",
    "square": "M-4 -4h8v8h-8z",
    "diamond": "M0 -5l5 5l-5 5l-5 -5z",
    "triangle-up": "M0 -5l5 9h-10z",
    "x": "M-5 -3l2 -2l3 3l3 -3l2 2l-3 3l3 3l-2 2l-3 -3l-3 3l-2 -2l3 -3z",
    "cross": "M-1.5 -5h3v3.5h3.5v3h-3.5v3.5h-3v-3.5h-3.5v-3h3.5z",
}
Bests = Mapping[str, Row | None]
NO_BESTS: Bests = {}


@dataclass(frozen=True)
class Metric:
    """One value of an epoch's row, with its title, unit and scale on the page."""

    key: str
    title: str
    unit: str
    scale: float = 1.0
    higher_is_better: bool = False

    def points(self, rows: Sequence[Row]) -> list[tuple[int, float]]:
        """Return (epoch counted over both phases, value) of the rows that have the value."""
        line, _ = in_one_line(rows, ())
        return [(row["epoch"], self.scale * row[self.key]) for row in line if row.get(self.key) is not None]

    def best(self, rows: Sequence[Row], best: Row | None) -> tuple[int | None, float]:
        """Return the point of the weights in best.pt; without such weights, the best point.

        The epoch is None if the weights come from another run.
        """
        if best is not None and best.get(self.key) is not None:
            row = place_in_line(best, rows)
            return (row["epoch"] if row else None), self.scale * best[self.key]
        sign = -1 if self.higher_is_better else 1
        return min(self.points(rows), key=lambda point: sign * point[1])

    def format(self, value: float) -> str:
        """Return a value with its unit."""
        return f"{value:.4g}" if not self.unit else f"{value:.2f} {self.unit}"


def choose_metric(name: str, runs: Runs) -> Metric:
    """Return one of METRICS. Errors are in mm if every run has them in mm, else all are in px."""
    if name == "mre":
        validated = [rows for rows in runs.values() if any(row.get("val/mre_px") is not None for row in rows)]
        unit = "mm" if validated and all(error_unit(rows) == "mm" for rows in validated) else "px"
        return Metric(f"val/mre_{unit}", say("axis_mre", unit=unit), unit)
    if name == "sdr":
        return Metric("val/sdr_2mm", say("axis_sdr"), "%", scale=100, higher_is_better=True)
    return Metric("train/loss" if name == "train_loss" else "val/loss", say(f"metric_{name}"), "")


def plot_runs(
    metric: Metric, runs: Runs, looks: Looks, bests: Bests = NO_BESTS, *, log_axis: bool
) -> go.Figure:
    """Plot a curve for each run with its best point marked, each in its own color, dash and symbol.

    `bests`: the epoch of each run's best.pt.
    """
    curves = {run_id: metric.points(thin(rows)) for run_id, rows in runs.items()}
    last_epoch = max((epoch for points in curves.values() for epoch, _ in points), default=0)
    figure = curve_figure(log_axis=log_axis, y_title=metric.title, last_epoch=last_epoch)
    for run_id, points in curves.items():
        if not points:
            continue
        look = looks[run_id]
        figure.add_scatter(
            x=[epoch for epoch, _ in points],
            y=[value for _, value in points],
            name=run_id,
            mode="lines" if len(points) > 1 else "markers",
            line={"color": look.color, "width": 2, "dash": look.dash},
            marker={"symbol": look.symbol, "color": look.color, "size": 8},
        )
        best_epoch, value = metric.best(runs[run_id], bests.get(run_id))
        figure.add_scatter(
            x=[best_epoch],
            y=[value],
            mode="markers",
            marker={"symbol": look.symbol, "size": 12, "color": look.color},
            showlegend=False,
            hoverinfo="skip",
        )
    figure.update_yaxes(uirevision=f"{metric.title} {log_axis}")  # another metric overrides a zoom
    figure.update_layout(
        height=HEIGHT_PX + LEGEND_ROW_PX * len(runs),
        margin={"t": 16},
        legend={"orientation": "v", "x": 0, "xanchor": "left", "y": -0.2, "yanchor": "top"},
    )
    return figure


def values_table(metric: Metric, runs: Runs, looks: Looks, bests: Bests = NO_BESTS) -> str:
    """Render the numbers beside the plot: each run's best and last value."""
    lines = []
    for run_id, rows in runs.items():
        points = metric.points(rows)
        if points:
            epoch, value = metric.best(rows, bests.get(run_id))
            last = points[-1][1]
            cells: Cells = [
                (metric.format(value), value),
                (str(epoch or "-"), epoch),
                (metric.format(last), last),
            ]
        else:
            cells = [(say("compare_no_curve"), None), ("-", None), ("-", None)]
        lines.append(
            f"<tr><td>{_draw_sign(looks[run_id])}<bdi>{escape(run_id)}</bdi></td>{_cells(cells)}</tr>"
        )
    heads = [say(f"compare_{name}") for name in ("run", "best", "in_epoch", "last")]
    return table_html(say("compare_title"), heads, lines)


def _draw_sign(look: Look) -> str:
    """Draw a run's line and symbol, as in its curve."""
    width, height = SIGN_WH
    middle = f"translate({width / 2:g} {height / 2:g})"
    line = f'<path d="M0 {height / 2:g}h{width}" stroke="{look.color}" stroke-width="2.5" fill="none"'
    return (
        f'<svg class="run-sign" width="{width}" height="{height}" aria-hidden="true">'
        f'{line} stroke-dasharray="{DASH_PX[look.dash]}"/>'
        f'<path d="{SYMBOL_PATHS[look.symbol]}" transform="{middle}" fill="{look.color}"/></svg>'
    )


def caveats(name: str, configs: Mapping[str, RunConfig]) -> str:
    """Say why the curves may not be comparable, as HTML; empty if they are."""
    caveats = []
    if name.endswith("loss") and len({config.settings.loss for config in configs.values()}) > 1:
        caveats.append(say("compare_losses_differ"))
    names = settings_affecting("data")  # they decide which images validate
    differing = [name for name in names if len({config.value(name) for config in configs.values()}) > 1]
    if name != "train_loss" and differing:
        caveats.append(say("compare_images_differ", names=", ".join(map(say, differing))))
    return "".join(f"<p>{escape(caveat)}</p>" for caveat in caveats)


def paired_html(first: str, second: str, name: str, paired: PairedComparison) -> str:
    """Say which run is better, by how much and how certain that is; then the same by landmark.

    The landmarks are in the order of the comparison, most improved first.
    """
    overall, unit = paired.overall, paired.unit
    cases = say_cases(overall.num_cases, paired.case_kind)
    verdict = say(
        f"paired_{overall.verdict}",
        first=first,
        second=second,
        size=in_unit(abs(overall.difference), unit),
        cases=cases,
        least=overall.least_cases,
    )
    cards = [
        (say("paired_error", name=first), in_unit(overall.first, unit)),
        (say("paired_error", name=second), in_unit(overall.second, unit)),
        (say("paired_difference"), signed(overall.difference, unit)),
        (say("paired_interval"), as_interval(overall.interval, unit, say)),
        (say("paired_p"), "-" if overall.p is None else in_p(overall.p)),
    ]
    numbers = "".join(
        f"<div><small>{escape(label)}</small><strong><bdi>{escape(value)}</bdi></strong></div>"
        for label, value in cards
    )
    about = [say("paired_about", num=paired.num_images, name=name, cases=cases)]
    about += [] if paired.cases_known else [say("paired_cases_unknown")]
    return (
        f'<p class="verdict {overall.verdict}">{escape(verdict)}</p><div class="numbers">{numbers}</div>'
        f"{_notes(about)}{_paired_table(paired)}{_notes(_about_landmarks(paired))}"
    )


def _paired_table(paired: PairedComparison) -> str:
    """Render the difference of each landmark, in the order of the comparison, most improved first."""
    heads = [
        say("landmark"),
        say("paired_first"),
        say("paired_second"),
        say("paired_difference"),
        say("paired_landmark_interval"),
        say("paired_verdict"),
    ]
    lines = [
        _landmark_line(name, difference, paired.unit) for name, difference in paired.per_landmark.items()
    ]
    return table_html(say("paired_title"), heads, lines)


def signed(value: float, unit: str) -> str:
    """Format a difference: "+0.12 mm", "-0.12 mm"."""
    return ("+" if value > 0 else "-" if value < 0 else "") + in_unit(abs(value), unit)


def in_p(value: float) -> str:
    """Format a p-value: "0.031", "< 0.001"."""
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def _about_landmarks(paired: PairedComparison) -> list[str]:
    """Say how to read the verdicts on single landmarks, and why some have none."""
    differences = paired.per_landmark.values()
    landmarks = say_count("num_landmarks", len(differences))
    verdicts = {difference.verdict for difference in differences}
    notes = []
    if verdicts != {"too_few"}:
        share = f"{100 * paired.landmark_share:.4g} %"
        notes.append(say("paired_landmarks", landmarks=landmarks, share=share))
    if "too_few" in verdicts:
        least = max(difference.least_cases for difference in differences)
        notes.append(
            say("paired_landmarks_too_few", landmarks=landmarks, cases=say_cases(least, paired.case_kind))
        )
    return notes


def _notes(paragraphs: Sequence[str]) -> str:
    return "".join(f'<p class="note">{escape(paragraph)}</p>' for paragraph in paragraphs)


def _landmark_line(name: str, difference: Difference, unit: str) -> str:
    cells: Cells = [
        (in_unit(difference.first, unit), difference.first),
        (in_unit(difference.second, unit), difference.second),
        (signed(difference.difference, unit), difference.difference),
        (as_interval(difference.interval, unit, say), tuple(difference.interval or ()) or None),
    ]
    verdict = f'<td class="verdict {difference.verdict}">{escape(say(f"verdict_{difference.verdict}"))}</td>'
    return f"<tr><td><bdi>{escape(name)}</bdi></td>{_cells(cells)}{verdict}</tr>"


def _cells(cells: Cells) -> str:
    return "".join(cell_html(*cell) for cell in cells)
