"""The part of the Data tab that shows what training sees of an image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from html import escape
from typing import Any

import gradio as gr
import numpy as np

from backend.config import Settings
from backend.errors import UserError
from backend.geometry import RESIZES, sigma_in_force
from ui.answers import Part, Superseded
from ui.bindings import Updates
from ui.data.summary import DataView
from ui.datasets import describe_sigma, read_full
from ui.figures.pictures import plot_sigma
from ui.session import Session
from ui.text.say import in_markdown, say, say_count
from ui.torch_queries import query_decoding_error, query_views
from ui.train.data_view import settings_for_data
from ui.train.form import FormValues

DECODING_ERROR_PART = "data_decoding_error"  # of the session: the settings whose decoding error is awaited
NUM_VIEWS = 7  # and the plain image
Drawn = tuple[str, int]  # image id and first epoch


@dataclass(frozen=True)
class TrainingPanel:
    """The components of the panel: sigma to scale, the decoding error, and augmented versions."""

    landmark: gr.Dropdown
    sigma: gr.Plot
    sigma_note: gr.Markdown
    decoding_error: gr.Markdown
    draw: gr.Button
    views: gr.HTML
    drawn: gr.State  # Drawn; None if nothing is

    @property
    def parts(self) -> list[Any]:
        return [self.landmark, self.sigma, self.sigma_note, self.decoding_error, self.views, self.drawn]

    def bind(
        self, view: gr.State, shown: gr.State, form: gr.JSON, image: Part, sigma: Part, views: Part
    ) -> None:
        """Bind the handlers to the data set, the image in the picture and the Train form."""
        image.asks(self.landmark.input)
        image.answers(
            self.landmark.input,
            partial(on_landmark, self),
            [view, shown, self.landmark, form],
            [self.landmark, self.sigma, self.sigma_note],
            also=(sigma,),
        )
        once = {
            "api_visibility": "private",
            "show_progress": "full",
            "show_progress_on": self.views,
            "trigger_mode": "once",
        }
        views.answers(
            self.draw.click,
            partial(on_draw, self),
            [view, shown, self.drawn, form],
            [self.views, self.drawn],
            how=once,
        )


def create_training_panel() -> TrainingPanel:
    """Lay out the panel."""
    gr.Markdown(f"### {say('data_training')}\n{say('data_training_note')}")
    with gr.Row():
        with gr.Column(scale=2, min_width=330):
            landmark = gr.Dropdown([], label=say("data_sigma_at"), elem_id="data-sigma-landmark")
            sigma = gr.Plot(label=say("data_sigma"), elem_id="data-sigma")
            sigma_note = gr.Markdown(elem_id="data-sigma-note")
            decoding_error = gr.Markdown(elem_id="data-floor")
        with gr.Column(scale=3, min_width=330):
            draw = gr.Button(say("data_draw"), elem_id="data-draw")
            views = gr.HTML(elem_id="data-views", min_height=120)
    return TrainingPanel(
        landmark=landmark,
        sigma=sigma,
        sigma_note=sigma_note,
        decoding_error=decoding_error,
        draw=draw,
        views=views,
        drawn=gr.State(),
    )


def draw_sigma(
    panel: TrainingPanel, settings: Settings, view: DataView, row: int, landmark: str | None
) -> Updates:
    """Draw sigma around a landmark of an image, or around the first annotated one if that one is missing."""
    points = view.samples.points_xy_image[row]
    annotated = [view.names[k] for k in np.flatnonzero(np.isfinite(points).all(-1))]
    note = {panel.sigma_note: describe_sigma(settings, view.samples, row).text}
    if not annotated:  # it has only landmarks from which nothing can be learned
        return {panel.landmark: gr.update(choices=[], value=None), panel.sigma: None, **note}
    name = landmark if landmark in annotated else annotated[0]
    try:
        pixels = read_full(view.samples.paths[row])
    except UserError:
        return {panel.sigma: None, **note}  # the picture above says what is wrong
    stride = settings.stride_in_force
    figure = plot_sigma(
        pixels,
        points,
        view.names,
        view.names.index(name),
        RESIZES[settings.resize](view.samples.sizes_hw[row], settings.image_size),
        stride,
        sigma_in_force(settings.sigma, settings.image_size, stride),
    )
    figure.update_layout(uirevision=f"{row} {name} {settings.image_size}")
    return {panel.landmark: gr.update(choices=annotated, value=name), panel.sigma: figure, **note}


def on_landmark(
    panel: TrainingPanel, view: DataView | None, shown: Any, landmark: str, form: FormValues
) -> Updates:
    """Show sigma around another landmark."""
    if view is None:
        return {panel.sigma: None}
    return draw_sigma(panel, settings_for_data(form), view, shown.row or 0, landmark)


def on_decoding_error(
    panel: TrainingPanel, session: Session, view: DataView | None, form: FormValues
) -> Iterator[Updates]:
    """Show the decoding error of the form's settings: a note at once, the number once it is computed."""
    if view is None:
        yield {panel.decoding_error: ""}
        return
    yield {panel.decoding_error: say("data_decoding_error_computing")}
    try:
        settings = settings_for_data(form)
        session.awaited[DECODING_ERROR_PART] = settings
        answer = query_decoding_error(settings)
    except UserError as error:
        yield {panel.decoding_error: say("estimate_failed", reason=in_markdown(error))}
        return
    if session.awaited.get(DECODING_ERROR_PART) != settings:
        raise Superseded  # another data set is shown now
    text = say(
        "data_decoding_error",
        error=_format_error(answer["floor"]),
        images=say_count("num_images", answer["floor"]["num_images"]),
    )
    if answer["crop_floor"] is not None:
        text += say("data_decoding_error_crops", error=_format_error(answer["crop_floor"]))
    yield {panel.decoding_error: text}


def on_draw(
    panel: TrainingPanel, view: DataView | None, shown: Any, drawn: Drawn | None, form: FormValues
) -> Updates:
    """Show the image as the next epochs would augment it; another image begins with the first epoch."""
    if view is None or shown.row is None:
        return {panel.views: escape(say("data_draw_none"))}
    image_id = view.image_id(shown.row)
    first = drawn[1] + NUM_VIEWS if drawn is not None and drawn[0] == image_id else 1
    try:
        pictures = query_views(settings_for_data(form), image_id, first, NUM_VIEWS)
    except UserError as error:
        return {panel.views: escape(say("data_failed", reason=error))}
    titles = [say("data_view_plain"), *(say("data_view_epoch", epoch=first + n) for n in range(NUM_VIEWS))]
    figures = [_figure(title, picture) for title, picture in zip(titles, pictures, strict=True)]
    note = escape(say("data_views_of", image_id=image_id))
    return {
        panel.views: f'<p>{note}</p><div class="views">{"".join(figures)}</div>',
        panel.drawn: (image_id, first),
    }


def _figure(title: str, picture: str) -> str:
    caption = escape(title)
    image = f'<img alt="{caption}" src="data:image/jpeg;base64,{picture}">'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def _format_error(error: dict[str, Any]) -> str:
    px = f"{error['mre_px']:.2f} px"
    return px if error["mre_mm"] is None else f"{error['mre_mm']:.3f} mm ({px})"
