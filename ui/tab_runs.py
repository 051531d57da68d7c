"""The Runs tab: all runs, and for the chosen one its files, its settings, and the way back to training."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import pandas as pd

from backend.config import RunConfig
from backend.errors import UserError
from backend.run import supervisor
from backend.run.folder import CheckpointKind, RunFolder
from backend.run.state import RunState, derive_state, is_resumable
from ui.evaluate_panel import create_evaluate_panel
from ui.runs import file_link, free_device, read_config, read_rows, runs_table
from ui.session import Session
from ui.text import in_bytes, quote, say, say_label

POLL_S = 3.0
CHECKPOINTS: tuple[CheckpointKind, ...] = ("best", "last")
Updates = dict[Any, Any]


@dataclass(frozen=True)
class RunsTab:
    """The components of the tab and the folder of runs that it lists."""

    runs_dir: Path
    session: gr.State
    table: gr.Dataframe
    empty: gr.Markdown
    opened: gr.State  # id of the run whose details are shown
    details: gr.Column
    title: gr.Markdown
    files: gr.HTML
    resume: gr.Button
    watch: gr.Button
    settings: gr.HTML
    watched: gr.State  # id of the run that Watch or Resume has just chosen
    timer: gr.Timer

    @property
    def detail_outputs(self) -> list[Any]:
        """What opening a run changes."""
        return [self.opened, self.details, self.title, self.files, self.resume, self.settings]


def create_runs_tab(session: gr.State, runs_dir: Path, data_root: Path) -> RunsTab:
    """Lay out the tab and bind its handlers."""
    empty = gr.Markdown(say("runs_none"), elem_id="runs-empty")
    table = gr.Dataframe(
        headers=say("runs_columns").split(","),
        interactive=False,
        wrap=True,
        label=say("open_run"),
        elem_id="runs-table",
    )
    opened = gr.State()
    with gr.Column(visible=False) as details:
        title = gr.Markdown(elem_id="opened-run")
        files = gr.HTML(elem_id="files")
        with gr.Row():
            resume = gr.Button(say("resume"), interactive=False, elem_id="resume")
            watch = gr.Button(say("watch"), elem_id="watch")
        with gr.Accordion(say("settings_of"), open=False):
            settings = gr.HTML(elem_id="run-settings")
        create_evaluate_panel(session, opened, runs_dir, data_root)
    tab = RunsTab(
        runs_dir, session, table, empty, opened, details, title, files, resume, watch, settings,
        watched=gr.State(), timer=gr.Timer(POLL_S),
    )  # fmt: skip
    _bind(tab)
    return tab


def _bind(tab: RunsTab) -> None:
    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    tab.timer.tick(
        partial(on_tick, tab),
        [tab.session, tab.opened],
        [tab.session, tab.table, tab.empty, *tab.detail_outputs],
        **quiet,
        trigger_mode="once",
    )

    # a partial would hide from Gradio the annotation by which it hands over the event
    def select(session: Session, event: gr.SelectData) -> Updates:
        return on_select(tab, session, str(event.row_value[0]))

    tab.table.select(select, [tab.session], [tab.session, *tab.detail_outputs], **quiet)
    choose = [tab.session, tab.watched]
    tab.watch.click(partial(on_watch, tab), [tab.session, tab.opened], choose, **quiet)
    tab.resume.click(partial(on_resume, tab), [tab.session, tab.opened], choose, **quiet, trigger_mode="once")


def on_open(tab: RunsTab, session: Session) -> Updates:
    """A browser opened the page."""
    return _draw_table(tab, session)


def on_tick(tab: RunsTab, session: Session, opened: str | None) -> Updates:
    """Redraw the table and the details where they changed."""
    updates = {tab.session: session, **_draw_table(tab, session)}
    if opened is not None:
        updates |= _draw_details(tab, session, opened)
    return updates


def on_select(tab: RunsTab, session: Session, run_id: str) -> Updates:
    """Open the run whose row was clicked."""
    session.drawn.pop("details", None)
    return {tab.session: session, **_draw_details(tab, session, run_id)}


def on_watch(tab: RunsTab, session: Session, opened: str) -> Updates:
    """Show the opened run on the Monitor tab."""
    session.run_id = opened
    session.forget()
    return {tab.session: session, tab.watched: opened}


def on_resume(tab: RunsTab, session: Session, opened: str) -> Updates:
    """Go on training in the same folder with the same settings."""
    folder = RunFolder(tab.runs_dir / opened)
    try:
        device = RunConfig.from_dict(folder.read_config()).value("device")
        with free_device(tab.runs_dir, device):
            supervisor.resume(folder)
    except UserError as error:
        gr.Warning(str(error))
        return {tab.session: session}
    gr.Info(say("resumed", run_id=opened))
    return on_watch(tab, session, opened)


def _draw_table(tab: RunsTab, session: Session) -> Updates:
    rows = runs_table(tab.runs_dir)
    if not session.is_news("runs_table", rows):
        return {}
    frame = pd.DataFrame([row.cells for row in rows], columns=say("runs_columns").split(","))
    return {tab.table: gr.update(value=frame, visible=bool(rows)), tab.empty: gr.update(visible=not rows)}


def _draw_details(tab: RunsTab, session: Session, run_id: str) -> Updates:
    folder = RunFolder(tab.runs_dir / run_id)
    if not folder.config_path.is_file():
        return {tab.opened: None, tab.details: gr.update(visible=False)}
    resumable = (
        is_resumable(folder) and derive_state(folder) is not RunState.COMPLETED
    )  # nothing is left of that
    there = [folder.checkpoint_path(kind).is_file() for kind in CHECKPOINTS]
    if not session.is_news("details", (run_id, folder.metrics_stamp(), there, resumable)):
        return {}
    files = _file_links(folder)
    return {
        tab.opened: run_id,
        tab.details: gr.update(visible=True),
        tab.title: f"### {quote(run_id)}",
        tab.files: files,
        tab.resume: gr.update(interactive=resumable),
        tab.settings: _settings_table(read_config(folder)),
    }


def _file_links(folder: RunFolder) -> str:
    """Links that stream the files from where they lie; a checkpoint of 400 MB is not copied first."""
    links = []
    for kind in CHECKPOINTS:
        path = folder.checkpoint_path(kind)
        if path.is_file():
            links.append(file_link(path, say(f"file_{kind}", size=in_bytes(path.stat().st_size))))
    rows = read_rows(folder)
    if rows:
        table = pd.DataFrame(rows).to_csv(index=False)
        source = "data:text/csv;base64," + base64.b64encode(table.encode()).decode("ascii")
        links.append(f'<a download="metrics.csv" href="{source}">{escape(say("file_metrics"))}</a>')
    links.append(file_link(folder.config_path, say("file_config")))
    note = "" if any("best" in link for link in links) else f" <small>{escape(say('no_files'))}</small>"
    return f'<div class="files"><strong>{escape(say("files"))}</strong><br>{"".join(links)}{note}</div>'


def _settings_table(config: RunConfig | None) -> str:
    if config is None:
        return ""
    preset = ["preset"] if "preset" in config.chosen else []  # no setting, but what set some of them
    lines = [
        _settings_line(name, config.value(name), config.chosen[name].reason if name in config.chosen else "")
        for name in (*preset, *config.settings.model_dump())
    ]
    head = "".join(f"<th>{escape(say(word))}</th>" for word in ("setting", "value", "note"))
    return f'<div class="plain-table"><table><tr>{head}</tr>{"".join(lines)}</table></div>'


def _settings_line(name: str, value: Any, reason: str) -> str:
    shown = (
        " x ".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else value
    )
    note = say("chosen_by", reason=reason) if reason else ""
    label = say_label(name)
    return f"<tr><td>{escape(label)}</td><td><bdi>{escape(str(shown))}</bdi></td><td>{escape(note)}</td></tr>"
