"""The state of a run, derived from its folder, the queue beside it, and one question: is its process alive?

Owns the states and the answer to that question. Nothing here is remembered or written: whoever asks,
after whatever restart, gets the same answer. Must not know how a process is started or stopped.
"""

from __future__ import annotations

import socket
import time
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import psutil

from backend.run.files import Row
from backend.run.folder import RunFolder, list_runs
from backend.run.queue import is_queued

HEARTBEAT_LIMIT_S = 60.0
"""A worker on another host counts as alive while its last sign of life is younger than this."""

_CREATE_TIME_TOLERANCE_S = 1.0


class RunState(StrEnum):
    """Where a run stands. The values are what `outcome.json` holds and what the screen translates."""

    CREATED = "created"
    QUEUED = "queued"
    RUNNING = "running"
    STOPPING = "stopping"
    INTERRUPTED = "interrupted"
    COMPLETED = "completed"
    FINISHED_EARLY = "finished_early"
    STOPPED = "stopped"
    OUT_OF_MEMORY = "out_of_memory"
    DIVERGED = "diverged"
    FAILED = "failed"


LIVE_STATES = frozenset({RunState.RUNNING, RunState.STOPPING})
"""The process trains."""

FINAL_STATES = frozenset(
    {
        RunState.COMPLETED,
        RunState.FINISHED_EARLY,
        RunState.STOPPED,
        RunState.OUT_OF_MEMORY,
        RunState.DIVERGED,
        RunState.FAILED,
    }
)
"""The worker said its last word: the states that an `outcome.json` may hold."""


class AliveTest(Protocol):
    """Answers whether the process of a `launched.json` lives; see `is_alive`."""

    def __call__(self, launched: Row, now: float, heartbeat: float | None) -> bool: ...


def is_alive(launched: Row, now: float, heartbeat: float | None) -> bool:
    """Whether the process that `launched` names still lives; `now` and `heartbeat` in seconds since 1970.

    On this host: the pid exists, was created when `launched` says (pids are reused), and is no zombie.
    On another host: its heartbeat, or else the launch itself, is younger than `HEARTBEAT_LIMIT_S`.
    """
    if launched.get("host") != socket.gethostname():
        return _has_fresh_sign(launched, now, heartbeat)
    pid, create_time = launched.get("pid"), launched.get("create_time")
    if not isinstance(pid, int) or pid <= 0 or not isinstance(create_time, int | float):
        return False
    try:
        process = psutil.Process(pid)
        is_same = abs(process.create_time() - create_time) <= _CREATE_TIME_TOLERANCE_S
        return is_same and process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:  # somebody else's process; only the files can tell whether it is the run's
        return _has_fresh_sign(launched, now, heartbeat)


def is_live(folder: RunFolder, now: float | None = None, is_alive: AliveTest = is_alive) -> bool:
    """Whether the run's process is there. It may be for a moment after the outcome: until it is gone,
    its GPU memory is not free and the run cannot be launched again."""
    launched = folder.read_launched()
    if launched is None:
        return False
    heartbeat = (folder.read_status() or {}).get("heartbeat")
    is_number = isinstance(heartbeat, int | float)
    return is_alive(launched, time.time() if now is None else now, heartbeat if is_number else None)


def live_runs(runs_dir: Path) -> list[RunFolder]:
    """Runs whose process is there now, newest first."""
    return [folder for folder in list_runs(runs_dir) if is_live(folder)]


def derive_state(folder: RunFolder, now: float | None = None, is_alive: AliveTest = is_alive) -> RunState:
    """The state of the run in `folder` at `now` (seconds since 1970; None: this moment)."""
    outcome = folder.read_outcome()
    if outcome is None and is_live(folder, now, is_alive):
        is_stopping = folder.requested("finish") or folder.requested("stop")
        return RunState.STOPPING if is_stopping else RunState.RUNNING
    # Asked again, because the worker may have written its outcome and gone since the first look.
    if outcome is None:
        outcome = folder.read_outcome()
    if outcome is not None:
        return _state_of_outcome(outcome)
    if folder.read_launched() is not None:
        # A worker that did not answer a cancel in time, or was still starting, was killed as the user asked.
        return RunState.STOPPED if folder.requested("stop") else RunState.INTERRUPTED
    return RunState.QUEUED if is_queued(folder) else RunState.CREATED


def is_resumable(folder: RunFolder, now: float | None = None, is_alive: AliveTest = is_alive) -> bool:
    """Whether training can go on in this folder: there is a `last.pt` and no process that trains."""
    return folder.checkpoint_path("last").is_file() and not is_live(folder, now, is_alive)


def _has_fresh_sign(launched: Row, now: float, heartbeat: float | None) -> bool:
    launch_time = launched.get("time")
    signs = [sign for sign in (heartbeat, launch_time) if isinstance(sign, int | float)]
    return bool(signs) and now - max(signs) < HEARTBEAT_LIMIT_S


def _state_of_outcome(outcome: Row) -> RunState:
    # An outcome of a later version that we cannot name is still an end, and no success that we can vouch for.
    name = str(outcome.get("state"))
    return RunState(name) if name in FINAL_STATES else RunState.FAILED
