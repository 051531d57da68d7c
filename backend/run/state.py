"""The state of a run, derived from its folder, the queue, and whether its process is alive.

Nothing is remembered or written here, so every program gets the same answer, after any restart.
"""

from __future__ import annotations

import math
import socket
import time
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from backend.files import Row
from backend.run.folder import RunFolder, list_runs
from backend.run.process import ProcessIdentity, is_same_and_alive
from backend.run.queue import is_queued

HEARTBEAT_LIMIT_S = 60.0
"""A worker on another host counts as alive if its last sign of life is younger than this."""


class RunState(StrEnum):
    """The state of a run. The values are those of `outcome.json`; the page translates them."""

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
"""The states in which a process trains."""

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
"""The states that an `outcome.json` may hold."""


class AliveTest(Protocol):
    """A function that tells whether the process of a `launched.json` is alive; see `is_alive`."""

    def __call__(self, launched: Row, now: float, heartbeat: float | None) -> bool: ...


def is_alive(launched: Row, now: float, heartbeat: float | None) -> bool:
    """Whether the process that `launched` names is alive; `now` and `heartbeat` in seconds since 1970.

    On this host: that very process exists (see `ProcessIdentity`), and is not a zombie. On another host: its
    heartbeat, or else the launch itself, is younger than `HEARTBEAT_LIMIT_S`.
    """
    if not _is_of_this_host(launched):
        return _has_fresh_sign(launched, now, heartbeat)
    process = ProcessIdentity.from_row(launched)
    alive = False if process is None else is_same_and_alive(process)
    if alive is None:  # another user's process, of which only the run's files tell anything
        return _has_fresh_sign(launched, now, heartbeat)
    return alive


def is_live(folder: RunFolder, now: float | None = None, is_alive: AliveTest = is_alive) -> bool:
    """Whether a process trains in this folder: the one in `launched.json`, or the one that holds `run.lock`.

    It may live for a moment after the outcome: until it has ended, its GPU memory is not free and the run
    cannot be launched again. The lock is checked last: while a worker starts, `launched.json` gives the
    answer, and the check does not disturb the lock that the worker is about to take.
    """
    launched = folder.read_launched()
    if launched is not None:
        heartbeat = (folder.read_status() or {}).get("heartbeat")
        is_number = isinstance(heartbeat, int | float)
        alive = is_alive(launched, time.time() if now is None else now, heartbeat if is_number else None)
        if alive and _is_launched_in(folder, launched):
            return True
    return folder.is_locked()


def local_process(folder: RunFolder) -> ProcessIdentity | None:
    """Return the process on this host that trains in this folder, to be signaled; None if there is none."""
    launched = folder.read_launched()
    # At a time without end no heartbeat is fresh: only a process that this host can look at counts.
    if launched is None or not _is_of_this_host(launched) or not is_alive(launched, math.inf, None):
        return None
    if not _is_launched_in(folder, launched):
        # Renamed while it trains: its process holds the lock in it. Where the other folder is there, this is
        # a copy; a lock that is held in it is another process's or, in a copy made of hard links, the
        # original's.
        is_renamed = not _is_run(_launched_path(launched)) and folder.is_locked()
        if not is_renamed:
            return None
    return ProcessIdentity.from_row(launched)


def live_runs(runs_dir: Path) -> list[RunFolder]:
    """List the runs in which a process trains now, newest first."""
    return [folder for folder in list_runs(runs_dir) if is_live(folder)]


def derive_state(folder: RunFolder, now: float | None = None, is_alive: AliveTest = is_alive) -> RunState:
    """Return the state of the run in `folder` at `now` (seconds since 1970; None: this moment)."""
    outcome = folder.read_outcome()
    if outcome is None and is_live(folder, now, is_alive):
        is_stopping = folder.requested("finish") or folder.requested("stop")
        return RunState.STOPPING if is_stopping else RunState.RUNNING
    # Read a second time, because the worker may have written its outcome and ended since the first look.
    if outcome is None:
        outcome = folder.read_outcome()
    if outcome is not None:
        return _state_of_outcome(outcome)
    if folder.read_launched() is not None:
        # A worker that did not answer a cancel in time, or was still starting, was killed as the user asked.
        return RunState.STOPPED if folder.requested("stop") else RunState.INTERRUPTED
    return RunState.QUEUED if is_queued(folder) else RunState.CREATED


def is_resumable(folder: RunFolder, now: float | None = None, is_alive: AliveTest = is_alive) -> bool:
    """Whether training can go on in this folder: it has a `last.pt` and no process that trains."""
    return folder.checkpoint_path("last").is_file() and not is_live(folder, now, is_alive)


def _is_of_this_host(launched: Row) -> bool:
    return bool(launched.get("host") == socket.gethostname())


def _is_launched_in(folder: RunFolder, launched: Row) -> bool:
    """Whether `launched` was written for this folder; otherwise the folder is a copy, or was renamed since.

    The file system compares them, so links, mounts and upper case make no difference. The paths of another
    host cannot be compared, so there the answer is True.
    """
    if not _is_of_this_host(launched):
        return True
    path = _launched_path(launched)
    try:
        return path is not None and folder.path.samefile(path)
    except OSError:  # that folder does not exist any more
        return False


def _launched_path(launched: Row) -> Path | None:
    """Return the folder that was launched.

    Older versions did not record it. It is then the last argument of a worker, but not of a `train.py`, whose
    folder only `run.lock` tells.
    """
    argv = launched.get("argv")
    path = launched.get("folder") or (argv[-1] if isinstance(argv, list) and argv else None)
    return Path(path) if isinstance(path, str) else None


def _is_run(path: Path | None) -> bool:
    return path is not None and RunFolder(path).config_path.is_file()


def _has_fresh_sign(launched: Row, now: float, heartbeat: float | None) -> bool:
    launch_time = launched.get("time")
    signs = [sign for sign in (heartbeat, launch_time) if isinstance(sign, int | float)]
    return bool(signs) and now - max(signs) < HEARTBEAT_LIMIT_S


def _state_of_outcome(outcome: Row) -> RunState:
    # An outcome of a later version that this one does not know is an end, but cannot be called a success.
    name = str(outcome.get("state"))
    return RunState(name) if name in FINAL_STATES else RunState.FAILED
