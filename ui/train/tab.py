"""The Train tab: one column of decisions, one picture that answers them, and Start."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from backend.config import Settings, parse_settings, settings_affecting
from backend.data.annotations import read_annotations
from backend.data.samples import SampleSplits
from backend.errors import UserError
from backend.presets import PRESETS, match_preset
from ui.answers import NoAnswer, Part, create_part
from ui.bindings import LATEST, PRIVATE, Updates, script
from ui.datasets import (
    crop_sides,
    list_datasets,
    list_leaks,
    list_problems,
    read_display,
    read_leaks,
    read_splits,
    sigma_words,
    summarise,
    summarise_leaks,
)
from ui.figures.pictures import plot_sample
from ui.session import Session
from ui.text.say import in_markdown, say
from ui.torch_queries import absent_device
from ui.train.form import (
    ACCEPT,
    ADVANCED_GROUPS,
    CUSTOM,
    DATA_KEYS,
    FORM_KEYS,
    MAIN_KEYS,
    SAMPLE_KEYS,
    SIZE_KEYS,
    build_field,
    build_preset_choice,
    first_mistake,
    keys_of,
    mark_fields,
    mistakes_by_key,
    preset_fields,
    raw_of,
    settings_of,
    understood_by_key,
)
from ui.train.form_draft import STORAGE_KEY, note_words, restore
from ui.train.implausible_panel import (
    ImplausiblePanel,
    create_implausible_panel,
    refuse_start,
    show_implausible,
)
from ui.train.memory_panel import (
    MemoryPanel,
    bind_memory_panel,
    create_memory_panel,
    load_memory_panel,
    mark_memory_panel,
)
from ui.train.start import start_run, to_command


@dataclass(frozen=True)
class Answers:
    """The parts of the tab that answer the form, besides those of its memory panel."""

    data: Part
    leaks: Part
    sample: Part
    form: Part

    @classmethod
    def create(cls, fields: dict[str, Any]) -> Answers:
        """Of a form whose fields are there."""

        def part(name: str, keys: Sequence[str], *shown_in: str) -> Part:
            return create_part(name, shown_in, [fields[key] for key in keys])

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
    marked: gr.State  # keys of the fields that say something else than their help
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
        """The form's components in the order of FORM_KEYS."""
        return [self.fields[key] for key in FORM_KEYS]

    @property
    def initial(self) -> dict[str, Any]:
        """What the untouched form holds, by key."""
        return {key: self.fields[key].value for key in FORM_KEYS}

    def events(self, keys: Sequence[str]) -> list[Any]:
        """The change events of some fields."""
        return [self.fields[key].change for key in keys]


def create_train_tab(session: gr.State, runs_dir: Path, data_root: Path) -> TrainTab:
    """Lay out the tab and bind its handlers."""
    fields: dict[str, Any] = {}
    with gr.Row():
        with gr.Column(scale=3, min_width=340, elem_id="train-form"):
            parts = {**_place_data(fields, data_root), **_place_decisions(fields), **_place_start()}
        with gr.Column(scale=2, min_width=320):
            parts["sample"] = gr.Plot(label=say("sample"), elem_id="sample")
            parts["sigma_note"] = gr.Markdown(elem_id="sigma-note")
            advice = {name: parts.pop(name) for name in ("recommend", "advice", "accumulate", "estimate")}
            parts["memory"] = create_memory_panel(runs_dir, fields, **advice)
    parts["answers"] = Answers.create(fields)
    tab = TrainTab(runs_dir, data_root, session, fields, marked=gr.State([]), started=gr.State(), **parts)
    _bind(tab)
    return tab


def _place_data(fields: dict[str, Any], data_root: Path) -> dict[str, Any]:
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


def _place_decisions(fields: dict[str, Any]) -> dict[str, Any]:
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


def _place_start() -> dict[str, Any]:
    with gr.Row():
        # on_form lets them be pressed, once the form is restored
        start = gr.Button(
            say("start"), variant="primary", interactive=False, elem_id="start", scale=3, min_width=160
        )
        queue = gr.Button(say("queue_add"), interactive=False, elem_id="queue", min_width=120)
    return {
        # below the buttons: what comes late must not move them away under the mouse
        "estimate": gr.Markdown(say("estimate_empty"), elem_id="estimate"),
        "start": start,
        "queue": queue,
        "blocked": gr.Markdown(elem_id="blocked", visible=False),
        "command": gr.Code(
            label=say("command"),
            language=None,  # Gradio's colours for a shell cannot be read on white
            lines=1,
            interactive=False,
            wrap_lines=True,
            show_line_numbers=False,
            elem_id="command",
        ),
    }


def _bind(tab: TrainTab) -> None:
    answers = tab.answers
    # what the browser does by itself comes first: it does not wait for the server
    gr.on(
        tab.events(FORM_KEYS),
        None,
        tab.inputs,
        None,
        js=script("keep_form.js", STORAGE_KEY, FORM_KEYS, tab.initial),
        **PRIVATE,
    )
    for part in (answers.data, answers.leaks, answers.sample):
        part.asks(tab.events(DATA_KEYS))
    answers.sample.asks(tab.events(SAMPLE_KEYS))
    answers.form.asks(tab.events(FORM_KEYS))
    mark_memory_panel(tab.memory)
    _bind_data(tab, tab.events(DATA_KEYS), mends=True)
    answers.sample.answers(
        tab.events(SAMPLE_KEYS), partial(on_sample, tab), tab.inputs, [tab.sample, tab.sigma_note], mends=True
    )
    _bind_form(tab, tab.events(FORM_KEYS), mends=True)
    tab.defaults.click(partial(on_defaults, tab), None, [*tab.inputs, tab.draft_note], **PRIVATE)
    bind_memory_panel(tab.memory, tab.inputs)
    # `input` is the user's own choice alone: what on_form shows there sets off nothing
    tab.preset.input(partial(on_preset, tab), tab.preset, tab.inputs, **LATEST)
    tab.start.click(
        partial(on_start, tab),
        [tab.session, *tab.inputs],
        [tab.started, tab.session, tab.blocked, tab.fields[ACCEPT]],
        api_visibility="private",
        trigger_mode="once",
    )


def _bind_data(tab: TrainTab, events: Any, *, mends: bool = False) -> None:
    """What follows from the data set: its summary and a sample at once, pairs of one image afterwards."""
    answers = tab.answers
    outputs = [
        tab.summary, *tab.implausible.outputs, tab.problems_box, tab.problems, tab.leaks, tab.leak_list,
        tab.fields["annotation_type"],
    ]  # fmt: skip
    shown = answers.data.answers(events, partial(on_data, tab), tab.inputs, outputs, mends=mends)
    answers.sample.answers(shown.then, partial(on_sample, tab), tab.inputs, [tab.sample, tab.sigma_note])
    outputs = [tab.leaks, tab.leak_list, tab.problems_box]
    answers.leaks.answers(shown.then, partial(on_leaks, tab), tab.inputs, outputs, mends=mends)


def _bind_form(tab: TrainTab, events: Any, *, mends: bool = False) -> None:
    outputs = [*tab.inputs, tab.preset, tab.marked, tab.start, tab.queue, tab.blocked, tab.command]
    tab.answers.form.answers(events, partial(on_form, tab), [tab.marked, *tab.inputs], outputs, mends=mends)


def bind_load(tab: TrainTab, page: gr.Blocks) -> None:
    """Fill the tab when a browser opens the page: the form as it was left there, then what follows from it."""
    kept = gr.JSON(visible=False)
    restored = page.load(
        partial(on_open, tab),
        [kept],
        [*tab.inputs, tab.draft_note],
        js=script("read_form.js", STORAGE_KEY),
        **PRIVATE,
    )
    restored.then(None, js=script("show_form.js"), **PRIVATE)
    of_form = (tab.answers.data, tab.answers.leaks, tab.answers.sample, tab.answers.form)
    for part in (*of_form, tab.memory.step, tab.memory.time):
        part.asks(restored.then)
    _bind_data(tab, restored.then)
    _bind_form(tab, restored.then)
    load_memory_panel(tab.memory, tab.inputs, restored)


def on_open(tab: TrainTab, kept: Any) -> Updates:
    """The data sets that are there now, and the form as this browser kept it."""
    datasets = list_datasets(tab.data_root)
    draft = restore(kept, tab.initial)
    updates = {tab.fields[key]: gr.update(value=value) for key, value in draft.values.items()}
    chosen = draft.values.get("dataset_path") or next((path for _, path in datasets), None)
    updates[tab.fields["dataset_path"]] = gr.update(choices=datasets, value=chosen)
    return {**updates, tab.draft_note: note_words(draft)}


def on_defaults(tab: TrainTab) -> Updates:
    """Start from the defaults, with the first of the data sets that are there now."""
    return {**dict(zip(tab.inputs, tab.initial.values(), strict=True)), **on_open(tab, None)}


def on_data(tab: TrainTab, *values: Any) -> Updates:
    """A data set was chosen: its summary, problems and readers."""
    cleared = {
        **show_implausible(tab.implausible, None),
        tab.problems_box: gr.update(visible=False),
        tab.leaks: "",
    }
    try:
        settings = settings_for_data(values)
        if not settings.dataset_path:
            return {**cleared, tab.summary: say("choose_data")}
        splits = read_splits(settings)
    except UserError as error:
        return {**cleared, tab.summary: say("data_failed", reason=in_markdown(error))}
    readers = [(say("mean_choice"), "mean"), *((name, name) for name in splits.annotations.reader_names)]
    return {
        **show_implausible(tab.implausible, splits),
        tab.summary: summarise(splits),
        tab.problems_box: gr.update(visible=bool(splits.annotations.problems)),
        tab.problems: list_problems(splits),
        tab.leaks: say("leaks_looking"),
        tab.leak_list: "",
        tab.fields["annotation_type"]: gr.update(choices=readers, value=settings.annotation_type),
    }


def on_leaks(tab: TrainTab, *values: Any) -> Updates:
    """After the summary: images that stand in two splits, among the problems. The first look decodes every image."""
    try:
        settings = settings_for_data(values)
        leaks = read_leaks(read_splits(settings)) if settings.dataset_path else None
    except UserError:
        leaks = None
    if leaks is None:
        return {tab.leaks: ""}  # on_data says what is wrong
    box = gr.update(visible=True) if leaks else gr.skip()
    return {tab.leaks: summarise_leaks(leaks), tab.leak_list: list_leaks(leaks), tab.problems_box: box}


def on_sample(tab: TrainTab, *values: Any) -> Updates:
    """The data set, or something that changes sigma: draw the sample again."""
    if any(key in SAMPLE_KEYS for key in mistakes_by_key(raw_of(values))):
        raise NoAnswer  # the field that is wrong is marked by on_form
    nothing = {tab.sample: None, tab.sigma_note: ""}
    try:
        settings = settings_for_data(values)
        return _draw_sample(tab, settings, read_splits(settings)) if settings.dataset_path else nothing
    except UserError:
        return nothing  # on_data says what is wrong


def on_preset(tab: TrainTab, name: str) -> list[Any]:
    """A preset was chosen: its values into the form; everything else follows from their change."""
    values = preset_fields(name) if name in PRESETS else {}
    return [values.get(key, gr.skip()) for key in FORM_KEYS]


def on_form(tab: TrainTab, already: list[str], *values: Any) -> Updates:
    """Mark what is wrong, keep the command in step, and let Start be pressed only when all is well."""
    raw = raw_of(values)
    mistakes = mistakes_by_key(raw)
    if not raw["dataset_path"]:
        mistakes["dataset_path"] = say("choose_data")
    elif not os.path.exists(raw["dataset_path"]):  # noqa: PTH110 (false, no error, for what cannot be a path)
        mistakes["dataset_path"] = say("no_such_data", path=raw["dataset_path"])
    if "device" not in mistakes and (absent := absent_device(raw["device"])):
        mistakes["device"] = absent
    understood = understood_by_key(dict(zip(FORM_KEYS, values, strict=True)))
    marks = mark_fields(FORM_KEYS, mistakes, understood, [*already, ACCEPT])  # Start may have marked it
    return {
        **dict(zip(tab.inputs, marks, strict=True)),
        tab.preset: match_preset(raw) or CUSTOM,
        tab.marked: [*mistakes, *understood],
        tab.start: gr.update(interactive=not mistakes),
        tab.queue: gr.update(interactive=not mistakes),
        tab.blocked: gr.update(value=first_mistake(mistakes) if mistakes else "", visible=bool(mistakes)),
        tab.command: "" if mistakes else to_command(parse_settings(raw), tab.runs_dir),
    }


def on_start(tab: TrainTab, watched: Session, *values: Any) -> Updates:
    """Make the run's folder and start its worker."""
    try:
        run_id = start_run(settings_of(values), tab.runs_dir)
    except UserError as error:
        return refuse_start(tab.blocked, tab.implausible.tick, error)
    watched.watch(run_id)
    gr.Info(say("started", run_id=run_id))
    return {tab.started: run_id, tab.session: watched, tab.blocked: gr.update(visible=False)}


def settings_for_data(values: Sequence[Any]) -> Settings:
    """Only what decides the data set and how it is shown, so that a wrong learning rate does not hide it."""
    raw = raw_of(values)
    path = raw["dataset_path"]
    wanted = {key: raw[key] for key in DATA_KEYS}
    if path:
        readers = read_annotations(Path(path), raw["dataset_format"]).reader_names
        if raw["annotation_type"] not in readers:
            wanted["annotation_type"] = "mean"
    wrong = mistakes_by_key(raw)
    shown = settings_affecting("sample", "views", "decoding_error")
    right = {name: raw[name] for name in shown if wrong.keys().isdisjoint(keys_of([name]))}
    return parse_settings({**right, **wanted})


def _draw_sample(tab: TrainTab, settings: Settings, splits: SampleSplits) -> Updates:
    """The first training image with its landmarks and sigma."""
    train = splits.train
    sigma = sigma_words(settings, train)
    figure = plot_sample(
        read_display(train.paths[0], train.sizes_hw[0]),
        train.sizes_hw[0],
        train.points_xy_image[0],
        splits.annotations.landmark_names,
        sigma.sigma_px_image,
        crop_sides(settings, train),
    )
    return {tab.sample: figure, tab.sigma_note: sigma.words}
