"""Compare two runs on the same images, from their evaluations; a missing one is made on request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from backend.data.splits import TRAIN
from backend.errors import UserError
from backend.evaluation.paired import compare_records
from backend.evaluation.record import is_readable
from backend.overrides import read_run_config
from backend.run.folder import RunFolder, evaluation_name, list_runs
from ui.answers import Part, create_part, question_of
from ui.bindings import PRIVATE, Updates
from ui.datasets import annotation_format, splits_to_measure
from ui.run_rows import live_runs, read_config
from ui.runs.compare_view import paired_html
from ui.runs.evaluate_panel import default_split
from ui.runs.evaluation_process import Request, is_evaluating, read_progress, start_evaluation
from ui.runs.evaluation_view import progress_html
from ui.session import Session
from ui.text.say import say

POLL_S = 2.0
Record = dict[str, Any]


@dataclass(frozen=True)
class PairedPanel:
    """The components of the panel and the folder of runs."""

    runs_dir: Path
    session: gr.State
    first: gr.Dropdown
    second: gr.Dropdown
    evaluation: gr.Dropdown  # name of the evaluation that both have, or are to have
    evaluate: gr.Button
    note: gr.HTML
    result: gr.HTML
    answers: Part
    timer: gr.Timer

    @property
    def choices(self) -> list[Any]:
        """The two runs and the evaluation."""
        return [self.first, self.second, self.evaluation]

    @property
    def inputs(self) -> list[Any]:
        """The components that a redraw depends on."""
        return [self.session, *self.choices]

    @property
    def outputs(self) -> list[Any]:
        """The components that a redraw may change."""
        return [self.session, self.evaluation, self.evaluate, self.note, self.result]


def create_paired_panel(session: gr.State, runs_dir: Path) -> PairedPanel:
    """Lay out the panel and bind its handlers."""
    with gr.Row():
        first, second, evaluation = (
            # a restarted server knows only the first choices
            gr.Dropdown([], label=say(f"paired_{name}"), allow_custom_value=True, elem_id=f"paired-{name}")
            for name in ("first", "second", "on")
        )
    note = gr.HTML(f"<p>{say('paired_empty')}</p>", elem_id="paired-note", padding=False)
    evaluate = gr.Button(say("paired_evaluate"), visible=False, elem_id="paired-evaluate")
    result = gr.HTML(elem_id="paired-result")
    answers = create_part("paired", ("#paired-result", "#paired-note"), [first, second, evaluation])
    panel = PairedPanel(
        runs_dir=runs_dir,
        session=session,
        first=first,
        second=second,
        evaluation=evaluation,
        evaluate=evaluate,
        note=note,
        result=result,
        answers=answers,
        timer=gr.Timer(POLL_S),
    )
    answers.asks([choice.change for choice in panel.choices])
    answers.polls(panel.timer.tick, partial(draw_paired, panel), panel.inputs, panel.outputs, "paired")
    bind_redraw(panel, [first.input, second.input, evaluation.input])
    evaluate.click(partial(on_evaluate, panel), panel.inputs, panel.outputs, **PRIVATE, trigger_mode="once")
    return panel


def bind_redraw(panel: PairedPanel, events: Any) -> None:
    """Redraw the comparison on these events.

    If the chosen evaluation does not exist, another one takes its place, also in the question that is
    answered.
    """

    def redraw(
        question: str, session: Session, first: str | None, second: str | None, evaluation: str | None
    ) -> Updates:
        updates = draw_paired(panel, session, first, second, evaluation)
        replaced = updates.get(panel.evaluation)
        if replaced is not None:
            question = question_of(first, second, replaced["value"])
        return {panel.answers.answered: question, **updates}

    panel.answers.binds(events, redraw, panel.inputs, panel.outputs)


def offer_pair(panel: PairedPanel, run_ids: Sequence[str]) -> Updates:
    """Offer runs to choose the pair from; the first two are chosen."""
    first, second = run_ids[:2] if len(run_ids) >= 2 else (None, None)
    return {
        panel.first: gr.update(choices=run_ids, value=first),
        panel.second: gr.update(choices=run_ids, value=second),
        panel.evaluation: gr.update(choices=[], value=None),
    }


def draw_paired(
    panel: PairedPanel, session: Session, first: str | None, second: str | None, evaluation: str | None
) -> Updates:
    """Redraw what changed: the comparison, or what it still needs."""
    updates: Updates = {panel.session: session}
    pair = _pair(panel, first, second)
    progress = [read_progress(folder) for folder in pair]
    evaluations = [folder.evaluations() for folder in pair]
    if not session.has_changed("paired", (first, second, evaluation, evaluations, progress)):
        return updates
    if not pair:
        return updates | _show_note(panel, say("paired_empty"))
    try:
        names = _names(pair)
    except UserError as error:
        return updates | _show_note(panel, say("data_failed", reason=error))
    name = evaluation if evaluation in names else names[0]
    updates[panel.evaluation] = gr.update(choices=names, value=name)
    # what is drawn now is drawn for this name
    session.has_changed("paired", (first, second, name, evaluations, progress))
    return updates | _draw_pair(panel, pair, name)


def on_evaluate(
    panel: PairedPanel, session: Session, first: str | None, second: str | None, evaluation: str | None
) -> Updates:
    """Start the missing evaluations, each in its own process."""
    pair = _pair(panel, first, second)
    try:
        for folder in pair:
            if evaluation and _read(folder, evaluation) is None and not is_evaluating(folder):
                start_evaluation(folder, _request(pair, evaluation))
    except UserError as error:
        gr.Warning(str(error))
    session.drawn.pop("paired", None)
    return draw_paired(panel, session, first, second, evaluation)


def _draw_pair(panel: PairedPanel, pair: Sequence[RunFolder], name: str) -> Updates:
    """Draw the comparison by the evaluation of this name, or say what is missing for it."""
    records = [_read(folder, name) for folder in pair]
    first, second = records
    if first is not None and second is not None:
        try:
            paired = compare_records(first, second)
        except UserError as error:
            return _show_note(panel, say("data_failed", reason=error))
        return {
            panel.result: paired_html(pair[0].run_id, pair[1].run_id, name, paired),
            panel.note: "",
            panel.evaluate: gr.update(visible=False),
        }

    missing = [folder for folder, record in zip(pair, records, strict=True) if record is None]
    unready = [folder for folder in missing if not folder.checkpoint_path("best").is_file()]
    if unready:
        return _show_note(panel, say("paired_no_best", runs=_ids(unready)))
    is_training = bool(live_runs(panel.runs_dir))
    progress_notes = "".join(
        f"<p>{escape(folder.run_id)}</p>{progress_html(progress, is_training=is_training)}"
        for folder in missing
        if (progress := read_progress(folder)) is not None
    )
    note = progress_notes or f"<p>{escape(say('paired_missing', runs=_ids(missing), name=name))}</p>"
    can_start = not any(is_evaluating(folder) for folder in missing)
    return {
        panel.result: "",
        panel.note: note,
        panel.evaluate: gr.update(visible=True, interactive=can_start),
    }


def _show_note(panel: PairedPanel, text: str) -> Updates:
    return {panel.result: "", panel.note: f"<p>{escape(text)}</p>", panel.evaluate: gr.update(visible=False)}


def _pair(panel: PairedPanel, first: str | None, second: str | None) -> list[RunFolder]:
    """Return two different existing runs, or nothing."""
    runs = {folder.run_id: folder for folder in list_runs(panel.runs_dir)}  # names come from the browser
    folders = [runs[run_id] for run_id in (first, second) if run_id in runs]
    return folders if len(folders) == 2 and first != second else []


def _names(pair: Sequence[RunFolder]) -> list[str]:
    """Return the names of evaluations to compare by: those that both runs have, then those of one of them.

    If there are none, that is the evaluation that the first run's data set offers. Raises UserError if that
    cannot be read.
    """
    first, second = ([name for name, _ in folder.evaluations()] for folder in pair)
    shared = [name for name in first if name in second]
    names = [*shared, *(name for name in (*first, *second) if name not in shared)]
    if names:
        return names
    request = _own_request(pair[0])
    return [evaluation_name(Path(request.dataset_path).name, request.split)]


def _request(pair: Sequence[RunFolder], name: str) -> Request:
    """Return the request of either run's evaluation of this name, else the first run's own request."""
    for folder in pair:
        record = _read(folder, name)
        config = read_config(folder)
        if record is not None and config is not None:
            about, truth = record["about"], record["readers"]["truth"]
            path, leaked = about["dataset_path"], about.get("leaked")
            leave_out = leaked is not None and leaked["left_out"]
            return Request(
                dataset_path=path,
                dataset_format=annotation_format(config, path),
                split=about["split"],
                annotation_type=truth,
                leave_out_leaked=leave_out,
            )
    return _own_request(pair[0])


def _own_request(folder: RunFolder) -> Request:
    """Return a request for the run's own data set, on a test split if it has one. Raises UserError."""
    config = read_run_config(folder)
    path, settings = str(config.value("dataset_path")), config.settings
    split = default_split(splits_to_measure(folder, config, path, settings.annotation_type))
    leave_out = split != TRAIN  # all of it is in the training data
    return Request(
        dataset_path=path,
        dataset_format=settings.dataset_format,
        split=split,
        annotation_type=settings.annotation_type,
        leave_out_leaked=leave_out,
    )


def _read(folder: RunFolder, name: str) -> Record | None:
    """Return the record; None if it is missing or of another version."""
    if name not in {evaluation for evaluation, _ in folder.evaluations()}:
        return None
    record = folder.read_evaluation(name)
    return record if is_readable(record) else None


def _ids(folders: Sequence[RunFolder]) -> str:
    return ", ".join(folder.run_id for folder in folders)
