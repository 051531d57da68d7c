"""What the Monitor tab shows of a run, made from the values in its folder: HTML, figures, words. No components."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import plotly.graph_objects as go

from backend.geometry import compose
from backend.overlays import blend_heatmaps
from backend.run.folder import PreviewKey, RunFolder
from backend.run.state import LIVE_STATES, RunState
from ui.pictures import plot_prediction
from ui.plots import error_unit
from ui.runs import describe_state
from ui.text import in_distance, in_time, say

MAX_PREVIEWS = 4
LOG_BYTES = 12_000
Row = Mapping[str, Any]


def run_card(
    run_id: str,
    state: RunState,
    status: Row,
    rows: Sequence[Row],
    best: Row | None,
    outcome: Row | None,
) -> str:
    """State, progress, time left, best: the head of the tab, as HTML."""
    parts = [f'<span class="badge {state.value}">{escape(describe_state(state))}</span>']
    parts += [f"<span>{escape(words)}</span>" for words in _progress_words(state, status, rows)]
    if best is not None:
        value = in_distance(best["val/mre_px"], best.get("val/mre_mm"))
        phase = say(f"phase_{best.get('phase', 'train')}")
        words = say("best", value=value, epoch=best["epoch"], phase=phase)
        parts.append(f"<strong>{escape(words)}</strong>")
    share = _share_done(state, status)
    bar = f'<progress max="1" value="{share:.4f}" aria-label="{escape(say("progress"))}"></progress>'
    reason = f"<p>{escape(str(outcome.get('reason', '')))}</p>" if outcome else ""
    row = f'<div class="row">{"".join(parts)}</div>'
    return f'<div class="run-card" data-state="{state.value}">{row}{bar}{reason}</div>'


def landmark_table(rows: Sequence[Row]) -> str:
    """Mean error of each landmark at the last validation, worst first, as an HTML table."""
    validated = [row for row in rows if row.get("val/mre_px") is not None]
    if not validated:
        return f'<p class="note">{escape(say("landmarks_none"))}</p>'
    last, unit = validated[-1], error_unit(rows)
    prefix = f"val/mre_{unit}/"
    named = [
        (name.removeprefix(prefix), float(value))
        for name, value in last.items()
        if name.startswith(prefix) and value is not None
    ]
    lines = [
        f"<tr><td>{escape(name)}</td><td>{value:.2f} {unit}</td></tr>"
        for name, value in sorted(named, key=lambda pair: -pair[1])
    ]
    head = f"<tr><th>{escape(say('landmark'))}</th><th>{escape(say('within', epoch=last['epoch']))}</th></tr>"
    return f'<div class="plain-table"><table>{head}{"".join(lines)}</table></div>'


def preview_choices(folder: RunFolder) -> list[tuple[str, str]]:
    """Off, all, and every landmark's own heatmap, as (words, value)."""
    names = _landmark_names(folder) if folder.preview_keys() else ()
    return [
        (say("heatmap_off"), "off"),
        (say("heatmap_all"), "all"),
        *((name, f"landmark {number}") for number, name in enumerate(names)),
    ]


@functools.lru_cache(maxsize=64)
def _landmark_names(folder: RunFolder) -> tuple[str, ...]:
    """They do not change once the first preview is there."""
    images = folder.read_preview_images()
    return () if images is None else tuple(str(name) for name in images["landmark_names"])


def preview_figures(folder: RunFolder, key: PreviewKey, heatmap: str) -> list[tuple[str, go.Figure]]:
    """(title, figure) of each fixed image at an epoch; `heatmap` is a value of `preview_choices`."""
    images, preview = folder.read_preview_images(), folder.read_preview(key)
    if images is None or preview is None:
        return []
    return [_preview_figure(images, preview, number, heatmap) for number in range(len(images["image_ids"]))]


def event_list(folder: RunFolder) -> str:
    """The run's events, newest first, as HTML."""
    events = folder.read_events()[0]
    if not events:
        return f'<p class="note">{escape(say("no_events"))}</p>'
    lines = [f"<li>{escape(str(event.get('message', event.get('kind', ''))))}</li>" for event in events[::-1]]
    return f"<ul>{''.join(lines)}</ul>"


def log_text(folder: RunFolder) -> str:
    """The end of the log as a terminal would show it: a progress bar overwrites itself."""
    lines = folder.read_log_tail(LOG_BYTES).split("\n")
    shown = [[part for part in line.split("\r") if part.strip()] for line in lines]
    return "\n".join(parts[-1].rstrip() if parts else "" for parts in shown).strip("\n")


def _progress_words(state: RunState, status: Row, rows: Sequence[Row]) -> list[str]:
    if state in LIVE_STATES and status.get("phase") == "preparing":
        return [say("preparing")]
    if not status.get("num_epochs"):
        return []
    epoch = status["epoch"] if state in LIVE_STATES else rows[-1]["epoch"] if rows else 0
    phase = say(f"phase_{status['phase']}")
    words = [say("epoch_of", phase=phase, epoch=epoch, num_epochs=status["num_epochs"])]
    if state in LIVE_STATES:
        words.append(say("step_of", step=status["step"], steps=status["steps_per_epoch"]))
        words.append(say("speed", speed=status["images_per_s"] or 0))
        if status.get("micro_batch"):
            words.append(say("in_parts", images=status["micro_batch"]))
        if status.get("seconds_left") is not None:
            then = say("then_refinement") if status.get("refinement_follows") else ""
            words.append(say("time_left", time=in_time(status["seconds_left"])) + then)
    return words


def _share_done(state: RunState, status: Row) -> float:
    if state in (RunState.COMPLETED, RunState.FINISHED_EARLY):
        return 1.0
    return float(status.get("share_done") or 0.0)


def _preview_figure(
    images: Mapping[str, Any], preview: Mapping[str, Any], number: int, heatmap: str
) -> tuple[str, go.Figure]:
    display = images[f"display_{number}"]
    affine_image_to_display = images[f"affine_image_to_display_{number}"]
    display = _with_heatmap(display, affine_image_to_display, preview, number, heatmap)
    truth, predicted = images["truth_xy_image"][number], preview["points_xy_image"][number]
    px, mm = _distances(truth, predicted, images["mm_per_px_xy"][number])
    words = [in_distance(*pair) for pair in zip(px, mm, strict=True)]
    known_px, known_mm = [v for v in px if v is not None], [v for v in mm if v is not None]
    mean = in_distance(
        float(np.mean(known_px)) if known_px else None, float(np.mean(known_mm)) if known_mm else None
    )
    scale = affine_image_to_display
    size_hw = (round(display.shape[0] / scale[1, 1]), round(display.shape[1] / scale[0, 0]))
    names = [str(name) for name in images["landmark_names"]]
    title = say("preview_title", image_id=str(images["image_ids"][number]), error=mean)
    return title, plot_prediction(display, size_hw, truth, predicted, names, words)


def _with_heatmap(
    display: Any, affine_image_to_display: Any, preview: Mapping[str, Any], number: int, heatmap: str
) -> Any:
    """The image with the chosen maps laid over it; a refined landmark's map covers its own crop only."""
    heatmaps, affines = preview["heatmaps"][number], preview["affine_heatmap_to_image"][number]
    if heatmap == "off":
        return display
    chosen = range(len(heatmaps))
    if heatmap != "all":
        chosen = range(int(heatmap.removeprefix("landmark ")), len(heatmaps))[:1]
    if len(affines) == 1 and len(chosen):
        whole = heatmaps[list(chosen)].max(axis=0)
        return blend_heatmaps(display, [whole], [compose(affine_image_to_display, affines[0])])
    to_display = [compose(affine_image_to_display, affines[k]) for k in chosen]
    return blend_heatmaps(display, [heatmaps[k] for k in chosen], to_display)


def _distances(
    truth: Any, predicted: Any, mm_per_px_xy: Any
) -> tuple[list[float | None], list[float | None]]:
    """Errors of each landmark in px and in mm; None where the landmark or the spacing is unknown."""

    def known(values: Any) -> list[float | None]:
        return [float(value) if np.isfinite(value) else None for value in values]

    difference = predicted.astype(np.float64) - truth
    in_px = np.hypot(difference[:, 0], difference[:, 1])
    in_mm = np.hypot(*(difference * mm_per_px_xy).T)
    return known(in_px), known(in_mm)
