"""The components of the Data tab and where they are placed."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from backend.data.annotations import FORMATS
from ui.answers import Part, create_part
from ui.bindings import read_static
from ui.data.browser import BrowserPanel, create_browser
from ui.data.training_view import TrainingPanel, create_training_panel
from ui.text.say import say
from ui.train.form import DATA_KEYS, SAMPLE_KEYS
from ui.train.parts import TrainTab


@dataclass(frozen=True)
class Answers:
    """The parts of the tab that answer the Train form, and those that answer which image was chosen."""

    data: Part
    problems: Part
    decoding_error: Part
    views: Part
    image: Part
    sigma: Part

    @classmethod
    def create(cls, train: TrainTab) -> Answers:
        """Create the parts of a tab that is laid out."""
        form = [train.form]
        return cls(
            create_part("data-view", ("#data-tab-summary", "#data-body"), form, keys=DATA_KEYS),
            create_part("data-problems", ("#data-problems-note", "#data-problems"), form, keys=DATA_KEYS),
            create_part("data-floor", ("#data-floor",), form),
            create_part("data-views", ("#data-views",), form, keeps=True),
            create_part(
                "data-image",
                ("#data-caption", "#data-picture", "#data-marks", "#data-sigma", "#data-sigma-note"),
            ),
            create_part(
                "data-sigma",
                ("#data-sigma", "#data-sigma-note"),
                form,
                keys=(*DATA_KEYS, *SAMPLE_KEYS),
            ),
        )


@dataclass(frozen=True)
class DataTab:
    """The components of the tab; `train` holds the form whose data set and settings are shown."""

    data_root: Path
    train: TrainTab
    view: gr.State  # DataView; None if no data set could be read
    leaks: gr.State  # the pairs that are listed among the problems
    dataset: gr.Dropdown
    upload: gr.UploadButton
    refused: gr.Markdown  # why an archive was refused
    imported: gr.State  # the folder that was imported last
    reload: gr.Button
    summary: gr.Markdown
    body: gr.Column
    counts: gr.HTML
    suspects_note: gr.Markdown
    suspects: gr.HTML
    problems_note: gr.Markdown
    problems: gr.HTML
    browser: BrowserPanel
    training: TrainingPanel
    answers: Answers

    @property
    def everything(self) -> list[Any]:
        """The components that showing another data set changes."""
        return [
            self.view, self.leaks, self.dataset, self.summary, self.body, self.counts, self.suspects_note,
            self.suspects, self.problems_note, self.problems, *self.browser.parts, *self.training.parts,
        ]  # fmt: skip


def place_choice() -> dict[str, Any]:
    """Place the choice of a data set, its import, and its summary."""
    with gr.Row(equal_height=True):
        dataset = gr.Dropdown(
            [],
            label=say("dataset_path"),
            info=say("data_dataset_info"),
            allow_custom_value=True,
            elem_id="data-dataset",
            scale=4,
            min_width=260,
        )
        with gr.Column(scale=1, min_width=150):
            upload = gr.UploadButton(
                say("data_import"), file_types=[".zip"], size="md", elem_id="data-import", min_width=150
            )
            reload = gr.Button(say("data_reload"), size="md", elem_id="data-reload", min_width=150)
    formats = ", ".join(format.title for format in FORMATS.values())
    note = f'<p class="note">{escape(say("data_import_note", formats=formats))}</p>'
    gr.HTML(note, elem_id="data-import-note", padding=False)
    refused = gr.Markdown(visible=False, elem_id="data-import-refused", elem_classes="refused")
    summary = gr.Markdown(say("data_reading"), elem_id="data-tab-summary")
    return {
        "dataset": dataset,
        "upload": upload,
        "refused": refused,
        "reload": reload,
        "summary": summary,
    }


def place_body() -> dict[str, Any]:
    """Place the counts, the image beside the lists that lead to it, and what training sees of it."""
    with gr.Column(visible=False, elem_id="data-body") as body:
        counts = gr.HTML(elem_id="data-counts")
        with gr.Row():
            with gr.Column(scale=3, min_width=330):
                browser = create_browser()
            with gr.Column(scale=2, min_width=330):
                parts = _place_lists()
        training = create_training_panel()
    return {"body": body, "counts": counts, "browser": browser, "training": training, **parts}


def _place_lists() -> dict[str, Any]:
    suspects_note, suspects = _place_list("suspects", say("data_suspects"))
    problems_note, problems = _place_list("problems", say("problems_title"))
    return {
        "suspects_note": suspects_note, "suspects": suspects, "problems_note": problems_note,
        "problems": problems
    }  # fmt: skip


def _place_list(name: str, title: str) -> tuple[gr.Markdown, gr.HTML]:
    """Place a title, a note, and the table whose rows open their image."""
    gr.Markdown(f"### {title}")
    note = gr.Markdown(elem_id=f"data-{name}-note")
    return note, gr.HTML(js_on_load=read_static("open_rows.js"), elem_id=f"data-{name}", padding=False)
