"""The components of the Train tab and where they are placed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from ui.answers import Part, create_part
from ui.datasets import list_datasets
from ui.text.say import say
from ui.train.form import (
    ACCEPT,
    ADVANCED_GROUPS,
    DATA_KEYS,
    FORM_KEYS,
    MAIN_KEYS,
    SAMPLE_KEYS,
    SIZE_KEYS,
    build_field,
    build_preset_choice,
)
from ui.train.implausible_panel import ImplausiblePanel, create_implausible_panel
from ui.train.memory_panel import MemoryPanel


@dataclass(frozen=True)
class Answers:
    """The parts of the tab that answer the form, besides those of its memory panel."""

    data: Part
    leaks: Part
    sample: Part
    form: Part

    @classmethod
    def create(cls, form: gr.JSON) -> Answers:
        """Create the parts of a form that is laid out."""

        def part(name: str, keys: Sequence[str], *shown_in: str) -> Part:
            return create_part(name, shown_in, [form], keys=keys)

        return cls(
            part("data", DATA_KEYS, "#data-summary", "#implausible-list", "#data-problems-list"),
            part("leaks", DATA_KEYS, "#data-leaks", "#data-leaks-list"),
            part("sample", (*DATA_KEYS, *SAMPLE_KEYS), "#sample", "#sigma-note"),
            part("form", FORM_KEYS, "#blocked", "#command"),
        )


@dataclass(frozen=True)
class TrainTab:
    """The components of the tab and the folders it works on."""

    runs_dir: Path
    data_root: Path
    session: gr.State
    fields: dict[str, Any]
    form: gr.JSON  # the values of all fields by key, so that an event takes one input instead of each of them
    marked_keys: gr.State  # keys of the fields that show something other than their help
    started: gr.State  # the id of the run that Start has just made
    summary: gr.Markdown
    implausible: ImplausiblePanel
    problems_box: gr.Accordion
    problems: gr.Markdown
    leaks: gr.Markdown
    leak_list: gr.Markdown
    preset: gr.Radio
    draft_note: gr.Markdown
    defaults: gr.Button
    memory: MemoryPanel
    start: gr.Button
    queue: gr.Button
    blocked: gr.Markdown
    command: gr.Code
    sample: gr.Plot
    sigma_note: gr.Markdown
    answers: Answers

    @property
    def inputs(self) -> list[gr.components.Component]:
        """The form's fields in the order of FORM_KEYS."""
        return [self.fields[key] for key in FORM_KEYS]

    @property
    def initial(self) -> dict[str, Any]:
        """The values of the untouched form, by key."""
        return initial_values(self.fields)

    def events(self, keys: Sequence[str]) -> list[Any]:
        """Return the change events of some fields."""
        return [self.fields[key].change for key in keys]


def initial_values(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that the fields of an untouched form have, by key."""
    return {key: fields[key].value for key in FORM_KEYS}


def place_data(fields: dict[str, Any], data_root: Path) -> dict[str, Any]:
    """Place the data set's fields, then what is known about it: summary, identical images, problems."""
    with gr.Row():
        datasets = list_datasets(data_root)
        fields["dataset_path"] = gr.Dropdown(
            datasets,
            value=datasets[0][1] if datasets else None,
            label=say("dataset_path"),
            info=say("dataset_path_info"),
            allow_custom_value=True,
            elem_id="field-dataset_path",
            scale=2,
        )
        fields["annotation_type"] = gr.Dropdown(
            [(say("mean_choice"), "mean")],
            value="mean",
            allow_custom_value=True,  # a restarted server knows only the first choices
            label=say("annotation_type"),
            info=say("annotation_type_info"),
            elem_id="field-annotation_type",
        )
    parts: dict[str, Any] = {
        "summary": gr.Markdown(elem_id="data-summary"),
        "leaks": gr.Markdown(elem_id="data-leaks"),
    }
    parts["implausible"] = create_implausible_panel()
    fields[ACCEPT] = parts["implausible"].tick
    with gr.Accordion(say("problems_title"), open=False, visible=False) as problems_box:
        for name, elem_id in (("leak_list", "data-leaks-list"), ("problems", "data-problems-list")):
            parts[name] = gr.Markdown(elem_id=elem_id, elem_classes=["problem-list"])
    return {**parts, "problems_box": problems_box}


def place_decisions(fields: dict[str, Any]) -> dict[str, Any]:
    """Place the fields of training in the order of deciding: preset, model, size, batch size, the rest."""
    preset = build_preset_choice()
    draft_note = gr.Markdown(elem_id="draft-note")
    defaults = gr.Button(say("draft_reset"), size="sm", elem_id="defaults")
    fields["model"] = build_field("model")
    with gr.Row():
        for key in SIZE_KEYS:
            fields[key] = build_field(key)
    with gr.Row(equal_height=True):
        fields["batch_size"] = build_field("batch_size")
        recommend = gr.Button(say("recommend"), min_width=140, scale=0, elem_id="recommend")
    advice = gr.Markdown(say("predicting"), elem_id="advice")
    accumulate = gr.Button(visible=False, size="sm", elem_id="accumulate")
    _place_in_pairs(fields, [key for key in MAIN_KEYS if key not in fields])
    with gr.Accordion(say("advanced"), open=False):
        gr.Markdown(say("advanced_info"))
        for name, keys in ADVANCED_GROUPS.items():
            gr.Markdown(f"#### {say(f'advanced_{name}')}")
            _place_in_pairs(fields, keys)
    return {
        "preset": preset,
        "draft_note": draft_note,
        "defaults": defaults,
        "recommend": recommend,
        "advice": advice,
        "accumulate": accumulate,
    }


def _place_in_pairs(fields: dict[str, Any], keys: Sequence[str]) -> None:
    for first in range(0, len(keys), 2):
        with gr.Row():
            for key in keys[first : first + 2]:
                fields[key] = build_field(key)


def place_start() -> dict[str, Any]:
    """Place what follows from the form: the estimate, the buttons that start a run, and its command."""
    with gr.Row(elem_id="start-row"):
        # on_form enables them once the form is restored
        start = gr.Button(
            say("start"), variant="primary", interactive=False, elem_id="start", scale=3, min_width=160
        )
        queue = gr.Button(say("queue_add"), interactive=False, elem_id="queue", min_width=120)
    return {
        # below the buttons, so that a late answer does not move them under the mouse
        "estimate": gr.Markdown(say("estimate_empty"), elem_id="estimate"),
        "start": start,
        "queue": queue,
        "blocked": gr.Markdown(elem_id="blocked", visible=False),
        "command": gr.Code(
            label=say("command"),
            language=None,  # Gradio's colors for a shell cannot be read on white
            lines=1,
            interactive=False,
            wrap_lines=True,
            show_line_numbers=False,
            elem_id="command",
        ),
    }
