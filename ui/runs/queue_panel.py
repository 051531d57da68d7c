"""The queue of waiting runs: what is next, why it waits, and buttons to change the order."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from backend.device.machine_query import known_machine
from backend.errors import UserError
from backend.placement import busy_run, candidates
from backend.run.folder import RunFolder
from backend.run.queue import move_in_queue, read_queue, remove_from_queue
from ui.bindings import PRIVATE, Updates
from ui.session import Session
from ui.text.say import say

POLL_S = 3.0


@dataclass(frozen=True)
class QueuePanel:
    """The components of the panel and the folder of runs."""

    runs_dir: Path
    session: gr.State
    box: gr.Accordion
    note: gr.Markdown
    waiting: gr.Radio
    buttons: gr.Row
    up: gr.Button
    down: gr.Button
    remove: gr.Button
    timer: gr.Timer

    @property
    def outputs(self) -> list[Any]:
        """The components that a change of the queue updates."""
        return [self.session, self.box, self.note, self.waiting, self.buttons]


def create_queue_panel(session: gr.State, runs_dir: Path) -> QueuePanel:
    """Lay out the panel and bind its handlers."""
    with gr.Accordion(say("queue_title", num=0), open=True, elem_id="queue-panel") as box:
        note = gr.Markdown(say("queue_empty"), elem_id="queue-note")
        waiting = gr.Radio([], label=say("queue_waiting"), visible=False, elem_id="queue-waiting")
        with gr.Row(visible=False) as buttons:
            up = gr.Button(say("queue_up"), elem_id="queue-up", min_width=120)
            down = gr.Button(say("queue_down"), elem_id="queue-down", min_width=120)
            remove = gr.Button(say("queue_remove"), elem_id="queue-remove", min_width=120)
    panel = QueuePanel(
        runs_dir=runs_dir,
        session=session,
        box=box,
        note=note,
        waiting=waiting,
        buttons=buttons,
        up=up,
        down=down,
        remove=remove,
        timer=gr.Timer(POLL_S),
    )
    _bind(panel)
    return panel


def _bind(panel: QueuePanel) -> None:
    inputs = [panel.session, panel.waiting]
    panel.timer.tick(partial(on_tick, panel), inputs, panel.outputs, **PRIVATE, trigger_mode="once")
    panel.up.click(partial(on_move, panel, -1), inputs, panel.outputs, **PRIVATE)
    panel.down.click(partial(on_move, panel, 1), inputs, panel.outputs, **PRIVATE)
    panel.remove.click(partial(on_remove, panel), inputs, panel.outputs, **PRIVATE)


def on_tick(panel: QueuePanel, session: Session, chosen: str | None) -> Updates:
    """Redraw what has changed in the queue; a run that no longer waits is no longer chosen."""
    try:
        run_ids, failure = read_queue(panel.runs_dir), ""
    except UserError as error:
        run_ids, failure = [], str(error)
    devices = [candidates(RunFolder(panel.runs_dir / run_id), known_machine()) for run_id in run_ids]
    note = say("data_failed", reason=failure) if failure else _explain_wait(panel.runs_dir, devices)
    choices = [
        (say("queue_place", place=place, run_id=run_id, device=_name_devices(names)), run_id)
        for place, (run_id, names) in enumerate(zip(run_ids, devices, strict=True), start=1)
    ]
    updates: Updates = {panel.session: session}
    if session.has_changed("queue_note", note):
        updates[panel.note] = note
    if session.has_changed("queue", choices):
        updates[panel.box] = gr.update(label=say("queue_title", num=len(choices)))
        updates[panel.waiting] = gr.update(
            choices=choices, value=chosen if chosen in run_ids else None, visible=bool(choices)
        )
        updates[panel.buttons] = gr.update(visible=bool(choices))
    return updates


def on_move(panel: QueuePanel, places: int, session: Session, run_id: str | None) -> Updates:
    """Start the chosen run earlier (negative) or later."""
    if run_id is None:
        gr.Info(say("queue_choose"))
        return {panel.session: session}
    try:
        move_in_queue(panel.runs_dir, run_id, places)
    except UserError as error:
        gr.Warning(str(error))
    return on_tick(panel, session, run_id)


def on_remove(panel: QueuePanel, session: Session, run_id: str | None) -> Updates:
    """Remove the chosen run from the queue; its folder stays."""
    if run_id is None:
        gr.Info(say("queue_choose"))
        return {panel.session: session}
    try:
        remove_from_queue(panel.runs_dir, run_id)
    except UserError as error:
        gr.Warning(str(error))
    return on_tick(panel, session, run_id)


def _name_devices(devices: tuple[str, ...]) -> str:
    """Name the devices that a run may use."""
    return " / ".join(devices) or "?"


def _explain_wait(runs_dir: Path, devices: list[tuple[str, ...]]) -> str:
    """Say which run is training on the device, or devices, that the next run needs."""
    if not devices:
        return say("queue_empty")
    training = [busy_run(runs_dir, device) for device in devices[0]]
    first = training[0] if training else None
    if first is None or None in training:  # one of the devices is free
        return say("queue_next_starts")
    return say("queue_waits_for", device=_name_devices(devices[0]), run_id=first.run_id)
