"""The details of the opened run on the Runs tab: files, actions, notes, settings."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import pandas as pd

from backend.data.annotations.csv_rows import EXCEL_MARK, guard_text
from backend.errors import UserError
from backend.overrides import CHANGEABLE
from backend.run.bundle import write_bundle
from backend.run.folder import RunFolder, list_runs
from backend.run.notes import Notes, read_notes, split_tags, write_notes
from backend.run.queue import add_to_queue, remove_from_queue
from backend.run.removal import delete_run, size_bytes
from backend.run.state import RunState, derive_state
from ui.bindings import PRIVATE, Updates, script
from ui.run_actions import CHECKPOINTS, possible_now, resume_run
from ui.run_rows import file_link, read_config, read_rows
from ui.runs.evaluation_process import is_evaluating
from ui.runs.resume_fields import ResumeFields, create_resume_fields, draw_fields, mark_mistake, typed_changes
from ui.runs.settings_view import settings_table
from ui.session import Session
from ui.text.say import in_bytes, quote, say

BUNDLE_AGE_S = 24 * 3600  # older bundles are deleted when the next one is made
PROGRESS_S = 0.3


@dataclass(frozen=True)
class RunDetails:
    """The components, and the folder of runs."""

    runs_dir: Path
    session: gr.State
    opened: gr.State  # id of the run that is shown
    column: gr.Column
    title: gr.Markdown
    files: gr.HTML
    resume: gr.Button
    watch: gr.Button
    duplicate: gr.Button
    queue: gr.Button
    bundle: gr.Button
    bundle_link: gr.HTML
    delete: gr.Button
    confirm: gr.Column
    confirm_text: gr.Markdown
    delete_yes: gr.Button
    delete_no: gr.Button
    tags: gr.Textbox
    notes: gr.Textbox
    save_notes: gr.Button
    settings: gr.HTML
    resume_fields: ResumeFields
    watched: gr.State  # id of the run that Watch or Resume has just chosen
    duplicated: gr.State  # id of the run whose settings go into the form

    @property
    def outputs(self) -> list[Any]:
        """The components that opening a run changes."""
        return [
            self.session, self.opened, self.column, self.title, self.files, self.resume, self.queue,
            self.bundle, self.bundle_link, self.delete, self.confirm, self.tags, self.notes, self.settings,
            *self.resume_fields.outputs,
        ]  # fmt: skip


def create_run_details(session: gr.State, opened: gr.State, column: gr.Column, runs_dir: Path) -> RunDetails:
    """Lay out the parts in `column` and bind their handlers."""
    parts: dict[str, Any] = {
        "title": gr.Markdown(elem_id="opened-run"),
        "files": gr.HTML(elem_id="files"),
        **_place_actions(),
        "resume_fields": create_resume_fields(),
    }
    with gr.Row(equal_height=True):
        parts["tags"] = gr.Textbox(label=say("tags"), info=say("tags_info"), elem_id="tags", min_width=220)
        parts["notes"] = gr.Textbox(
            label=say("notes"), info=say("notes_info"), lines=2, elem_id="notes", min_width=280, scale=2
        )
        parts["save_notes"] = gr.Button(say("save_notes"), scale=0, min_width=140, elem_id="save-notes")
    with gr.Accordion(say("settings_of"), open=False):
        parts["settings"] = gr.HTML(elem_id="run-settings")
    details = RunDetails(
        runs_dir=runs_dir,
        session=session,
        opened=opened,
        column=column,
        watched=gr.State(),
        duplicated=gr.State(),
        **parts,
    )
    _bind(details)
    return details


def _place_actions() -> dict[str, Any]:
    """Place the buttons, the link to the bundle and the question before a deletion."""
    parts: dict[str, Any] = {}
    with gr.Row():
        parts["resume"] = gr.Button(say("resume"), interactive=False, elem_id="resume", min_width=140)
        parts["watch"] = gr.Button(say("watch"), elem_id="watch", min_width=140)
        parts["duplicate"] = gr.Button(say("duplicate"), elem_id="duplicate", min_width=140)
        parts["queue"] = gr.Button(say("queue_add"), visible=False, elem_id="queue-opened", min_width=140)
        parts["bundle"] = gr.Button(say("bundle"), interactive=False, elem_id="bundle", min_width=140)
        parts["delete"] = gr.Button(
            say("delete"), variant="stop", interactive=False, elem_id="delete", min_width=140
        )
    parts["bundle_link"] = gr.HTML(elem_id="bundle-link", padding=False)
    with gr.Column(visible=False, elem_id="delete-confirm") as parts["confirm"]:
        parts["confirm_text"] = gr.Markdown(elem_id="delete-words")
        with gr.Row():
            parts["delete_yes"] = gr.Button(say("delete_yes"), variant="stop", elem_id="delete-yes")
            parts["delete_no"] = gr.Button(say("delete_no"), elem_id="delete-no")
    return parts


def _bind(details: RunDetails) -> None:
    """Bind the handlers: of the run's training, of what copies it, of its deletion and of its notes."""
    once: dict[str, Any] = {**PRIVATE, "trigger_mode": "once"}
    session, opened = details.session, details.opened
    watching = [session, details.watched]
    details.watch.click(partial(on_watch, details), [session, opened], watching, **PRIVATE)
    details.resume.click(
        partial(on_resume, details),
        [session, opened, *details.resume_fields.inputs],
        [*watching, *details.resume_fields.outputs],
        **once,
    )
    details.queue.click(partial(on_queue, details), [session, opened], details.outputs, **once)

    details.duplicate.click(lambda run_id: run_id, [opened], [details.duplicated], **PRIVATE)
    packed = details.bundle.click(partial(on_bundle, details), [opened], [details.bundle_link], **once)
    packed.then(None, js=script("click_when_drawn.js", "#bundle-link a"), **PRIVATE)

    details.delete.click(
        partial(on_ask_delete, details), [opened], [details.confirm, details.confirm_text], **PRIVATE
    )
    details.delete_no.click(lambda: gr.update(visible=False), None, [details.confirm], **PRIVATE)
    details.delete_yes.click(partial(on_delete, details), [session, opened], details.outputs, **once)

    notes = [opened, details.tags, details.notes]
    details.save_notes.click(partial(on_save_notes, details), notes, [details.tags], **once)


def on_open(details: RunDetails, session: Session, run_id: str) -> Updates:
    """Show another run, with its current notes."""
    session.drawn.pop("details", None)
    if run_id not in {folder.run_id for folder in list_runs(details.runs_dir)}:  # it comes from the browser
        return _closed(details, session)
    updates = draw_details(details, session, run_id)
    if details.title not in updates:
        return updates
    notes = read_notes(_folder(details, run_id))
    return {
        **updates,
        **_draw_resume_fields(details, run_id),
        details.tags: ", ".join(notes.tags),
        details.notes: notes.text,
        details.confirm: gr.update(visible=False),
        details.bundle_link: "",
    }


def draw_details(details: RunDetails, session: Session, run_id: str) -> Updates:
    """Update what changed about the opened run, but leave fields alone that somebody may be typing in."""
    folder = _folder(details, run_id)
    if not folder.config_path.is_file():
        return _closed(details, session)
    has_checkpoint = [folder.checkpoint_path(kind).is_file() for kind in CHECKPOINTS]
    possible = possible_now(folder, derive_state(folder))
    if not session.has_changed("details", (run_id, folder.metrics_stamp(), has_checkpoint, possible)):
        return {details.session: session}
    queue_label = say("queue_remove") if possible.unqueue else say("queue_add")
    return {
        details.session: session,
        details.opened: run_id,
        details.column: gr.update(visible=True),
        details.title: f"### {quote(run_id)}",
        details.files: _file_links(folder),
        details.resume: gr.update(interactive=possible.resume or possible.resume_with_patience),
        details.resume_fields.panel: gr.update(visible=possible.resume or possible.resume_with_patience),
        details.queue: gr.update(value=queue_label, visible=possible.queue or possible.unqueue),
        details.bundle: gr.update(interactive=possible.bundle),
        details.delete: gr.update(interactive=possible.delete),
        details.settings: settings_table(read_config(folder)),
    }


def _draw_resume_fields(details: RunDetails, run_id: str) -> Updates:
    folder = _folder(details, run_id)
    possible = possible_now(folder, derive_state(folder))
    return draw_fields(
        details.resume_fields,
        read_config(folder),
        is_resumable=possible.resume or possible.resume_with_patience,
        needs_patience=possible.resume_with_patience,
    )


def _closed(details: RunDetails, session: Session) -> Updates:
    return {details.session: session, details.opened: None, details.column: gr.update(visible=False)}


def on_watch(details: RunDetails, session: Session, run_id: str) -> Updates:
    """Show the opened run on the Monitor tab."""
    session.watch(run_id)
    return {details.session: session, details.watched: run_id}


def on_resume(details: RunDetails, session: Session, run_id: str, *typed: str | None) -> Updates:
    """Continue the training in the same folder, with the typed changes (in the order of CHANGEABLE)."""
    changes = typed_changes(dict(zip(CHANGEABLE, typed, strict=True)))
    try:
        gr.Info(resume_run(_folder(details, run_id), changes))
    except UserError as error:
        gr.Warning(str(error))
        return {details.session: session, **mark_mistake(details.resume_fields, error)}
    return {**on_watch(details, session, run_id), **_draw_resume_fields(details, run_id)}


def on_queue(details: RunDetails, session: Session, run_id: str) -> Updates:
    """Queue a run that was never started, or remove it from the queue."""
    folder = _folder(details, run_id)
    try:
        if derive_state(folder) is RunState.QUEUED:
            remove_from_queue(details.runs_dir, run_id)
        else:
            gr.Info(say("queued", run_id=run_id, place=add_to_queue(folder)))
    except UserError as error:
        gr.Warning(str(error))
    return draw_details(details, session, run_id)


def on_bundle(details: RunDetails, run_id: str) -> Iterator[str]:
    """Pack the run, reporting progress, and end with the link to the file."""
    folder = _folder(details, run_id)
    target = _bundle_path(details, run_id)
    reported = 0.0
    try:
        for share in write_bundle(folder, target, {"metrics.csv": _metrics_csv(folder)}):
            if time.monotonic() - reported >= PROGRESS_S:
                reported = time.monotonic()
                progress = escape(say("bundle_packing", percent=round(100 * share)))
                bar = f'<progress max="1" value="{share:.3f}" aria-label="{progress}"></progress>'
                yield f'<div class="run-card">{progress}{bar}</div>'
        size = in_bytes(target.stat().st_size)
    except OSError as error:  # a full disk, or a run that was deleted meanwhile
        yield f"<p>{escape(say('bundle_failed', reason=error))}</p>"
        return
    yield f'<div class="files">{file_link(target, say("bundle_ready", name=target.name, size=size))}</div>'


def on_ask_delete(details: RunDetails, run_id: str) -> Updates:
    """Ask before deleting, with what would be deleted."""
    size = in_bytes(size_bytes(_folder(details, run_id)))
    return {
        details.confirm: gr.update(visible=True),
        details.confirm_text: say("delete_really", run_id=run_id, size=size),
    }


def on_delete(details: RunDetails, session: Session, run_id: str) -> Updates:
    """Delete the opened run, once the question was answered with yes."""
    folder = _folder(details, run_id)
    try:
        if is_evaluating(folder):
            raise UserError(say("evaluate_running"))
        delete_run(folder)
        gr.Info(say("deleted", run_id=run_id))
    except UserError as error:
        gr.Warning(str(error))
        session.drawn.pop("details", None)
    return {**draw_details(details, session, run_id), details.confirm: gr.update(visible=False)}


def on_save_notes(details: RunDetails, run_id: str, tags: str, text: str) -> str:
    """Save tags and notes in the run's folder."""
    notes = Notes(split_tags(tags or ""), (text or "").strip())
    folder = _folder(details, run_id)
    if folder.config_path.is_file():
        write_notes(folder, notes)
        gr.Info(say("notes_saved"))
    return ", ".join(notes.tags)


def _bundle_path(details: RunDetails, run_id: str) -> Path:
    """Return a path in the cache folder that Gradio serves; old bundles there are deleted."""
    bundles = Path(details.bundle_link.GRADIO_CACHE) / "fiducial-bundles"
    bundles.mkdir(parents=True, exist_ok=True)
    for path in bundles.glob("*.zip"):
        if time.time() - path.stat().st_mtime > BUNDLE_AGE_S:
            path.unlink(missing_ok=True)
    return bundles / f"{run_id}.zip"


def _file_links(folder: RunFolder) -> str:
    """Return links that stream the files from the run's folder.

    So a checkpoint of 400 MB is not copied first.
    """
    links = []
    for kind in CHECKPOINTS:
        path = folder.checkpoint_path(kind)
        if path.is_file():
            links.append(file_link(path, say(f"file_{kind}", size=in_bytes(path.stat().st_size))))
    table = _metrics_csv(folder)
    if table:
        source = "data:text/csv;base64," + base64.b64encode(table).decode("ascii")
        links.append(f'<a download="metrics.csv" href="{source}">{escape(say("file_metrics"))}</a>')
    links.append(file_link(folder.config_path, say("file_config")))
    note = "" if any("best" in link for link in links) else f" <small>{escape(say('no_files'))}</small>"
    return f'<div class="files"><strong>{escape(say("files"))}</strong><br>{"".join(links)}{note}</div>'


def _metrics_csv(folder: RunFolder) -> bytes:
    """Return the values of all epochs, safe to open in a spreadsheet; b"" before the first."""
    table = pd.DataFrame(read_rows(folder)).rename(columns=guard_text)
    table = table.map(lambda value: guard_text(value) if isinstance(value, str) else value)
    return f"{EXCEL_MARK}{table.to_csv(index=False)}".encode() if len(table) else b""


def _folder(details: RunDetails, run_id: str) -> RunFolder:
    return RunFolder(details.runs_dir / run_id)
