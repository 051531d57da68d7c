"""The memory of a step on the Train tab, as a figure and words."""

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
MIN_SHOWN = 16  # batches on the axis, at least


def plot_memory(
    predicted: Mapping[int, int],
    found: Recommendation,
    memory: DeviceMemory,
    measured: Measured,
    chosen: int | None,
) -> go.Figure:
    """Memory by batch: the prediction (corrected by what was measured), measured points, the chosen and the
    recommended batch, and the device's free and total memory with the shaded reserve."""
    bytes_at = measured.correct(lambda size: predicted[size])
    wanted_top = max(MIN_SHOWN, 2 * (found.batch_size or 0), round(1.25 * (chosen or 0)))
    shown = [size for size in predicted if size <= max(wanted_top, chosen or 0)]
    figure = _figure(shown[-1])
    _add_device(figure, found, memory)
    needs = [bytes_at(size) / GIB for size in shown]
    line = {"color": TRAIN_COLOR, "width": 2}
    figure.add_scatter(x=shown, y=needs, name=say("memory_predicted"), mode="lines", line=line)
    real = [
        batch for batch in measured.batches if batch.peak_bytes is not None and batch.batch_size <= shown[-1]
    ]
    if real:
        peaks = [(batch.peak_bytes or 0) / GIB for batch in real]
        sizes = [batch.batch_size for batch in real]
        _add_points(figure, sizes, peaks, say("memory_measured"), MARK_COLOR, "circle")
    if chosen is not None:
        _add_points(figure, [chosen], [bytes_at(chosen) / GIB], say("memory_chosen"), VALID_COLOR, "diamond")
    if found.batch_size is not None:
        best = found.batch_size
        _add_points(figure, [best], [bytes_at(best) / GIB], say("memory_recommended"), BEST_COLOR, "star")
    top = max([*needs, (memory.total_bytes or 0) / GIB, (memory.free_bytes or 0) / GIB])
    figure.update_yaxes(range=[0, 1.12 * top])
    return figure


def remarks_words(reasons: Iterable[Reason]) -> str:
    """What a recommendation says, as one sentence in the language of the page."""
    return say("remarks_between").join(say(f"remark_{each.key}", **each.values) for each in reasons)


def measured_words(measured: Measured, bytes_at: Callable[[int], int]) -> str:
    """One line per batch: measured and predicted memory, images per second. Empty where nothing was measured."""
    lines = []
    for batch in measured.batches:
        if batch.peak_bytes is None or batch.images_per_s is None:
            lines.append(say("measured_none", batch=batch.batch_size))
            continue
        words = say(
            "measured_line",
            batch=batch.batch_size,
            measured=in_bytes(batch.peak_bytes),
            predicted=in_bytes(bytes_at(batch.batch_size)),
            speed=f"{batch.images_per_s:.3g}",
        )
        lines.append(words)
    return "\n".join(f"- {line}" for line in lines)


def _add_device(figure: go.Figure, found: Recommendation, memory: DeviceMemory) -> None:
    """Two lines, and the band below the free memory that must stay free."""
    if memory.free_bytes is not None:
        free = memory.free_bytes / GIB
        if found.reserve_bytes is not None:
            low = max(0.0, free - found.reserve_bytes / GIB)
            figure.add_hrect(
                low,
                free,
                fillcolor=RESERVE_COLOR,
                line_width=0,
                **_label(say("memory_reserve"), "bottom", "right"),
            )
        words = say("memory_free", free=in_bytes(memory.free_bytes))
        figure.add_hline(
            free, line={"color": VALID_COLOR, "width": 1, "dash": "dash"}, **_label(words, "bottom")
        )
    if memory.total_bytes is not None:
        words = say("memory_total", total=in_bytes(memory.total_bytes))
        # at the other end: on an idle machine nearly all of it is free, and the two lines are close
        line = {"color": AXIS_COLOR, "width": 2}
        figure.add_hline(memory.total_bytes / GIB, line=line, **_label(words, "top", "right"))


def _label(words: str, side: str, end: str = "left") -> dict[str, object]:
    """A line's label at one of its ends, above or below it."""
    return {
        "annotation": {"text": words, "font": {"size": 11, "color": AXIS_COLOR}},
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
