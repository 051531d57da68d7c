"""The memory of a step on the Train tab, as a figure and text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import plotly.graph_objects as go

from backend.memory.batch_size import DeviceMemory, Recommendation
from backend.memory.benchmark_store import Measured
from backend.memory.reasons import GIB, Reason
from ui.figures.plots import plain_figure
from ui.figures.theme import AXIS_COLOR, BEST_COLOR, MARK_COLOR, RESERVE_COLOR, TRAIN_COLOR, VALID_COLOR
from ui.text.say import in_bytes, say

HEIGHT_PX = 340
MIN_BATCHES = 16  # on the axis


def plot_memory(
    predicted: Mapping[int, int],
    recommendation: Recommendation,
    memory: DeviceMemory,
    measured: Measured,
    chosen: int | None,
) -> go.Figure:
    """Plot memory by batch size: the prediction, measured points, the chosen and the recommended batch.

    The prediction is corrected by what was measured. Lines show the device's free and total memory, a band
    the reserve.
    """
    bytes_at = measured.correct(lambda size: predicted[size])
    last_batch = max(
        MIN_BATCHES, 2 * (recommendation.batch_size or 0), round(1.25 * (chosen or 0)), chosen or 0
    )
    sizes = [size for size in predicted if size <= last_batch]
    figure = _figure(sizes[-1])
    _add_device(figure, recommendation, memory)
    needs = [bytes_at(size) / GIB for size in sizes]
    line = {"color": TRAIN_COLOR, "width": 2}
    figure.add_scatter(x=sizes, y=needs, name=say("memory_predicted"), mode="lines", line=line)

    peaks = {
        batch.batch_size: batch.peak_bytes / GIB
        for batch in measured.batches
        if batch.peak_bytes is not None and batch.batch_size <= sizes[-1]
    }
    if peaks:
        _add_points(figure, [*peaks], [*peaks.values()], say("memory_measured"), MARK_COLOR, "circle")
    if chosen is not None:
        _add_points(figure, [chosen], [bytes_at(chosen) / GIB], say("memory_chosen"), VALID_COLOR, "diamond")
    if recommendation.batch_size is not None:
        best = recommendation.batch_size
        _add_points(figure, [best], [bytes_at(best) / GIB], say("memory_recommended"), BEST_COLOR, "star")

    top = max([*needs, (memory.total_bytes or 0) / GIB, (memory.free_bytes or 0) / GIB])
    figure.update_yaxes(range=[0, 1.12 * top])
    return figure


def remarks_words(reasons: Iterable[Reason]) -> str:
    """Say why a batch size is recommended, as one sentence in the language of the page."""
    return say("remarks_between").join(say(f"remark_{reason.key}", **reason.values) for reason in reasons)


def measured_words(measured: Measured, bytes_at: Callable[[int], int]) -> str:
    """Say what was measured: memory and images per second in one line per batch; empty if nothing was."""
    lines = []
    for batch in measured.batches:
        if batch.peak_bytes is None or batch.images_per_s is None:
            lines.append(say("measured_none", batch=batch.batch_size))
            continue
        line = say(
            "measured_line",
            batch=batch.batch_size,
            measured=in_bytes(batch.peak_bytes),
            predicted=in_bytes(bytes_at(batch.batch_size)),
            speed=f"{batch.images_per_s:.3g}",
        )
        lines.append(line)
    return "\n".join(f"- {line}" for line in lines)


def _add_device(figure: go.Figure, recommendation: Recommendation, memory: DeviceMemory) -> None:
    """Draw two lines, and the band below the free memory that must stay free."""
    if memory.free_bytes is not None:
        free = memory.free_bytes / GIB
        if recommendation.reserve_bytes is not None:
            low = max(0.0, free - recommendation.reserve_bytes / GIB)
            figure.add_hrect(
                low,
                free,
                fillcolor=RESERVE_COLOR,
                line_width=0,
                **_label(say("memory_reserve"), "bottom", "right"),
            )
        label = say("memory_free", free=in_bytes(memory.free_bytes))
        figure.add_hline(
            free, line={"color": VALID_COLOR, "width": 1, "dash": "dash"}, **_label(label, "bottom")
        )
    if memory.total_bytes is not None:
        label = say("memory_total", total=in_bytes(memory.total_bytes))
        # at the other end: on an idle machine nearly all of it is free, and the two lines are close
        line = {"color": AXIS_COLOR, "width": 2}
        figure.add_hline(memory.total_bytes / GIB, line=line, **_label(label, "top", "right"))


def _label(text: str, side: str, end: str = "left") -> dict[str, object]:
    """Return the settings of a line's label at one of its ends, above or below it."""
    return {
        "annotation": {"text": text, "font": {"size": 11, "color": AXIS_COLOR}},
        "annotation_position": f"{side} {end}",
    }


def _add_points(
    figure: go.Figure, sizes: list[int], values: list[float], name: str, color: str, symbol: str
) -> None:
    marker = {"symbol": symbol, "size": 12, "color": color}
    figure.add_scatter(x=sizes, y=values, name=name, mode="markers", marker=marker)


def _figure(last_batch: int) -> go.Figure:
    figure = plain_figure(
        height=HEIGHT_PX,
        margin={"l": 50, "r": 12, "t": 36, "b": 96},
        # below, since on a phone it takes two lines and would overlap the label above
        legend={"orientation": "h", "y": -0.24, "yanchor": "top", "x": 0, "xanchor": "left"},
    )
    figure.update_xaxes(title=say("memory_batch"), range=[0, last_batch + 1])
    figure.update_yaxes(title="GiB", hoverformat=".2f")
    return figure
