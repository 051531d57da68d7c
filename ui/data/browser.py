"""The part of the Data tab that shows one image with every reader's annotations, or close up on a suspect."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from backend.data.annotation_outliers import AnnotationOutlier
from backend.errors import UserError
from ui.bindings import Updates
from ui.data.summary import ALL_SPLITS, DataView, image_caption, landmarks_table
from ui.datasets import read_full, shrink
from ui.figures.pictures import Highlight, plot_marks, plot_plain, zoom_in
from ui.number_field import NumberedSlider, create_numbered_slider
from ui.text.say import in_markdown, say

LEAST_WINDOW_SHARE = 0.2  # share of the longer side that is shown around a suspect


@dataclass(frozen=True)
class Shown:
    """The image in the picture, and the suspect landmark on it, if any.

    The image is one of the view's rows, or a file that is not among them.
    """

    row: int | None = None
    path: Path | None = None
    suspect: AnnotationOutlier | None = None


@dataclass(frozen=True)
class BrowserPanel:
    """The components of the panel."""

    shown: gr.State  # Shown
    split: gr.Radio
    number: NumberedSlider
    previous: gr.Button
    next: gr.Button
    whole_image: gr.Button
    caption: gr.Markdown
    picture: gr.Plot
    marks: gr.HTML

    @property
    def parts(self) -> list[Any]:
        """The components that showing another image changes."""
        return [
            self.shown, self.split, self.number.slider, self.whole_image, self.caption, self.picture,
            self.marks,
        ]  # fmt: skip


def create_browser() -> BrowserPanel:
    """Lay out the panel."""
    split = gr.Radio(
        [(say("data_all"), ALL_SPLITS)], value=ALL_SPLITS, label=say("data_split"), elem_id="data-split"
    )
    with gr.Row(equal_height=True):
        number = create_numbered_slider(
            1, 2, 1, label=say("data_number"), elem_id="data-number", scale=4, min_width=240
        )
        previous = gr.Button(say("data_previous"), elem_id="data-previous", min_width=105, scale=1)
        following = gr.Button(say("data_next"), elem_id="data-next", min_width=105, scale=1)
    caption = gr.Markdown(elem_id="data-caption")
    picture = gr.Plot(label=say("data_picture"), elem_id="data-picture")
    whole_image = gr.Button(say("data_whole"), visible=False, size="sm", elem_id="data-whole")
    with gr.Accordion(say("data_marks"), open=False):
        marks = gr.HTML(elem_id="data-marks")
    return BrowserPanel(
        shown=gr.State(Shown()),
        split=split,
        number=number,
        previous=previous,
        next=following,
        whole_image=whole_image,
        caption=caption,
        picture=picture,
        marks=marks,
    )


def on_whole(panel: BrowserPanel, view: DataView, shown: Shown) -> Updates:
    """Show the whole image again, with the suspect still marked."""
    return show(panel, view, shown, is_close=False)


def show(
    panel: BrowserPanel, view: DataView, shown: Shown, split: str | None = None, *, is_close: bool = True
) -> Updates:
    """Update the picture and what is around it; with `split`, also the slider."""
    if shown.row is None:
        assert shown.path is not None
        return {
            panel.shown: shown,
            panel.marks: "",
            panel.whole_image: gr.update(visible=False),
            **_show_file(panel, shown.path),
        }
    row, suspect = shown.row, shown.suspect
    is_close = is_close and suspect is not None
    try:
        figure = _draw(view, shown, is_close)
    except UserError as error:
        return {
            panel.shown: shown,
            panel.caption: say("data_failed", reason=in_markdown(error)),
            panel.picture: None,
        }
    updates = {
        panel.shown: shown,
        panel.whole_image: gr.update(visible=is_close),
        panel.caption: image_caption(view, row),
        panel.picture: figure,
        panel.marks: landmarks_table(view, row, suspect.landmark if suspect else None),
    }
    if split is not None:
        rows = view.rows_in_split(split)
        updates[panel.number.slider] = gr.update(maximum=max(2, len(rows)), value=rows.index(row) + 1)
        updates[panel.split] = split
    return updates


def _show_file(panel: BrowserPanel, path: Path) -> Updates:
    """Show an image that is left out of the data set because of a problem."""
    try:
        pixels = read_full(path)
    except UserError as error:
        return {panel.caption: say("data_failed", reason=in_markdown(error)), panel.picture: None}
    height, width = pixels.shape[:2]
    note = say("data_left_out", name=path.name)
    return {panel.caption: note, panel.picture: plot_plain(shrink(pixels), (height, width))}


def _draw(view: DataView, shown: Shown, is_close: bool) -> Any:
    """Draw the image with every reader's annotations, or the surroundings of the suspect."""
    row, suspect = shown.row, shown.suspect
    assert row is not None
    pixels = read_full(view.samples.paths[row])
    readers = view.readers_xy_image[row]
    highlight = None
    if suspect is not None:
        at_xy = _locate_suspect(view, suspect)
        highlight = Highlight(view.names[suspect.landmark], at_xy, suspect.expected_xy_image)
    size_hw = view.samples.sizes_hw[row]
    figure = plot_marks(shrink(pixels), size_hw, readers, view.names, view.readers, highlight)
    if is_close and suspect is not None:
        places = [*readers[:, suspect.landmark], suspect.expected_xy_image or (np.nan, np.nan)]
        points = np.array([place for place in places if np.isfinite(place).all()], np.float64)
        side = max(LEAST_WINDOW_SHARE * max(size_hw), 1.5 * float(np.ptp(points, axis=0).max()))
        figure = zoom_in(figure, pixels, (points.min(axis=0) + points.max(axis=0)) / 2, side)
    # a new picture does not take over the zoom of the last one
    figure.update_layout(uirevision=f"{row} {suspect} {is_close}")
    return figure


def _locate_suspect(view: DataView, suspect: AnnotationOutlier) -> tuple[float, float]:
    """Return the annotation of the reader who is farther off, else the mean of the readers."""
    if suspect.reader is not None:
        x, y = view.readers_xy_image[suspect.row, suspect.reader, suspect.landmark]
    else:
        x, y = np.nanmean(view.readers_xy_image[suspect.row, :, suspect.landmark], axis=0)
    return float(x), float(y)
