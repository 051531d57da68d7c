"""The components of the Predict tab and where they are placed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from backend.data.annotations.writers import EXPORTS
from ui.answers import Part
from ui.number_field import create_number_field
from ui.predict.runs import run_choices
from ui.text.say import say


@dataclass(frozen=True)
class PredictTab:
    """The components of the tab and the folder of runs that it chooses from."""

    runs_dir: Path
    uploads: gr.State
    files: gr.File
    run: gr.Dropdown
    run_note: gr.HTML
    by: gr.HTML  # which run predicted the landmarks
    answers: Part  # what is said about the chosen run
    predictions: Part
    spacing: gr.Textbox
    predict: gr.Button
    cancel: gr.Button
    clear: gr.Button
    note: gr.HTML
    empty: gr.Markdown
    images: gr.HTML
    annotator: gr.HTML
    export_row: gr.Row
    format: gr.Dropdown
    export: gr.Button
    file: gr.DownloadButton

    @property
    def shown_parts(self) -> list[Any]:
        """The components that show the images and their landmarks."""
        return [self.uploads, self.note, self.empty, self.images, self.annotator, self.export_row, self.file]

    @property
    def working_parts(self) -> list[Any]:
        """The components of `shown_parts` and the buttons."""
        return [*self.shown_parts, self.files, self.predict, self.cancel, self.clear]


def place_request(runs_dir: Path) -> dict[str, Any]:
    """Place the choice of a run and of a pixel size, and the buttons."""
    choices = run_choices(runs_dir)
    with gr.Row():
        run = gr.Dropdown(
            choices,
            value=choices[0][1] if choices else None,
            label=say("predict_run"),
            info=run_info(choices),
            allow_custom_value=True,  # a restarted server knows only the first choices
            min_width=420,  # a line of its own: the entries are long
            elem_id="predict-run",
        )
        spacing = create_number_field(
            None,
            is_whole=False,
            label=say("predict_mm_per_px"),
            info=say("predict_mm_per_px_info"),
            min_width=220,
            elem_id="predict-spacing",
        )
    run_note = gr.HTML(elem_id="predict-run-note", padding=False)
    with gr.Row():
        predict = gr.Button(say("predict"), variant="primary", interactive=False, elem_id="predict-start")
        cancel = gr.Button(say("predict_cancel"), variant="stop", visible=False, elem_id="predict-cancel")
        clear = gr.Button(say("predict_clear"), interactive=False, elem_id="predict-clear")
    return {
        "run": run, "run_note": run_note, "spacing": spacing, "predict": predict, "cancel": cancel,
        "clear": clear
    }  # fmt: skip


def place_export() -> dict[str, Any]:
    """Place the choice of a format and the buttons, hidden until something is predicted."""
    with gr.Row(visible=False, elem_classes="predict-export") as row:
        format = gr.Dropdown(
            [(say(f"predict_export_{name}"), name) for name in EXPORTS],
            value="csv",
            label=say("predict_format"),
            info=say("predict_format_info"),
            elem_id="predict-format",
            scale=2,
        )
        export = gr.Button(say("predict_export"), elem_id="predict-export", min_width=120)
        file = gr.DownloadButton(
            say("predict_download"), visible=False, elem_id="predict-file", min_width=120
        )
    return {"export_row": row, "format": format, "export": export, "file": file}


def run_info(choices: Sequence[tuple[str, str]]) -> str:
    """Return the help of the choice of a run, or why there is none to choose."""
    return say("predict_run_info") if choices else say("predict_no_run")
