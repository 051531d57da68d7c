"""Compare two runs on the same images, from their evaluation records; a missing evaluation is made on
request."""

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
from ui.runs.evaluation_process import Request, is_evaluating, progress_of, start_evaluation
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
    measured: gr.Dropdown  # name of the evaluation that both have, or are to have
    evaluate: gr.Button
    note: gr.HTML
    result: gr.HTML
    answers: Part
    timer: gr.Timer

    @property
    def choices(self) -> list[Any]:
        """The two runs and the evaluation."""
        return [self.first, self.second, self.measured]

    @property
    def inputs(self) -> list[Any]:
        """What a redraw depends on."""
        return [self.session, *self.choices]

    @property
    def outputs(self) -> list[Any]:
        """What a redraw may change."""
        return [self.session, self.measured, self.evaluate, self.note, self.result]


def create_paired_panel(session: gr.State, runs_dir: Path) -> PairedPanel:
    """Lay out the panel and bind its handlers."""
    with gr.Row():
        first, second, measured = (
            # a restarted server knows only the first choices
            gr.Dropdown([], label=say(f"paired_{name}"), allow_custom_value=True, elem_id=f"paired-{name}")
            for name in ("first", "second", "on")
        )
    note = gr.HTML(f"<p>{say('paired_empty')}</p>", elem_id="paired-note", padding=False)
    evaluate = gr.Button(say("paired_evaluate"), visible=False, elem_id="paired-evaluate")
    result = gr.HTML(elem_id="paired-result")
    answers = create_part("paired", ("#paired-result", "#paired-note"), [first, second, measured])
    panel = PairedPanel(
        runs_dir, session, first, second, measured, evaluate, note, result, answers, timer=gr.Timer(POLL_S)
    )
    panel.answers.asks([choice.change for choice in (first, second, measured)])
    answers.polls(panel.timer.tick, partial(draw_paired, panel), panel.inputs, panel.outputs, "paired")
    bind_redraw(panel, [first.input, second.input, measured.input])
    evaluate.click(partial(on_evaluate, panel), panel.inputs, panel.outputs, **PRIVATE, trigger_mode="once")
    return panel


def bind_redraw(panel: PairedPanel, events: Any) -> None:
    """Redraw the comparison; where another evaluation replaces the one asked for, show that one."""

    def redraw(
        question: str, session: Session, first: str | None, second: str | None, measured: str | None
    ) -> Updates:
        updates = draw_paired(panel, session, first, second, measured)
        chosen = updates.get(panel.measured)
        if chosen is not None:
            question = question_of(first, second, chosen["value"])
        return {panel.answers.answered: question, **updates}

    panel.answers.binds(events, redraw, panel.inputs, panel.outputs)


def offer_pair(panel: PairedPanel, run_ids: Sequence[str]) -> Updates:
    """Offer runs to choose the pair from; the first two are chosen."""
    two = len(run_ids) >= 2
    return {
        panel.first: gr.update(choices=run_ids, value=run_ids[0] if two else None),
        panel.second: gr.update(choices=run_ids, value=run_ids[1] if two else None),
        panel.measured: gr.update(choices=[], value=None),
    }


def draw_paired(
    panel: PairedPanel, session: Session, first: str | None, second: str | None, measured: str | None
) -> Updates:
    """Redraw what changed: the comparison, or what it still needs."""
    updates: Updates = {panel.session: session}
    pair = _pair(panel, first, second)
    progress = [progress_of(folder) for folder in pair]
    made = [folder.evaluations() for folder in pair]
    if not session.has_changed("paired", (first, second, measured, made, progress)):
        return updates
    if not pair:
        return updates | _said(panel, say("paired_empty"))
    try:
        names = _names(pair)
    except UserError as error:
        return updates | _said(panel, say("data_failed", reason=error))
    name = measured if measured in names else names[0]
    updates[panel.measured] = gr.update(choices=names, value=name)
    session.has_changed(
        "paired", (first, second, name, made, progress)
    )  # what is drawn now is drawn for this name
    return updates | _draw_pair(panel, pair, name)


def on_evaluate(
    panel: PairedPanel, session: Session, first: str | None, second: str | None, measured: str | None
) -> Updates:
    """Start the missing evaluations, each in its own process."""
    pair = _pair(panel, first, second)
    try:
        for folder in pair:
            if measured and _read(folder, measured) is None and not is_evaluating(folder):
                start_evaluation(folder, _request(pair, measured))
    except UserError as error:
        gr.Warning(str(error))
    session.drawn.pop("paired", None)
    return draw_paired(panel, session, first, second, measured)


def _draw_pair(panel: PairedPanel, pair: Sequence[RunFolder], name: str) -> Updates:
    records = [_read(folder, name) for folder in pair]
    first, second = records
    if first is not None and second is not None:
        try:
            found = compare_records(first, second)
        except UserError as error:
            return _said(panel, say("data_failed", reason=error))
        return {
            panel.result: paired_html(pair[0].run_id, pair[1].run_id, name, found),
            panel.note: "",
            panel.evaluate: gr.update(visible=False),
        }
    missing = [folder for folder, record in zip(pair, records, strict=True) if record is None]
    unready = [folder for folder in missing if not folder.checkpoint_path("best").is_file()]
    if unready:
        return _said(panel, say("paired_no_best", runs=_ids(unready)))
    is_training = bool(live_runs(panel.runs_dir))
    going = "".join(
        f"<p>{escape(folder.run_id)}</p>{progress_html(progress, is_training=is_training)}"
        for folder in missing
        if (progress := progress_of(folder)) is not None
    )
    words = going or f"<p>{escape(say('paired_missing', runs=_ids(missing), name=name))}</p>"
    can_start = not any(is_evaluating(folder) for folder in missing)
    return {
        panel.result: "",
        panel.note: words,
        panel.evaluate: gr.update(visible=True, interactive=can_start),
    }


def _said(panel: PairedPanel, words: str) -> Updates:
    return {panel.result: "", panel.note: f"<p>{escape(words)}</p>", panel.evaluate: gr.update(visible=False)}


def _pair(panel: PairedPanel, first: str | None, second: str | None) -> list[RunFolder]:
    """Two different existing runs, or nothing."""
    known = {folder.run_id: folder for folder in list_runs(panel.runs_dir)}  # names come from the browser
    folders = [known[run_id] for run_id in (first, second) if run_id in known]
    return folders if len(folders) == 2 and first != second else []


def _names(pair: Sequence[RunFolder]) -> list[str]:
    """Evaluations to compare by: those that both runs have, then those of one, else what the first run's data
    offers.

    Raises UserError where there is none and the data cannot be read.
    """
    made = [[name for name, _ in folder.evaluations()] for folder in pair]
    both = [name for name in made[0] if name in made[1]]
    one = [name for name in (*made[0], *made[1]) if name not in both]
    return [*both, *one] or [_name_of(_own_request(pair[0]))]


def _request(pair: Sequence[RunFolder], name: str) -> Request:
    """How the evaluation of that name was made for either run, else how the first run's own would be made."""
    for folder in pair:
        record = _read(folder, name)
        config = read_config(folder)
        if record is not None and config is not None:
            about, truth = record["about"], record["readers"]["truth"]
            path, leaked = about["dataset_path"], about.get("leaked")
            leave_out = leaked is not None and leaked["left_out"]
            return Request(
                path, annotation_format(config, path), about["split"], truth, leave_out_leaked=leave_out
            )
    return _own_request(pair[0])


def _own_request(folder: RunFolder) -> Request:
    """The run's own data set, on a test split where it has one. Raises UserError."""
    config = read_run_config(folder)
    path, settings = str(config.value("dataset_path")), config.settings
    split = default_split(splits_to_measure(folder, config, path, settings.annotation_type))
    leave_out = split != TRAIN  # all of it is in the training data
    return Request(path, settings.dataset_format, split, settings.annotation_type, leave_out_leaked=leave_out)


def _name_of(request: Request) -> str:
    return evaluation_name(Path(request.dataset_path).name, request.split)


def _read(folder: RunFolder, name: str) -> Record | None:
    """The record; None where there is none, or one of another version."""
    if name not in {known for known, _ in folder.evaluations()}:
        return None
    record = folder.read_evaluation(name)
    return record if is_readable(record) else None


def _ids(folders: Sequence[RunFolder]) -> str:
    return ", ".join(folder.run_id for folder in folders)
