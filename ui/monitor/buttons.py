"""The Monitor's buttons, which act only on the run named beside them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from backend.errors import UserError
from backend.run.folder import RunFolder
from backend.run.state import derive_state
from ui.bindings import PRIVATE, Updates
from ui.run_actions import ANSWERED_AT_ONCE, NOTHING, Action, perform, possible_now
from ui.session import Session
from ui.text.say import say

ACTS_ON = '<div class="acts-on">{label} <bdi dir="ltr">${{value}}</bdi></div>'


@dataclass(frozen=True)
class RunButtons:
    """The components. `acts_on` is the run id that the browser shows and sends with each press."""

    runs_dir: Path
    session: gr.State
    acts_on: gr.HTML
    finish: gr.Button
    save_now: gr.Button
    preview_now: gr.Button
    resume: gr.Button
    cancel: gr.Button
    confirm: gr.Column
    confirm_text: gr.Markdown
    cancel_yes: gr.Button
    cancel_no: gr.Button

    @property
    def outputs(self) -> list[Any]:
        """The components that drawing the buttons changes."""
        return [
            self.session, self.acts_on, self.finish, self.save_now, self.preview_now, self.resume,
            self.cancel, self.confirm, self.confirm_text,
        ]  # fmt: skip


def create_run_buttons(session: gr.State, runs_dir: Path) -> RunButtons:
    """Lay out the buttons and bind their handlers."""
    parts: dict[str, Any] = {
        "acts_on": gr.HTML(
            "",
            visible=False,
            html_template=ACTS_ON.format(label=say("acts_on")),
            elem_id="acts-on",
            padding=False,
        )
    }
    with gr.Row():
        for name, elem_id, scale in (
            ("finish", "finish", 2),  # it has the longest label
            ("save_now", "save-now", 1),
            ("preview_now", "preview-now", 1),
            ("resume", "resume-watched", 1),
        ):
            parts[name] = gr.Button(say(name), interactive=False, elem_id=elem_id, min_width=150, scale=scale)
        parts["cancel"] = gr.Button(
            say("cancel"), variant="stop", interactive=False, elem_id="cancel", min_width=150, scale=1
        )
    with gr.Column(visible=False, elem_id="cancel-confirm") as parts["confirm"]:
        parts["confirm_text"] = gr.Markdown(elem_id="cancel-words")
        with gr.Row():
            parts["cancel_yes"] = gr.Button(say("cancel_really"), variant="stop", elem_id="cancel-yes")
            parts["cancel_no"] = gr.Button(say("cancel_no"), elem_id="cancel-no")
    buttons = RunButtons(runs_dir, session, **parts)
    _bind(buttons)
    return buttons


def _bind(buttons: RunButtons) -> None:
    """Bind the actions to their buttons; canceling asks first."""
    inputs = [buttons.session, buttons.acts_on]
    actions: tuple[tuple[gr.Button, Action], ...] = (
        (buttons.finish, "finish"),
        (buttons.save_now, "save_now"),
        (buttons.preview_now, "preview_now"),
        (buttons.resume, "resume"),
        (buttons.cancel_yes, "cancel"),
    )
    for button, action in actions:
        button.click(
            partial(on_press, buttons, action), inputs, buttons.outputs, **PRIVATE, trigger_mode="once"
        )

    confirm = [buttons.confirm, buttons.confirm_text]
    buttons.cancel.click(partial(on_ask_cancel, buttons), [buttons.acts_on], confirm, **PRIVATE)
    buttons.cancel_no.click(lambda: gr.update(visible=False), None, [buttons.confirm], **PRIVATE)


def on_press(buttons: RunButtons, action: Action, session: Session, shown_id: str) -> Updates:
    """Perform the action on the run that the browser shows, or say why not."""
    try:
        gr.Info(perform(action, buttons.runs_dir, shown_id, session.run_id))
    except UserError as error:
        gr.Warning(str(error))
    session.drawn.pop("buttons", None)
    folder = RunFolder(buttons.runs_dir / session.run_id) if session.run_id else None
    return {
        buttons.session: session,
        **draw_buttons(buttons, session, folder),
        buttons.confirm: gr.update(visible=False),
    }


def on_ask_cancel(buttons: RunButtons, shown_id: str) -> Updates:
    """Ask before canceling, with the name of the run."""
    return {
        buttons.confirm: gr.update(visible=True),
        buttons.confirm_text: say("cancel_ask", run_id=shown_id),
    }


def draw_buttons(buttons: RunButtons, session: Session, folder: RunFolder | None) -> Updates:
    """Update the buttons that changed, and hide a question about another run or one that has ended."""
    run_id = folder.run_id if folder is not None else ""
    possible = possible_now(folder, derive_state(folder)) if folder is not None else NOTHING
    requests = [kind for kind in ANSWERED_AT_ONCE if folder is not None and folder.requested(kind)]
    updates: Updates = {}
    if session.has_changed("cancel question", (run_id, possible.cancel)):
        updates[buttons.confirm] = gr.update(visible=False)
    if not session.has_changed("buttons", (run_id, possible, requests)):
        return updates
    updates |= {
        buttons.acts_on: gr.update(value=run_id, visible=bool(run_id)),
        buttons.finish: gr.update(interactive=possible.finish),
        buttons.resume: gr.update(interactive=possible.resume),
        buttons.cancel: gr.update(interactive=possible.cancel),
    }
    for kind, button in (("save_now", buttons.save_now), ("preview_now", buttons.preview_now)):
        label = say(f"{kind}_waits") if kind in requests else say(kind)
        updates[button] = gr.update(value=label, interactive=getattr(possible, kind))
    return updates
