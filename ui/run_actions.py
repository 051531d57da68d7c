"""The actions on a run that are possible now, and performing them, for the Monitor and the Runs tab."""

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
    """The actions on a run that its state and what is in its folder allow now."""

    finish: bool
    save_now: bool
    preview_now: bool
    cancel: bool
    resume: bool
    resume_with_patience: bool  # its patience has ended it, so it only continues with a larger one
    queue: bool
    unqueue: bool
    bundle: bool
    delete: bool


NOTHING = Possible(*[False] * len(fields(Possible)))
"""What is possible without a run."""


def what_is_possible(
    state: RunState,
    *,
    is_live: bool,
    has_last: bool,
    has_any: bool,
    ended_by_patience: bool = False,
    requests: Collection[str] = (),
) -> Possible:
    """Return the actions that are possible with a run.

    `is_live`: its process exists, if only for a moment more; `has_any`: there is a checkpoint to hand on;
    `requests`: those that wait for an answer.
    """
    is_busy = is_live or state in LIVE_STATES
    is_resumable = has_last and not is_busy and state is not RunState.COMPLETED
    is_running = state is RunState.RUNNING
    return Possible(
        finish=is_running,
        save_now=is_running and "save_now" not in requests,
        preview_now=is_running and "preview_now" not in requests,
        cancel=state in LIVE_STATES,
        resume=is_resumable and not ended_by_patience,
        resume_with_patience=is_resumable and ended_by_patience,
        queue=state is RunState.CREATED,
        unqueue=state is RunState.QUEUED,
        bundle=has_any,
        delete=not is_busy,
    )


def possible_now(folder: RunFolder, state: RunState) -> Possible:
    """Return the actions that are possible with the run in a folder, whose state is known."""
    has_checkpoint = {kind: folder.checkpoint_path(kind).is_file() for kind in CHECKPOINTS}
    return what_is_possible(
        state,
        is_live=is_live(folder),
        has_last=has_checkpoint["last"],
        has_any=any(has_checkpoint.values()),
        ended_by_patience=ended_by_patience(folder),
        requests=[kind for kind in ANSWERED_AT_ONCE if folder.requested(kind)],
    )


def perform(action: Action, runs_dir: Path, shown_id: str | None, watched_id: str | None) -> str:
    """Perform the action of a Monitor button on the run named beside it. Returns a message about it.

    Raises UserError if the page watches another run by now, or if that is no longer possible with this one: a
    page that was left open must stop nothing but what it shows.
    """
    if not shown_id or shown_id != watched_id:
        raise UserError(say("page_moved_on", shown=shown_id or "-", watched=watched_id or "-"))
    folder = RunFolder(runs_dir / shown_id)
    state = derive_state(folder)
    if not getattr(possible_now(folder, state), action):
        raise UserError(say("not_possible_now", run_id=shown_id, state=describe_state(state)))
    return _ACTIONS[action](folder)


def resume_run(folder: RunFolder, changes: Mapping[str, Any] | None = None) -> str:
    """Continue a training in its folder, with changes (see `backend.overrides`). Returns a message.

    Raises UserError.
    """
    try:
        start_run.resume_run(folder, changes or {}, query_machine(), supervisor.resume)
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
