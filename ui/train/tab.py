"""The Train tab: one column of decisions, one picture that answers them, and Start."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from backend.config import parse_settings
from backend.errors import UserError
from backend.presets import PRESETS, match_preset
from ui.bindings import LATEST, PRIVATE, Updates, script
from ui.datasets import list_datasets
from ui.session import Session
from ui.text.say import say
from ui.torch_queries import absent_device
from ui.train.data_view import on_data, on_leaks, on_sample
from ui.train.form import (
    ACCEPT,
    CUSTOM,
    DATA_KEYS,
    FORM_KEYS,
    SAMPLE_KEYS,
    FormValues,
    first_mistake,
    mark_fields,
    mistakes_by_key,
    preset_fields,
    settings_of,
    to_settings,
    understood_by_key,
)
from ui.train.form_draft import STORAGE_KEY, draft_note, restore
from ui.train.implausible_panel import refuse_start
from ui.train.memory_panel import bind_memory_panel, create_memory_panel, load_memory_panel, mark_memory_panel
from ui.train.parts import (
    Answers,
    TrainTab,
    initial_values,
    place_data,
    place_decisions,
    place_start,
)
from ui.train.start import start_run, to_command


def create_train_tab(session: gr.State, runs_dir: Path, data_root: Path) -> TrainTab:
    """Lay out the tab and bind its handlers."""
    fields: dict[str, Any] = {}
    with gr.Row():
        with gr.Column(scale=3, min_width=340, elem_id="train-form"):
            parts = {**place_data(fields, data_root), **place_decisions(fields), **place_start()}
        with gr.Column(scale=2, min_width=320):
            parts["sample"] = gr.Plot(label=say("sample"), elem_id="sample")
            parts["sigma_note"] = gr.Markdown(elem_id="sigma-note")
            form = gr.JSON(initial_values(fields), visible=False)
            advice = {name: parts.pop(name) for name in ("recommend", "advice", "accumulate", "estimate")}
            parts["memory"] = create_memory_panel(runs_dir, fields, form, **advice)
    parts["answers"] = Answers.create(form)
    tab = TrainTab(
        runs_dir, data_root, session, fields, form, marked_keys=gr.State([]), started=gr.State(), **parts
    )
    _bind(tab)
    return tab


def _bind(tab: TrainTab) -> None:
    """Bind the handlers; those that the browser runs without waiting for the server come first."""
    _bind_in_browser(tab)
    _bind_data(tab, tab.events(DATA_KEYS), mends=True)
    tab.answers.sample.answers(
        tab.events(SAMPLE_KEYS), partial(on_sample, tab), [tab.form], [tab.sample, tab.sigma_note], mends=True
    )
    _bind_form(tab, tab.events(FORM_KEYS), mends=True)
    bind_memory_panel(tab.memory)

    # these two only fill the form; everything else follows from the changes of its fields
    tab.defaults.click(partial(on_defaults, tab), None, [*tab.inputs, tab.form, tab.draft_note], **PRIVATE)
    # `input` fires only when the user chooses, not when on_form shows a preset
    tab.preset.input(partial(on_preset, tab), tab.preset, tab.inputs, **LATEST)

    tab.start.click(
        partial(on_start, tab),
        [tab.session, tab.form],
        [tab.started, tab.session, tab.blocked, tab.fields[ACCEPT]],
        api_visibility="private",
        trigger_mode="once",
    )


def _bind_in_browser(tab: TrainTab) -> None:
    """Gather and store the form at every change, and mark the parts that no longer match it."""
    answers = tab.answers
    gr.on(
        tab.events(FORM_KEYS),
        None,
        tab.inputs,
        [tab.form],
        js=script("keep_form.js", STORAGE_KEY, FORM_KEYS, tab.initial),
        **PRIVATE,
    )
    for part in (answers.data, answers.leaks, answers.sample):
        part.asks(tab.events(DATA_KEYS))
    answers.sample.asks(tab.events(SAMPLE_KEYS))
    answers.form.asks(tab.events(FORM_KEYS))
    mark_memory_panel(tab.memory)


def _bind_data(tab: TrainTab, events: Any, *, mends: bool = False) -> None:
    """Bind what follows from the data set: its summary and a sample at once, identical images afterwards."""
    answers = tab.answers
    outputs = [
        tab.summary, *tab.implausible.outputs, tab.problems_box, tab.problems, tab.leaks, tab.leak_list,
        tab.fields["annotation_type"],
    ]  # fmt: skip
    summarized = answers.data.answers(events, partial(on_data, tab), [tab.form], outputs, mends=mends)
    answers.sample.answers(summarized.then, partial(on_sample, tab), [tab.form], [tab.sample, tab.sigma_note])
    outputs = [tab.leaks, tab.leak_list, tab.problems_box]
    answers.leaks.answers(summarized.then, partial(on_leaks, tab), [tab.form], outputs, mends=mends)


def _bind_form(tab: TrainTab, events: Any, *, mends: bool = False) -> None:
    """Bind what follows from the whole form: its fields' marks, its command, and whether it can start."""
    outputs = [*tab.inputs, tab.preset, tab.marked_keys, tab.start, tab.queue, tab.blocked, tab.command]
    tab.answers.form.answers(events, partial(on_form, tab), [tab.marked_keys, tab.form], outputs, mends=mends)


def bind_load(tab: TrainTab, page: gr.Blocks) -> None:
    """Fill the tab when a browser opens the page: first the form as the browser stored it, then the rest."""
    stored = gr.JSON(visible=False)
    restored = page.load(
        partial(on_open, tab),
        [stored],
        [*tab.inputs, tab.form, tab.draft_note],
        js=script("read_form.js", STORAGE_KEY),
        **PRIVATE,
    )
    restored.then(None, js=script("show_form.js"), **PRIVATE)
    answers = tab.answers
    for part in (answers.data, answers.leaks, answers.sample, answers.form, tab.memory.step, tab.memory.time):
        part.asks(restored.then)
    _bind_data(tab, restored.then)
    _bind_form(tab, restored.then)
    load_memory_panel(tab.memory, restored)


def on_open(tab: TrainTab, stored: Any) -> Updates:
    """Offer the current data sets, and fill the form as this browser stored it."""
    datasets = list_datasets(tab.data_root)
    draft = restore(stored, tab.initial)
    updates = {tab.fields[key]: gr.update(value=value) for key, value in draft.values.items()}
    dataset_path = draft.values.get("dataset_path") or next((path for _, path in datasets), None)
    updates[tab.fields["dataset_path"]] = gr.update(choices=datasets, value=dataset_path)
    form = {**tab.initial, **draft.values, "dataset_path": dataset_path}
    return {**updates, tab.form: form, tab.draft_note: draft_note(draft)}


def on_defaults(tab: TrainTab) -> Updates:
    """Reset the form to the defaults, with the first of the current data sets."""
    return {**dict(zip(tab.inputs, tab.initial.values(), strict=True)), **on_open(tab, None)}


def on_preset(tab: TrainTab, name: str) -> list[Any]:
    """Put the values of the chosen preset into the form; everything else follows from their change."""
    values = preset_fields(name) if name in PRESETS else {}
    return [values.get(key, gr.skip()) for key in FORM_KEYS]


def on_form(tab: TrainTab, marked_keys: list[str], form: FormValues) -> Updates:
    """Mark what is wrong, update the command, and enable Start only when nothing is wrong."""
    raw = to_settings(form)
    mistakes = mistakes_by_key(raw)
    if not raw["dataset_path"]:
        mistakes["dataset_path"] = say("choose_data")
    elif not os.path.exists(raw["dataset_path"]):  # noqa: PTH110 (false, no error, for what cannot be a path)
        mistakes["dataset_path"] = say("no_such_data", path=raw["dataset_path"])
    if "device" not in mistakes and (absent := absent_device(raw["device"])):
        mistakes["device"] = absent
    understood = understood_by_key(form)
    marks = mark_fields(FORM_KEYS, mistakes, understood, [*marked_keys, ACCEPT])  # Start may mark that
    return {
        **dict(zip(tab.inputs, marks, strict=True)),
        tab.preset: match_preset(raw) or CUSTOM,
        tab.marked_keys: [*mistakes, *understood],
        tab.start: gr.update(interactive=not mistakes),
        tab.queue: gr.update(interactive=not mistakes),
        tab.blocked: gr.update(value=first_mistake(mistakes) if mistakes else "", visible=bool(mistakes)),
        tab.command: "" if mistakes else to_command(parse_settings(raw), tab.runs_dir),
    }


def on_start(tab: TrainTab, session: Session, form: FormValues) -> Updates:
    """Create the run's folder, start its worker and watch it."""
    try:
        run_id = start_run(settings_of(form), tab.runs_dir)
    except UserError as error:
        return refuse_start(tab.blocked, tab.implausible.tick, error)
    session.watch(run_id)
    gr.Info(say("started", run_id=run_id))
    return {tab.started: run_id, tab.session: session, tab.blocked: gr.update(visible=False)}
