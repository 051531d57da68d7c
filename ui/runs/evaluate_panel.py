"""The Evaluate panel of an opened run: evaluate its best weights on a split, and show earlier evaluations."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from backend.data.annotations import read_annotations
from backend.errors import UserError
from backend.evaluation.figures import plot_confidence, plot_cumulative, plot_groups, plot_landmarks
from backend.evaluation.record import is_readable
from backend.run.folder import RunFolder
from ui.answers import Part, create_part
from ui.bindings import PRIVATE, Updates, show_figures
from ui.datasets import annotation_format, list_datasets, splits_to_measure
from ui.run_rows import live_runs, read_config
from ui.runs.evaluation_process import Request, read_progress, start_evaluation
from ui.runs.evaluation_view import MAX_WORST, headline, landmark_errors, progress_html, worst_figures
from ui.session import Session
from ui.text.say import say

POLL_S = 2.0
REQUEST_PART = "evaluation"  # of the session: the request of the evaluation that was started last


@dataclass(frozen=True)
class EvaluatePanel:
    """The components of the panel and the folders it works on."""

    runs_dir: Path
    data_root: Path
    session: gr.State
    opened: gr.State  # id of the run whose details are shown
    dataset: gr.Dropdown
    split: gr.Dropdown
    truth: gr.Dropdown
    exclude: gr.Textbox
    leave_out: gr.Checkbox
    evaluate: gr.Button
    note: gr.HTML
    shown: gr.Dropdown
    results: gr.Column
    numbers: gr.HTML
    cumulative: gr.Plot
    confidence: gr.Plot
    landmarks: gr.Plot
    group: gr.Dropdown
    groups: gr.Plot
    table: gr.HTML
    worst: tuple[gr.Plot, ...]
    timer: gr.Timer

    @property
    def choices(self) -> list[Any]:
        """The fields that depend on the chosen data set, and the note about it."""
        return [self.dataset, self.split, self.truth, self.note]

    @property
    def request(self) -> list[Any]:
        """The fields that say what to evaluate on."""
        return [self.dataset, self.split, self.truth, self.exclude, self.leave_out]

    @property
    def shown_parts(self) -> list[Any]:
        """The components that an evaluation changes."""
        return [
            self.session, self.note, self.evaluate, self.shown, self.results, self.numbers, self.cumulative,
            self.confidence, self.landmarks, self.group, self.groups, self.table, *self.worst,
        ]  # fmt: skip


def create_evaluate_panel(
    session: gr.State, opened: gr.State, runs_dir: Path, data_root: Path
) -> EvaluatePanel:
    """Lay out the panel and bind its handlers."""
    with gr.Accordion(say("evaluate_title"), open=True, elem_id="evaluate-panel"):
        parts = {**_place_request(data_root), **_place_results()}
    panel = EvaluatePanel(
        runs_dir=runs_dir,
        data_root=data_root,
        session=session,
        opened=opened,
        timer=gr.Timer(POLL_S),
        **parts,
    )
    _bind(panel)
    return panel


def _place_request(data_root: Path) -> dict[str, Any]:
    """Place the fields that say what to evaluate on, the button, and a note on its progress."""
    with gr.Row():
        dataset = gr.Dropdown(
            list_datasets(data_root),
            label=say("dataset_path"),
            info=say("dataset_path_info"),
            allow_custom_value=True,
            elem_id="evaluate-dataset",
        )
        split = gr.Dropdown(
            [],
            label=say("evaluate_split"),
            info=say("evaluate_split_info"),
            allow_custom_value=True,  # a restarted server knows only the first choices
            elem_id="evaluate-split",
        )
        truth = gr.Dropdown(
            [(say("mean_choice"), "mean")],
            value="mean",
            label=say("evaluate_truth"),
            info=say("annotation_type_info"),
            allow_custom_value=True,
            elem_id="evaluate-truth",
        )
        exclude = gr.Textbox(
            label=say("evaluate_exclude"), info=say("evaluate_exclude_info"), elem_id="evaluate-exclude"
        )
    leave_out = gr.Checkbox(
        value=True,
        label=say("evaluate_leave_out"),
        info=say("evaluate_leave_out_info"),
        elem_id="evaluate-leave-out",
    )
    evaluate = gr.Button(say("evaluate"), variant="primary", elem_id="evaluate")
    note = gr.HTML(elem_id="evaluate-note", padding=False)
    return {
        "dataset": dataset,
        "split": split,
        "truth": truth,
        "exclude": exclude,
        "leave_out": leave_out,
        "evaluate": evaluate,
        "note": note,
    }


def _place_results() -> dict[str, Any]:
    """Place the results: numbers, curves, the errors by landmark and by group, and the worst images."""
    parts: dict[str, Any] = {}
    with gr.Column(visible=False, elem_id="evaluation-results") as parts["results"]:
        parts["shown"] = gr.Dropdown(
            [], label=say("evaluation_shown"), allow_custom_value=True, elem_id="evaluation-shown"
        )
        parts["numbers"] = gr.HTML(elem_id="evaluation-numbers")
        with gr.Row():
            parts["cumulative"] = gr.Plot(
                label=say("evaluation_curve"), elem_id="evaluation-curve", min_width=320
            )
            parts["confidence"] = gr.Plot(elem_id="evaluation-confidence", min_width=320)
        parts["landmarks"] = gr.Plot(label=say("evaluation_by_landmark"), elem_id="evaluation-landmarks")
        parts["group"] = gr.Dropdown(
            [],
            label=say("evaluation_group"),
            allow_custom_value=True,
            visible=False,
            elem_id="evaluation-group",
        )
        parts["groups"] = gr.Plot(
            label=say("evaluation_by_group"), visible=False, elem_id="evaluation-groups"
        )
        with gr.Accordion(say("evaluation_table"), open=True):
            parts["table"] = gr.HTML(elem_id="evaluation-table")
        gr.Markdown(say("evaluation_worst"))
        with gr.Row():
            parts["worst"] = tuple(
                gr.Plot(visible=False, elem_id=f"evaluation-worst-{number}", min_width=270)
                for number in range(MAX_WORST)
            )
    return parts


def _bind(panel: EvaluatePanel) -> None:
    """Bind the handlers, after the marks of the same events (see `Part.asks`)."""
    # the results belong to the opened run and the chosen evaluation, and answer a request
    result = create_part("evaluation", ("#evaluation-results", "#evaluate-note"))
    request = create_part("evaluation-asked", ("#evaluation-results",), panel.request, keeps=True)
    result.asks([panel.opened.change, panel.shown.input])
    request.asks([component.input for component in panel.request])

    _bind_opened(panel, result, request)
    _bind_evaluation(panel, result, request)
    _bind_choices(panel, result, request)


def _bind_opened(panel: EvaluatePanel, result: Part, request: Part) -> None:
    """Show the evaluations of the run that is opened; none of them counts as outdated then."""

    def open_run(
        result_question: str, request_question: str, session: Session, run_id: str | None, *fields: Any
    ) -> Updates:
        session.awaited[REQUEST_PART] = request_question
        answered = {result.answered: result_question, request.answered: request_question}
        return {**answered, **on_opened(panel, session, run_id)}

    result.binds(
        panel.opened.change,
        open_run,
        [panel.session, panel.opened, *panel.request],
        list(dict.fromkeys([*panel.choices, *panel.shown_parts])),
        also=(request,),
    )
    panel.dataset.input(
        partial(on_dataset, panel), [panel.opened, panel.dataset, panel.truth], panel.choices, **PRIVATE
    )


def _bind_evaluation(panel: EvaluatePanel, result: Part, request: Part) -> None:
    """Start an evaluation, and show its progress and then its results at the ticks that follow.

    The results answer the request with which it was started, even if the fields have changed since.
    """

    def evaluate(request_question: str, session: Session, *values: Any) -> Updates:
        session.awaited[REQUEST_PART] = request_question
        return on_evaluate(panel, session, *values)

    def tick(result_question: str, session: Session, run_id: str | None) -> Updates:
        updates = on_tick(panel, session, run_id)
        if panel.results not in updates:
            return updates
        answered = {
            result.answered: result_question,
            request.answered: session.awaited.get(REQUEST_PART, ""),
        }
        return {**answered, **updates}

    once = {**PRIVATE, "trigger_mode": "once"}
    inputs = [panel.session, panel.opened]
    request.binds(panel.evaluate.click, evaluate, [*inputs, *panel.request], panel.shown_parts, how=once)
    ticked = result.binds(panel.timer.tick, tick, inputs, [request.answered, *panel.shown_parts], how=once)
    request.settles(ticked)


def _bind_choices(panel: EvaluatePanel, result: Part, request: Part) -> None:
    """Show another of the run's evaluations, or the shown one by other groups."""
    result.answers(
        panel.shown.input,
        partial(on_show, panel),
        [panel.session, panel.opened, panel.shown, *panel.request],
        panel.shown_parts,
        also=(request,),
    )
    groups = create_part("evaluation-groups", ("#evaluation-groups",))
    groups.asks(panel.group.input)
    groups.answers(
        panel.group.input, partial(on_group, panel), [panel.opened, panel.shown, panel.group], [panel.groups]
    )


def on_opened(panel: EvaluatePanel, session: Session, run_id: str | None) -> Updates:
    """Show the data set and the newest evaluation of the run that was opened."""
    if run_id is None:
        return {panel.session: session}
    config = read_config(_folder(panel, run_id))
    updates = on_tick(panel, session, run_id)
    if config is None:
        return updates
    path, truth = str(config.value("dataset_path")), config.settings.annotation_type
    choices = on_dataset(panel, run_id, path, truth)
    note = choices.pop(panel.note) or updates.get(panel.note, "")
    dataset = gr.update(choices=list_datasets(panel.data_root), value=path)
    return {**updates, **choices, panel.dataset: dataset, panel.note: note}


def on_dataset(panel: EvaluatePanel, run_id: str | None, dataset_path: str | None, truth: str) -> Updates:
    """Offer the splits and readers of the chosen data set."""
    config = read_config(_folder(panel, run_id)) if run_id is not None else None
    dataset_path = _typed_path(dataset_path)
    if run_id is None or config is None or not dataset_path:
        return {panel.split: gr.update(choices=[], value=None), panel.note: ""}
    try:
        readers = read_annotations(Path(dataset_path), annotation_format(config, dataset_path)).reader_names
        truth = truth if truth in readers else "mean"
        splits = splits_to_measure(_folder(panel, run_id), config, dataset_path, truth)
    except UserError as error:
        return {
            panel.split: gr.update(choices=[], value=None),
            panel.note: escape(say("data_failed", reason=error)),
        }
    return {
        panel.split: gr.update(choices=splits, value=default_split(splits)),
        panel.truth: gr.update(choices=[(say("mean_choice"), "mean"), *readers], value=truth),
        panel.note: "",
    }


def default_split(splits: list[str]) -> str:
    """Return a test split if there is one, else the validation images, else the first split."""
    tests = [split for split in splits if split.startswith("test")]
    return next(iter(tests), "valid" if "valid" in splits else splits[0])


def on_evaluate(
    panel: EvaluatePanel,
    session: Session,
    run_id: str,
    dataset_path: str | None,
    split: str | None,
    truth: str,
    exclude: str,
    leave_out: bool,
) -> Updates:
    """Start the process that evaluates."""
    folder = _folder(panel, run_id)
    config = read_config(folder)
    try:
        path = _typed_path(dataset_path)
        if config is None or not path or not split:
            raise UserError(say("evaluate_no_split"))
        request = Request(
            dataset_path=path,
            dataset_format=annotation_format(config, path),
            split=split,
            annotation_type=truth,
            exclude=_typed_path(exclude),
            leave_out_leaked=leave_out,
        )
        start_evaluation(folder, request)
    except UserError as error:
        gr.Warning(str(error))
        return {panel.session: session, panel.note: escape(say("data_failed", reason=error))}
    gr.Info(say("evaluate_started", split=split))
    return on_tick(panel, session, run_id)


def on_tick(panel: EvaluatePanel, session: Session, run_id: str | None) -> Updates:
    """Show the progress of the evaluation, and the newest one when it is done."""
    updates: Updates = {panel.session: session}
    if run_id is None:
        return updates
    folder = _folder(panel, run_id)
    progress = read_progress(folder)
    is_training = progress is not None and bool(live_runs(panel.runs_dir))
    if session.has_changed("evaluation_progress", (run_id, progress, is_training)):
        updates[panel.note] = progress_html(progress, is_training=is_training)
        is_idle = progress is None or bool(progress.failure)
        updates[panel.evaluate] = gr.update(interactive=is_idle)
    evaluations = folder.evaluations()
    if session.has_changed("evaluations", (run_id, evaluations)):
        names = [name for name, _ in evaluations]
        newest = names[0] if names else None
        updates[panel.shown] = gr.update(choices=names, value=newest, visible=len(names) > 1)
        updates |= _draw(panel, folder, newest)
    return updates


def on_show(panel: EvaluatePanel, session: Session, run_id: str, name: str, *request: Any) -> Updates:
    """Show another of the run's evaluations."""
    return {panel.session: session, **_draw(panel, _folder(panel, run_id), name)}


def on_group(panel: EvaluatePanel, run_id: str, name: str, column: str) -> Updates:
    """Show the errors grouped by another column."""
    record = _read(_folder(panel, run_id), name)
    if record is None or column not in record["by_group"]:
        return {panel.groups: gr.skip()}
    return {panel.groups: plot_groups(record, column, say)}


def _draw(panel: EvaluatePanel, folder: RunFolder, name: str | None) -> Updates:
    """Draw everything that shows an evaluation; hide it if there is none."""
    if name is None:
        return {panel.results: gr.update(visible=False)}
    record = _read(folder, name)
    if record is None:
        return {panel.results: gr.update(visible=False), panel.note: say("evaluation_other_version")}
    columns = list(record["by_group"])
    spearman = record["confidence"]["spearman"]
    title = say("evaluation_confidence", spearman="-" if spearman is None else f"{spearman:.2f}")
    first_groups = plot_groups(record, columns[0], say) if columns else None
    return {
        panel.results: gr.update(visible=True),
        panel.numbers: headline(folder, name, record),
        panel.cumulative: plot_cumulative(record, say),
        panel.confidence: gr.update(value=plot_confidence(record, say), label=title),
        panel.landmarks: plot_landmarks(record, say),
        panel.group: gr.update(
            choices=columns, value=columns[0] if columns else None, visible=len(columns) > 1
        ),
        panel.groups: gr.update(value=first_groups, visible=bool(columns)),
        panel.table: landmark_errors(record),
        **show_figures(panel.worst, worst_figures(record)),
    }


def _read(folder: RunFolder, name: str) -> dict[str, Any] | None:
    """Return the record; None if it is missing (the name comes from the browser) or of another version."""
    if name not in {evaluation for evaluation, _ in folder.evaluations()}:
        return None
    record = folder.read_evaluation(name)
    return record if is_readable(record) else None


def _folder(panel: EvaluatePanel, run_id: str) -> RunFolder:
    return RunFolder(panel.runs_dir / run_id)


def _typed_path(text: str | None) -> str:
    """Return the typed path with its ~ expanded; an unknown ~name stays."""
    return os.path.expanduser((text or "").strip())  # noqa: PTH111
