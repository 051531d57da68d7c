"""Start, ask, stop and resume the process that trains a run.

What it did is recorded in the run folder, so another dashboard can take over at any time.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import filelock

from backend.errors import UserError
from backend.files import REPOSITORY
from backend.run import state
from backend.run.folder import RequestKind, RunFolder
from backend.run.process import (
    ProcessIdentity,
    command_line,
    descendants,
    identify,
    is_same_and_alive,
    kill,
    kill_tree,
)

GRACE_S = 30.0
"""Seconds that a worker has to answer a stop request: it looks between batches, then saves."""

TERM_GRACE_S = 10.0
"""Seconds from SIGTERM to SIGKILL."""

_POLL_S = 0.05

# Our own children. A Popen that is dropped warns, and a dead child is a zombie until somebody polls it.
_children: list[subprocess.Popen[bytes]] = []
_children_lock = threading.Lock()
# The threads that insist, by the process that was asked to stop (None: there is none on this host).
_insisting: dict[ProcessIdentity | None, threading.Thread] = {}
_insisting_lock = threading.Lock()


def launch(
    folder: RunFolder,
    *,
    overrides: Mapping[str, Any] | None = None,
    argv_prefix: Sequence[str] | None = None,
) -> None:
    """Start the worker of a run that has not ended; returns once the process is recorded in the folder.

    The command is `argv_prefix` (None: `python -m backend.worker`) and the folder; `overrides` as in `resume`. Raises
    UserError when the run is live, is being started, or has an outcome already.
    """
    with deciding_launch(folder):
        if folder.read_outcome() is not None:
            raise UserError("this run has ended", field="run", cure="resume it or start a new one")
        _start(folder, argv_prefix, overrides)


def resume(
    folder: RunFolder, overrides: Mapping[str, Any] | None = None, *, argv_prefix: Sequence[str] | None = None
) -> None:
    """Go on in the same folder: set the outcome aside, empty the requests, start the worker.

    `overrides` are settings that change from here on; those of earlier resumes stay where they are not among them.
    Raises UserError when the run is live, is being started, or has no `last.pt` to go on from.
    """
    with deciding_launch(folder):
        require_checkpoint(folder)
        folder.set_outcome_aside()
        _start(folder, argv_prefix, overrides)


def require_checkpoint(folder: RunFolder) -> None:
    """Raises UserError where the run has no `last.pt` to go on from."""
    if not folder.checkpoint_path("last").is_file():
        raise UserError(
            f"{folder.path} has no checkpoints/last.pt to go on from", field="resume", cure="start a new run"
        )


def record_launch(
    folder: RunFolder, pid: int | None = None, overrides: Mapping[str, Any] | None = None
) -> None:
    """Record a process that trains without being started here (None: this one, as `train.py` does), and the settings
    that change from here on, as in `resume`.

    Sets an earlier outcome aside and empties the requests. Raises UserError when another process trains
    the run already.
    """
    process = identify(os.getpid() if pid is None else pid)
    if process is None:
        raise ProcessLookupError(f"no process has the pid {pid}")
    with deciding_launch(folder, allowed_pid=process.pid):
        folder.set_outcome_aside()
        folder.clear_requests()
        folder.write_launched(process, command_line(process), **_carried_over(folder, overrides))


def request_finish(folder: RunFolder) -> bool:
    """Ask to end training now, keep the best and evaluate it. False where nobody is there to ask."""
    return _request(folder, "finish")


def request_save(folder: RunFolder) -> bool:
    """Ask to write `last.pt` now and go on. False where nobody is there to ask."""
    return _request(folder, "save_now")


def request_preview(folder: RunFolder) -> bool:
    """Ask to show the fixed images as they are predicted now, and go on. False where nobody is there to ask."""
    return _request(folder, "preview_now")


def request_stop(folder: RunFolder) -> bool:
    """Ask to stop, without ever insisting (see `stop`). False where nobody is there to ask."""
    return _request(folder, "stop")


def stop(
    folder: RunFolder, *, grace_s: float = GRACE_S, term_grace_s: float = TERM_GRACE_S
) -> threading.Thread:
    """Ask to stop, then insist: SIGTERM after `grace_s` seconds, SIGKILL `term_grace_s` seconds later.

    Returns at once; the thread that insists is a daemon and ends when the process is gone. Asked again meanwhile, it is
    the same thread: a second signal would make a worker leave that is about to save. A worker on another host is only
    asked.
    """
    process = state.local_process(folder)
    request_stop(folder)
    with _insisting_lock:
        for ended in [known for known, thread in _insisting.items() if not thread.is_alive()]:
            del _insisting[ended]
        insisting = _insisting.get(process)
        if insisting is None:
            insisting = _insisting[process] = threading.Thread(
                target=_escalate,
                args=(process, grace_s, term_grace_s),
                name=f"stop {folder.run_id}",
                daemon=True,
            )
            insisting.start()
    return insisting


def reap() -> None:
    """Let go of our children that ended, so that they do not stay zombies. Called at every launch and
    stop; a dashboard may call it whenever it likes."""
    with _children_lock:
        _children[:] = [child for child in _children if child.poll() is None]


@contextlib.contextmanager
def deciding_launch(folder: RunFolder, allowed_pid: int | None = None) -> Iterator[None]:
    """Hold the launch lock and know that no process trains here, so that a double click starts one.

    The process `allowed_pid` may be recorded here already, if it does not train yet. Raises UserError where one trains,
    or is being started.
    """
    reap()
    try:
        with folder.launch_lock():
            process = state.local_process(folder)
            is_allowed = process is not None and process.pid == allowed_pid
            if folder.is_locked() if is_allowed else state.is_live(folder):
                cure = "stop it first, and wait until its process has ended"
                raise UserError("this run is running already", field="run", cure=cure)
            yield
    except filelock.Timeout:
        raise UserError("this run is being started already", field="run", cure="wait a moment") from None


def _carried_over(folder: RunFolder, overrides: Mapping[str, Any] | None) -> dict[str, Any]:
    """What was changed at any resume, for `launched.json`."""
    kept = {**((folder.read_launched() or {}).get("overrides") or {}), **(overrides or {})}
    return {"overrides": kept} if kept else {}


def _start(
    folder: RunFolder, argv_prefix: Sequence[str] | None, overrides: Mapping[str, Any] | None = None
) -> None:
    # A stop that was meant for an earlier process must not end this one.
    folder.clear_requests()
    prefix = [sys.executable, "-m", "backend.worker"] if argv_prefix is None else list(argv_prefix)
    argv = [*prefix, str(folder.path.resolve())]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}
    with folder.log_path.open("ab") as log:
        child = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=REPOSITORY,
            env=environment,
            **_detachment(),
        )
    try:
        # Windows knows nothing of a process that ended at once; any time says so.
        process = identify(child.pid) or ProcessIdentity(child.pid, time.time())
        folder.write_launched(process, argv, **_carried_over(folder, overrides))
    except BaseException:  # a full disk: a process that nobody knows of must not keep the GPU
        child.kill()
        raise
    finally:
        with _children_lock:  # not before: one that was let go of cannot be identified
            _children.append(child)


def _detachment() -> dict[str, Any]:
    """The arguments of Popen that let the child outlive us and give it a process group of its own."""
    if sys.platform == "win32":
        # A console of its own, hidden: the child of a console that closes would be closed with it.
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
    return {"start_new_session": True}


def _request(folder: RunFolder, kind: RequestKind) -> bool:
    # Where nobody is there to ask nothing is written: a stop that waits says why a run without an outcome ended.
    if not state.is_live(folder):
        return False
    folder.request(kind)
    return True


def _escalate(process: ProcessIdentity | None, grace_s: float, term_grace_s: float) -> None:
    """Insist on the end of this one process; that of a later launch is not touched. None: there is none to signal."""
    if process is None:
        return
    family: list[ProcessIdentity] = []
    for wait_s, force in ((grace_s, False), (term_grace_s, True)):
        if _is_gone_within(process, wait_s):
            break
        family = descendants(process) or family
        _signal(process, force=force)
    _is_gone_within(process, term_grace_s)
    for child in family:  # the data workers that it left behind
        kill(child)
    reap()


def _is_gone_within(process: ProcessIdentity, wait_s: float) -> bool:
    deadline = time.monotonic() + wait_s
    while is_same_and_alive(process):
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_S)
    return True


def _signal(process: ProcessIdentity, *, force: bool) -> None:
    """End the process and what belongs to it: politely, or by force."""
    if not is_same_and_alive(process):  # looked at again right before the signal: a pid may have been reused
        return
    # It went by itself meanwhile; and SystemError is what Windows' os.kill makes of a failed CTRL_BREAK.
    with contextlib.suppress(OSError, SystemError):
        if sys.platform == "win32":
            _signal_windows(process, force=force)
        else:
            _signal_posix(process, force=force)


if sys.platform == "win32":

    def _signal_windows(process: ProcessIdentity, *, force: bool) -> None:
        if force:
            kill_tree(process)
        else:
            # Reaches only a process that shares our console (a `train.py` in a terminal beside us).
            os.kill(process.pid, signal.CTRL_BREAK_EVENT)

else:

    def _signal_posix(process: ProcessIdentity, *, force: bool) -> None:
        if not force:
            # it alone: without its data workers it could not stop in good order
            os.kill(process.pid, signal.SIGTERM)
        elif os.getpgid(process.pid) == process.pid:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            kill_tree(process)  # a `train.py` inside somebody's script: the group is the script's
