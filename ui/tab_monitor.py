"""The Monitor tab: one run as its folder tells it. Everything shown is read there; nothing is remembered here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from backend.run import supervisor
from backend.run.folder import RunFolder, list_runs
from backend.run.state import LIVE_STATES, RunState, derive_state
from ui.devices import device_lines
from ui.monitor_view import (
    MAX_PREVIEWS,
    event_list,
    landmark_table,
    log_text,
    preview_choices,
    preview_figures,
    run_card,
)
from ui.plots import plot_errors, plot_losses
from ui.runs import best_row, default_run, read_rows
from ui.session import Session
from ui.text import say

POLL_S = 2.0
Updates = dict[Any, Any]


@dataclass(frozen=True)
class MonitorTab:
    """The components of the tab and the folder of runs that it watches."""

    runs_dir: Path
    session: gr.State
    run: gr.Dropdown
    card: gr.HTML
    devices: gr.HTML
    finish: gr.Button
    cancel: gr.Button
    confirm: gr.Row
    cancel_yes: gr.Button
    cancel_no: gr.Button
    log_axis: gr.Checkbox
    losses: gr.Plot
    errors: gr.Plot
    heatmap: gr.Dropdown
    previews_note: gr.Markdown
    previews: tuple[gr.Plot, ...]
    landmarks: gr.HTML
    events: gr.HTML
    log: gr.Textbox
    timer: gr.Timer

    @property
    def inputs(self) -> list[Any]:
        """What a redraw depends on."""
        return [self.session, self.log_axis, self.heatmap]

    @property
    def outputs(self) -> list[Any]:
        """What a redraw may change."""
        return [
            self.session, self.run, self.card, self.devices, self.finish, self.cancel, self.losses, self.errors,
            self.heatmap, self.previews_note, *self.previews, self.landmarks, self.events, self.log,
        ]  # fmt: skip


def create_monitor_tab(session: gr.State, runs_dir: Path) -> MonitorTab:
    """Lay out the tab and bind its handlers."""
    run = gr.Dropdown([], label=say("run"), allow_custom_value=True, elem_id="watched-run")
    card = gr.HTML(elem_id="run-card")
    parts = {"run": run, "card": card, **_place_buttons()}
    parts["devices"] = gr.HTML(elem_id="devices")
    parts["log_axis"] = gr.Checkbox(label=say("log_axis"), value=False, elem_id="log-axis")
    with gr.Row():
        parts["losses"] = gr.Plot(label=say("losses"), elem_id="losses", min_width=320)
        parts["errors"] = gr.Plot(label=say("errors"), elem_id="errors", min_width=320)
    parts |= _place_previews()
    with gr.Accordion(say("landmark_table"), open=True):
        parts["landmarks"] = gr.HTML(elem_id="landmarks")
    with gr.Accordion(say("events"), open=False):
        parts["events"] = gr.HTML(elem_id="events")
    with gr.Accordion(say("log"), open=False):
        parts["log"] = gr.Textbox(lines=14, max_lines=14, show_label=False, label=say("log"), elem_id="log")
    tab = MonitorTab(runs_dir=runs_dir, session=session, timer=gr.Timer(POLL_S), **parts)
    _bind(tab)
    return tab


def _place_buttons() -> dict[str, Any]:
    with gr.Row():
        finish = gr.Button(say("finish"), interactive=False, elem_id="finish")
        cancel = gr.Button(say("cancel"), variant="stop", interactive=False, elem_id="cancel")
    with gr.Row(visible=False) as confirm:
        cancel_yes = gr.Button(say("cancel_really"), variant="stop", elem_id="cancel-yes")
        cancel_no = gr.Button(say("cancel_no"), elem_id="cancel-no")
    return {
        "finish": finish,
        "cancel": cancel,
        "confirm": confirm,
        "cancel_yes": cancel_yes,
        "cancel_no": cancel_no,
    }


def _place_previews() -> dict[str, Any]:
    heatmap = gr.Dropdown(
        [(say("heatmap_off"), "off"), (say("heatmap_all"), "all")],
        value="all",
        allow_custom_value=True,  # a restarted server knows only the first choices
        label=say("heatmap"),
        elem_id="heatmap",
    )
    note = gr.Markdown(say("previews_none"), elem_id="previews-note")
    with gr.Row():
        previews = tuple(
            gr.Plot(visible=False, elem_id=f"preview-{number}", min_width=270)
            for number in range(MAX_PREVIEWS)
        )
    return {"heatmap": heatmap, "previews_note": note, "previews": previews}


def _bind(tab: MonitorTab) -> None:
    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    redraw = partial(on_tick, tab)
    tab.timer.tick(redraw, tab.inputs, tab.outputs, **quiet, trigger_mode="once")
    gr.on([tab.log_axis.change, tab.heatmap.input], redraw, tab.inputs, tab.outputs, **quiet)
    tab.run.input(partial(on_choose, tab), [tab.run, *tab.inputs], tab.outputs, **quiet)
    tab.finish.click(partial(on_finish, tab), [tab.session], [tab.finish, tab.cancel], **quiet)
    show_confirm = [tab.confirm]
    tab.cancel.click(lambda: gr.update(visible=True), None, show_confirm, **quiet)
    tab.cancel_no.click(lambda: gr.update(visible=False), None, show_confirm, **quiet)
    tab.cancel_yes.click(
        partial(on_cancel, tab), [tab.session], [tab.confirm, tab.finish, tab.cancel], **quiet
    )


def on_open(tab: MonitorTab, session: Session, *choices: Any) -> Updates:
    """A browser opened the page: draw everything, whatever was drawn elsewhere before."""
    session.forget()
    return on_tick(tab, session, *choices)


def on_choose(tab: MonitorTab, run_id: str, session: Session, *choices: Any) -> Updates:
    """Watch another run; words that name none are forgotten."""
    if run_id in {folder.run_id for folder in list_runs(tab.runs_dir)}:
        session.run_id = run_id
    session.forget()
    return on_tick(tab, session, *choices)


def on_tick(tab: MonitorTab, session: Session, log_axis: bool, heatmap: str) -> Updates:
    """Redraw what changed in the run's folder since the last time; send nothing else."""
    folder = _watched(tab, session)
    updates: Updates = {tab.session: session, **_draw_chooser(tab, session, folder)}
    devices = device_lines()
    if session.is_news("devices", devices):
        updates[tab.devices] = devices
    if folder is None:
        if session.is_news("card", None):
            updates[tab.card] = say("no_runs")
        return updates
    state = derive_state(folder)
    rows = read_rows(folder)
    updates |= _draw_state(tab, session, folder, state, rows)
    updates |= _draw_curves(tab, session, folder, rows, log_axis)
    updates |= _draw_previews(tab, session, folder, heatmap)
    updates |= _draw_words(tab, session, folder)
    return updates


def on_finish(tab: MonitorTab, session: Session) -> Updates:
    """End training now; the worker validates and keeps the best."""
    if session.run_id is not None and supervisor.request_finish(RunFolder(tab.runs_dir / session.run_id)):
        gr.Info(say("finish_asked"))
    session.drawn.pop("buttons", None)
    return {tab.finish: gr.update(interactive=False), tab.cancel: gr.skip()}


def on_cancel(tab: MonitorTab, session: Session) -> Updates:
    """Stop: asked first, then harder, until the process is gone."""
    if session.run_id is not None:
        supervisor.stop(RunFolder(tab.runs_dir / session.run_id))
        gr.Info(say("cancel_asked"))
    session.drawn.pop("buttons", None)
    return {
        tab.confirm: gr.update(visible=False),
        tab.finish: gr.update(interactive=False),
        tab.cancel: gr.skip(),
    }


def _watched(tab: MonitorTab, session: Session) -> RunFolder | None:
    """The run of this page; where it chose none (or it was deleted), the one that lives or the newest."""
    if session.run_id is not None:
        chosen = RunFolder(tab.runs_dir / session.run_id)
        if chosen.config_path.is_file():
            return chosen
    folder = default_run(tab.runs_dir)
    found = folder.run_id if folder is not None else None
    if found != session.run_id:
        session.run_id = found
        session.forget()
    return folder


def _draw_chooser(tab: MonitorTab, session: Session, folder: RunFolder | None) -> Updates:
    names = [run.run_id for run in list_runs(tab.runs_dir)]
    if not session.is_news("runs", (names, session.run_id)):
        return {}
    return {tab.run: gr.update(choices=names, value=folder.run_id if folder else None)}


def _draw_state(
    tab: MonitorTab, session: Session, folder: RunFolder, state: RunState, rows: Sequence[dict[str, Any]]
) -> Updates:
    status = folder.read_status() or {}
    outcome = folder.read_outcome()
    card = run_card(folder.run_id, state, status, rows, best_row(list(rows)), outcome)
    updates: Updates = {}
    if session.is_news("card", card):
        updates[tab.card] = card
    if session.is_news("buttons", state):
        updates[tab.finish] = gr.update(interactive=state is RunState.RUNNING)
        updates[tab.cancel] = gr.update(interactive=state in LIVE_STATES)
    return updates


def _draw_curves(
    tab: MonitorTab, session: Session, folder: RunFolder, rows: Sequence[dict[str, Any]], log_axis: bool
) -> Updates:
    events = folder.read_events()[0]
    drawn = (folder.run_id, len(rows), rows[-1]["time"] if rows else 0, len(events), log_axis)
    if not session.is_news("curves", drawn):
        return {}
    return {
        tab.losses: plot_losses(rows, log_axis=log_axis, events=events),
        tab.errors: plot_errors(rows, log_axis=log_axis, events=events),
        tab.landmarks: landmark_table(rows),
    }


def _draw_previews(tab: MonitorTab, session: Session, folder: RunFolder, heatmap: str) -> Updates:
    updates: Updates = {}
    names = preview_choices(folder)
    if session.is_news("heatmap", (folder.run_id, names)):
        known = [value for _, value in names]
        heatmap = heatmap if heatmap in known else "all"
        updates[tab.heatmap] = gr.update(choices=names, value=heatmap)
    keys = folder.preview_keys()
    if not session.is_news("previews", (folder.run_id, keys[-1:], heatmap)):
        return updates
    figures = preview_figures(folder, keys[-1], heatmap) if keys else []
    updates[tab.previews_note] = (
        say("previews", phase=say(f"phase_{keys[-1][0]}"), epoch=keys[-1][1])
        if keys
        else say("previews_none")
    )
    for number, plot in enumerate(tab.previews):
        if number < len(figures):
            title, figure = figures[number]
            updates[plot] = gr.update(value=figure, label=title, visible=True)
        else:
            updates[plot] = gr.update(visible=False)
    return updates


def _draw_words(tab: MonitorTab, session: Session, folder: RunFolder) -> Updates:
    updates: Updates = {}
    for part, component, words in (
        ("log", tab.log, log_text(folder)),
        ("events", tab.events, event_list(folder)),
    ):
        if session.is_news(part, words):
            updates[component] = words
    return updates
