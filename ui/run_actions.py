"""What can be done with a run now, and doing it: for the buttons of the Monitor and of the Runs tab. No components."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from backend import start_run
from backend.errors import UserError
from backend.overrides import ended_by_patience
from backend.placement import DeviceBusyError
from backend.run import supervisor
from backend.run.folder import CheckpointKind, RequestKind, RunFolder
from backend.run.state import LIVE_STATES, RunState, derive_state, is_live
from ui.run_rows import describe_state
from ui.text.say import say
from ui.torch_queries import query_machine

Action = Literal["finish", "save_now", "preview_now", "resume", "cancel"]

CHECKPOINTS: tuple[CheckpointKind, ...] = ("best", "last")
ANSWERED_AT_ONCE: tuple[RequestKind, ...] = ("save_now", "preview_now")


@dataclass(frozen=True)
class Possible:
    """What can be done with a run now: a function of its state and of what is in its folder."""

    finish: bool
    save_now: bool
    preview_now: bool
    cancel: bool
    resume: bool
    resume_with_patience: bool  # patience has ended it: it goes on with a larger one, and only then
    queue: bool
    unqueue: bool
    bundle: bool
    delete: bool


NOTHING = Possible(*[False] * len(fields(Possible)))
"""Where there is no run."""


def what_is_possible(
    state: RunState,
    *,
    is_live: bool,
    has_last: bool,
    has_any: bool,
    ended_by_patience: bool = False,
    asked: Collection[str] = (),
) -> Possible:
    """`is_live`: its process is there, if only for a moment more; `has_any`: there is a checkpoint to hand on;
    `asked`: the requests that wait for an answer."""
    is_busy = is_live or state in LIVE_STATES
    has_rest = has_last and not is_busy and state is not RunState.COMPLETED  # nothing is left of that
    is_running = state is RunState.RUNNING
    return Possible(
        finish=is_running,
        save_now=is_running and "save_now" not in asked,
        preview_now=is_running and "preview_now" not in asked,
        cancel=state in LIVE_STATES,
        resume=has_rest and not ended_by_patience,
        resume_with_patience=has_rest and ended_by_patience,
        queue=state is RunState.CREATED,
        unqueue=state is RunState.QUEUED,
        bundle=has_any,
        delete=not is_busy,
    )


def possible_now(folder: RunFolder, state: RunState) -> Possible:
    """What can be done with the run in a folder, whose state is known."""
    there = [folder.checkpoint_path(kind).is_file() for kind in CHECKPOINTS]
    asked = [kind for kind in ANSWERED_AT_ONCE if folder.requested(kind)]
    return what_is_possible(
        state,
        is_live=is_live(folder),
        has_last=there[1],
        has_any=any(there),
        ended_by_patience=ended_by_patience(folder),
        asked=asked,
    )


def perform(action: Action, runs_dir: Path, shown: str | None, watched: str | None) -> str:
    """Do what a button of the Monitor says to the run named beside it. Returns what was done, in words.

    Raises UserError where the page watches another run by now, or where that cannot be done with this one any more: a
    page that was left open must stop nothing but what it shows.
    """
    if not shown or shown != watched:
        raise UserError(say("page_moved_on", shown=shown or "-", watched=watched or "-"))
    folder = RunFolder(runs_dir / shown)
    state = derive_state(folder)
    if not getattr(possible_now(folder, state), action):
        raise UserError(say("not_possible_now", run_id=shown, state=describe_state(state)))
    return _ACTIONS[action](folder)


def resume_run(folder: RunFolder, asked: Mapping[str, Any] | None = None) -> str:
    """Go on training in the same folder, with the asked changes (see `backend.overrides`). Returns what was done;
    raises UserError."""
    try:
        start_run.resume_run(folder, asked or {}, query_machine(), supervisor.resume)
    except DeviceBusyError as error:
        raise UserError(say("resume_busy", run_id=error.run_id, device=error.device)) from error
    return say("resumed", run_id=folder.run_id)


def _finish(folder: RunFolder) -> str:
    supervisor.request_finish(folder)
    return say("finish_asked")


def _save_now(folder: RunFolder) -> str:
    supervisor.request_save(folder)
    return say("save_now_asked")


def _preview_now(folder: RunFolder) -> str:
    supervisor.request_preview(folder)
    return say("preview_now_asked")


def _cancel(folder: RunFolder) -> str:
    supervisor.stop(folder)
    return say("cancel_asked")


_ACTIONS: dict[Action, Callable[[RunFolder], str]] = {
    "finish": _finish,
    "save_now": _save_now,
    "preview_now": _preview_now,
    "resume": resume_run,
    "cancel": _cancel,
}
