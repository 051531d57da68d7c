"""Previews of the fixed images at a stored epoch, and a slider that replays the epochs."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import plotly.graph_objects as go

from backend.data.splits import TRAIN, VALID
from backend.geometry import compose
from backend.overlays import blend_heatmaps
from backend.run.folder import RunFolder
from backend.run.previews import PHASES, PreviewKey
from ui.answers import create_part
from ui.bindings import Updates, show_figures
from ui.figures.pictures import plot_prediction
from ui.figures.plots import Row
from ui.run_rows import has_validated, read_rows
from ui.session import Session
from ui.text.say import in_distance, say, say_count

MAX_PREVIEWS = 4
MAX_POSITIONS = 1000  # far more than are ever kept


@dataclass(frozen=True)
class Previews:
    """The components of the panel, and the folder of runs."""

    runs_dir: Path
    session: gr.State
    title: gr.Markdown
    controls: gr.Row
    position: gr.Slider
    newest: gr.Button
    heatmap: gr.Dropdown
    note: gr.Markdown
    plots: tuple[gr.Plot, ...]

    @property
    def outputs(self) -> list[Any]:
        """The components that drawing the previews changes."""
        return [
            self.session, self.title, self.controls, self.position, self.newest, self.heatmap, self.note,
            *self.plots
        ]  # fmt: skip


def create_previews(session: gr.State, runs_dir: Path) -> Previews:
    """Lay out the panel and bind its handlers."""
    title = gr.Markdown(title_text(None), elem_id="previews-title")
    with gr.Row(visible=False, equal_height=True) as controls:
        position = gr.Slider(
            1, MAX_POSITIONS, 1, step=1, label=say("epoch"), elem_id="preview-position",
            min_width=280, scale=3, interactive=True,
        )  # fmt: skip
        newest = gr.Button(say("newest"), interactive=False, elem_id="preview-newest", min_width=120, scale=0)
        heatmap = gr.Dropdown(
            [(say("heatmap_off"), "off"), (say("heatmap_all"), "all")],
            value="all",
            allow_custom_value=True,  # a restarted server knows only the first choices
            label=say("heatmap"),
            info=say("heatmap_info"),
            elem_id="heatmap",
            min_width=200,
            scale=2,
        )
    note = gr.Markdown(say("previews_none"), elem_id="previews-note")
    with gr.Row():
        plots = tuple(
            gr.Plot(visible=False, elem_id=f"preview-{number}", elem_classes="keeps-zoom", min_width=270)
            for number in range(MAX_PREVIEWS)
        )
    panel = Previews(
        runs_dir=runs_dir,
        session=session,
        title=title,
        controls=controls,
        position=position,
        newest=newest,
        heatmap=heatmap,
        note=note,
        plots=plots,
    )
    _bind(panel)
    return panel


def _bind(panel: Previews) -> None:
    """Bind the handlers, after the marks of the same events (see `Part.asks`)."""
    answers = create_part(
        "previews", ("#previews-note", *(f"#preview-{number}" for number in range(MAX_PREVIEWS)))
    )
    answers.asks([panel.position.input, panel.newest.click, panel.heatmap.input])
    inputs = [panel.session, panel.heatmap]
    answers.answers(
        panel.position.input,
        partial(on_slide, panel),
        [panel.session, panel.position, panel.heatmap],
        panel.outputs,
    )
    answers.answers(panel.newest.click, partial(on_newest, panel), inputs, panel.outputs)
    answers.answers(panel.heatmap.input, partial(on_heatmap, panel), inputs, panel.outputs)


def on_slide(panel: Previews, session: Session, position: float, heatmap: str) -> Updates:
    """Show the stored epoch at a position (from 1); the last position always means the newest."""
    folder = _watched(panel, session)
    keys = folder.previews.list_keys() if folder is not None else []
    if folder is not None and keys:
        number = min(len(keys), max(1, round(position)))
        session.preview = keys[number - 1] if number < len(keys) else None
        # the browser's slider is there already
        session.drawn["preview_position"] = (folder.run_id, keys, number)
    return _redraw(panel, session, folder, heatmap)


def on_newest(panel: Previews, session: Session, heatmap: str) -> Updates:
    """Follow the training again."""
    session.preview = None
    return _redraw(panel, session, _watched(panel, session), heatmap)


def on_heatmap(panel: Previews, session: Session, heatmap: str) -> Updates:
    """Show other heatmaps over the images."""
    return _redraw(panel, session, _watched(panel, session), heatmap)


def draw_previews(panel: Previews, session: Session, folder: RunFolder, heatmap: str) -> Updates:
    """Update what changed: the choice of landmarks, the stored epochs, or the shown images."""
    updates: Updates = {}
    names = preview_choices(folder)
    if session.has_changed("heatmap", (folder.run_id, names)):
        heatmap = heatmap if heatmap in [value for _, value in names] else "all"
        updates[panel.heatmap] = gr.update(choices=names, value=heatmap)
    keys = folder.previews.list_keys()
    shown, follows = shown_key(keys, session.preview), session.preview is None
    updates |= _draw_position(panel, session, folder, keys, shown)
    stamp = folder.previews.stamp(shown) if shown is not None else None
    if session.has_changed("previews", (folder.run_id, shown, stamp, heatmap, follows)):
        updates |= _draw_images(panel, folder, shown, heatmap, follows=follows)
    return updates


def title_text(split: str | None) -> str:
    """Return the title, by the split of the images; None if that is not known."""
    return f"### {say(f'previews_title_{split}' if split is not None else 'previews_title')}"


def shown_split(images: Mapping[str, Any] | None, rows: Sequence[Row]) -> str | None:
    """Return `valid` or `train`, as stored in the run folder.

    Older runs store none: it follows from whether an epoch was validated, and is None if no epoch has ended.
    """
    if images is not None and "split" in images:
        return str(images["split"])
    if images is None or not rows:
        return None
    return VALID if has_validated(rows) else TRAIN


def shown_key(keys: list[PreviewKey], chosen: PreviewKey | None) -> PreviewKey | None:
    """Return the chosen preview, or the nearest one if it no longer exists; without a choice the newest.

    The nearest is of the same phase if there is one.
    """
    if chosen is None or not keys:
        return keys[-1] if keys else None
    return min(
        keys, key=lambda key: (abs(PHASES.index(key[0]) - PHASES.index(chosen[0])), abs(key[1] - chosen[1]))
    )


def describe_preview(key: PreviewKey, preview: Mapping[str, Any], *, follows: bool) -> str:
    """Say which epoch and phase is shown, whether it was predicted within it, and what the symbols mean."""
    phase, epoch = say(f"phase_{key[0]}"), key[1]
    step, steps = int(preview.get("step", 0)), int(preview.get("steps_per_epoch", 0))
    if step < steps:
        moment = say("previews_within", phase=phase, epoch=epoch, step=step, steps=steps)
    else:
        moment = say("previews", phase=phase, epoch=epoch)
    parts = [moment, say("previews_follow") if follows else "", say("previews_signs")]
    return " ".join(part for part in parts if part)


def preview_choices(folder: RunFolder) -> list[tuple[str, str]]:
    """Return off, all, and each landmark's own heatmap, as (text, value)."""
    names = _landmark_names(folder) if folder.previews.list_keys() else ()
    return [
        (say("heatmap_off"), "off"),
        (say("heatmap_all"), "all"),
        *((name, f"landmark {number}") for number, name in enumerate(names)),
    ]


def preview_figures(
    images: Mapping[str, Any], preview: Mapping[str, Any], heatmap: str, *, revision: str = "kept"
) -> list[tuple[str, go.Figure]]:
    """Return (title, figure) of each fixed image; `heatmap` is a value of `preview_choices`.

    A zoom lasts while `revision` stays the same, even if the epoch changes.
    """
    figures = [
        _preview_figure(images, preview, number, heatmap) for number in range(len(images["image_ids"]))
    ]
    for _, figure in figures:
        figure.update_layout(uirevision=revision)
    return figures


def _watched(panel: Previews, session: Session) -> RunFolder | None:
    return RunFolder(panel.runs_dir / session.run_id) if session.run_id is not None else None


def _redraw(panel: Previews, session: Session, folder: RunFolder | None, heatmap: str) -> Updates:
    updates = draw_previews(panel, session, folder, heatmap) if folder is not None else {}
    return {panel.session: session, **updates}


def _draw_position(
    panel: Previews, session: Session, folder: RunFolder, keys: list[PreviewKey], shown: PreviewKey | None
) -> Updates:
    """Update the slider's position and label.

    Unchanged values are not sent, so that dragging is not disturbed.
    """
    follows = session.preview is None
    if shown is None:
        is_new = session.has_changed("preview_words", (folder.run_id, None))
        return {panel.controls: gr.update(visible=False)} if is_new else {}
    slider: dict[str, Any] = {}
    position = keys.index(shown) + 1
    if session.has_changed("preview_position", (folder.run_id, keys, position)):
        slider |= {"maximum": max(2, len(keys)), "value": position, "interactive": len(keys) > 1}
    if not session.has_changed("preview_words", (folder.run_id, keys, shown, follows)):
        return {panel.position: gr.update(**slider)} if slider else {}
    first, last = (_name_epoch(key) for key in (keys[0], keys[-1]))
    slider |= {
        "label": say("replay", epoch=_name_epoch(shown)),
        "info": say_count("replay_info", len(keys), first=first, last=last),
    }
    return {
        panel.controls: gr.update(visible=True),
        panel.position: gr.update(**slider),
        panel.newest: gr.update(interactive=not follows),
    }


def _name_epoch(key: PreviewKey) -> str:
    return say("replay_epoch", phase=say(f"phase_{key[0]}"), epoch=key[1])


def _draw_images(
    panel: Previews, folder: RunFolder, shown: PreviewKey | None, heatmap: str, *, follows: bool
) -> Updates:
    """Draw the images of a preview: ground truth, prediction, error and heatmap."""
    images = folder.previews.read_images()
    preview = folder.previews.read(shown) if shown is not None else None
    updates: Updates = {
        panel.title: title_text(shown_split(images, read_rows(folder))),
        panel.note: say("previews_none"),
    }
    figures: list[tuple[str, go.Figure]] = []
    if shown is not None and images is not None and preview is not None:
        updates[panel.note] = describe_preview(shown, preview, follows=follows)
        figures = preview_figures(images, preview, heatmap, revision=folder.run_id)
    return {**updates, **show_figures(panel.plots, figures)}


@functools.lru_cache(maxsize=64)
def _landmark_names(folder: RunFolder) -> tuple[str, ...]:
    """Return the landmarks' names, which do not change after the first preview."""
    images = folder.previews.read_images()
    return () if images is None else tuple(str(name) for name in images["landmark_names"])


def _preview_figure(
    images: Mapping[str, Any], preview: Mapping[str, Any], number: int, heatmap: str
) -> tuple[str, go.Figure]:
    """Return the title and the figure of one image, whose mean error is in the title."""
    display = images[f"display_{number}"]
    affine_image_to_display = images[f"affine_image_to_display_{number}"]
    display = _with_heatmap(display, affine_image_to_display, preview, number, heatmap)
    truth, predicted = images["truth_xy_image"][number], preview["points_xy_image"][number]
    px, mm = _distances(truth, predicted, images["mm_per_px_xy"][number])
    errors = [in_distance(*pair) for pair in zip(px, mm, strict=True)]
    mean = in_distance(_mean(px), _mean(mm))
    scale = affine_image_to_display
    size_hw = (round(display.shape[0] / scale[1, 1]), round(display.shape[1] / scale[0, 0]))
    names = [str(name) for name in images["landmark_names"]]
    title = say("preview_title", image_id=str(images["image_ids"][number]), error=mean)
    return title, plot_prediction(display, size_hw, truth, predicted, names, errors)


def _with_heatmap(
    display: Any, affine_image_to_display: Any, preview: Mapping[str, Any], number: int, heatmap: str
) -> Any:
    """Return the image with the chosen heatmaps over it; that of a refined landmark covers only its crop."""
    heatmaps, affines = preview["heatmaps"][number], preview["affine_heatmap_to_image"][number]
    if heatmap == "off":
        return display
    chosen = range(len(heatmaps))
    if heatmap != "all":
        chosen = range(int(heatmap.removeprefix("landmark ")), len(heatmaps))[:1]
    if len(affines) == 1 and len(chosen):
        merged = heatmaps[list(chosen)].max(axis=0)
        return blend_heatmaps(display, [merged], [compose(affine_image_to_display, affines[0])])
    to_display = [compose(affine_image_to_display, affines[k]) for k in chosen]
    return blend_heatmaps(display, [heatmaps[k] for k in chosen], to_display)


def _distances(
    truth: Any, predicted: Any, mm_per_px_xy: Any
) -> tuple[list[float | None], list[float | None]]:
    """Return errors of each landmark in px and in mm; None if the landmark or the spacing is unknown."""

    def to_list(values: Any) -> list[float | None]:
        return [float(value) if np.isfinite(value) else None for value in values]

    difference = predicted.astype(np.float64) - truth
    in_px = np.hypot(difference[:, 0], difference[:, 1])
    in_mm = np.hypot(*(difference * mm_per_px_xy).T)
    return to_list(in_px), to_list(in_mm)


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of the known values; None if there are none."""
    numbers = [value for value in values if value is not None]
    return float(np.mean(numbers)) if numbers else None
