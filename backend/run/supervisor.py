"""Start, stop and resume the process that trains a run, and send it requests.

Everything is recorded in the run folder, so another dashboard can take over at any time.
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
"""Seconds that a worker has to obey a stop request: it looks between batches, then saves."""

TERM_GRACE_S = 10.0
"""Seconds from SIGTERM to SIGKILL."""

_POLL_S = 0.05

# Our own children. A Popen that is dropped warns, and a dead child is a zombie until it is polled.
_children: list[subprocess.Popen[bytes]] = []
_children_lock = threading.Lock()
# The threads that escalate, by the process that was asked to stop (None: there is none on this host).
_escalating: dict[ProcessIdentity | None, threading.Thread] = {}
_escalating_lock = threading.Lock()


def launch(
    folder: RunFolder,
    *,
    overrides: Mapping[str, Any] | None = None,
    argv_prefix: Sequence[str] | None = None,
) -> None:
    """Start the worker of a run that has not ended; returns once the process is recorded in the folder.

    The command is `argv_prefix` (None: `python -m backend.worker`) and the folder; `overrides` as in
    `resume`. Raises UserError if the run is live, is being started, or has an outcome already.
    """
    with deciding_launch(folder):
        if folder.read_outcome() is not None:
            raise UserError("this run has ended", field="run", cure="resume it or start a new one")
        _start(folder, argv_prefix, overrides)


def resume(
    folder: RunFolder, overrides: Mapping[str, Any] | None = None, *, argv_prefix: Sequence[str] | None = None
) -> None:
    """Go on in the same folder: archive the outcome, clear the requests, start the worker.

    `overrides` are settings that change from here on; they are added to those of earlier resumes. Raises
    UserError if the run is live, is being started, or has no `last.pt` to go on from.
    """
    with deciding_launch(folder):
        require_checkpoint(folder)
        folder.archive_outcome()
        _start(folder, argv_prefix, overrides)


def require_checkpoint(folder: RunFolder) -> None:
    """Raise UserError if the run has no `last.pt` to go on from."""
    if not folder.checkpoint_path("last").is_file():
        raise UserError(
            f"{folder.path} has no checkpoints/last.pt to go on from", field="resume", cure="start a new run"
        )


def record_launch(
    folder: RunFolder, pid: int | None = None, overrides: Mapping[str, Any] | None = None
) -> None:
    """Record a process that trains without being started by `launch` (None: this one, as `train.py` does).

    Archives an earlier outcome and clears the requests; `overrides` as in `resume`. Raises UserError if
    another process trains the run already.
    """
    process = identify(os.getpid() if pid is None else pid)
    if process is None:
        raise ProcessLookupError(f"no process has the pid {pid}")
    with deciding_launch(folder, allowed_pid=process.pid):
        folder.archive_outcome()
        folder.clear_requests()
        folder.write_launched(process, command_line(process), **_merge_overrides(folder, overrides))


def request_finish(folder: RunFolder) -> bool:
    """Ask the worker to end training now, keep the best and evaluate it. False if there is no worker."""
    return _request(folder, "finish")


def request_save(folder: RunFolder) -> bool:
    """Ask the worker to write `last.pt` now and go on. False if there is no worker."""
    return _request(folder, "save_now")


def request_preview(folder: RunFolder) -> bool:
    """Ask the worker to write a preview of the fixed images now and go on. False if there is no worker."""
    return _request(folder, "preview_now")


def request_stop(folder: RunFolder) -> bool:
    """Ask the worker to stop, without ever signaling it (see `stop`). False if there is no worker."""
    return _request(folder, "stop")


def stop(
    folder: RunFolder, *, grace_s: float = GRACE_S, term_grace_s: float = TERM_GRACE_S
) -> threading.Thread:
    """Ask the worker to stop; send SIGTERM after `grace_s` seconds, SIGKILL `term_grace_s` seconds later.

    Returns the daemon thread that escalates, at once; it ends with the process. A second call meanwhile
    returns the same thread: a second signal would end a worker that is about to save. A worker on another
    host is only asked.
    """
    process = state.local_process(folder)
    request_stop(folder)
    with _escalating_lock:
        for ended in [key for key, running in _escalating.items() if not running.is_alive()]:
            del _escalating[ended]
        thread = _escalating.get(process)
        if thread is None:
            thread = _escalating[process] = threading.Thread(
                target=_escalate,
                args=(process, grace_s, term_grace_s),
                name=f"stop {folder.run_id}",
                daemon=True,
            )
            thread.start()
    return thread


def reap() -> None:
    """Poll our children, so that those that ended do not stay zombies. May be called at any time."""
    with _children_lock:
        _children[:] = [child for child in _children if child.poll() is None]


@contextlib.contextmanager
def deciding_launch(folder: RunFolder, allowed_pid: int | None = None) -> Iterator[None]:
    """Hold the launch lock while no process trains in the folder, so that a double click starts only one.

    The process `allowed_pid` may be recorded already, if it does not train yet. Raises UserError if one
    trains, or is being started.
    """
    reap()
    try:
        with folder.launch_lock():
            process = state.local_process(folder)
            is_allowed = process is not None and process.pid == allowed_pid
            is_training = folder.is_locked() if is_allowed else state.is_live(folder)
            if is_training:
                cure = "stop it first, and wait until its process has ended"
                raise UserError("this run is running already", field="run", cure=cure)
            yield
    except filelock.Timeout:
        raise UserError("this run is being started already", field="run", cure="wait a moment") from None


def _merge_overrides(folder: RunFolder, overrides: Mapping[str, Any] | None) -> dict[str, Any]:
    """Merge `overrides` with those of earlier resumes, as values for `launched.json`."""
    earlier = (folder.read_launched() or {}).get("overrides") or {}
    merged = {**earlier, **(overrides or {})}
    return {"overrides": merged} if merged else {}


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
        # Windows cannot identify a process that ended at once; then any time will do.
        process = identify(child.pid) or ProcessIdentity(child.pid, time.time())
        folder.write_launched(process, argv, **_merge_overrides(folder, overrides))
    except BaseException:  # such as a full disk: an unrecorded process must not keep the GPU
        child.kill()
        raise
    finally:
        with _children_lock:  # not before: `reap` may poll it, and then it cannot be identified
            _children.append(child)


def _detachment() -> dict[str, Any]:
    """Return the arguments of Popen with which the child outlives us, in a process group of its own."""
    if sys.platform == "win32":
        # A hidden console of its own: a console that closes ends its processes.
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
    return {"start_new_session": True}


def _request(folder: RunFolder, kind: RequestKind) -> bool:
    # Without a worker nothing is written: a leftover stop request means that the user stopped the run.
    if not state.is_live(folder):
        return False
    folder.request(kind)
    return True


def _escalate(process: ProcessIdentity | None, grace_s: float, term_grace_s: float) -> None:
    """Signal this one process until it has ended, and never that of a later launch.

    None: there is none to signal.
    """
    if process is None:
        return
    family: list[ProcessIdentity] = []
    for wait_s, force in ((grace_s, False), (term_grace_s, True)):
        if _is_gone_within(process, wait_s):
            break
        family = descendants(process) or family
        _signal(process, force=force)
    _is_gone_within(process, term_grace_s)
    for child in family:  # data workers that it left behind
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
    """Ask the process to end, or end it and its children by force."""
    if not is_same_and_alive(process):  # checked right before the signal: its pid may have been reused
        return
    # It may have ended meanwhile; on Windows os.kill raises SystemError if CTRL_BREAK fails.
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
            # Reaches only a process that shares our console, such as a `train.py` in the same terminal.
            os.kill(process.pid, signal.CTRL_BREAK_EVENT)

else:

    def _signal_posix(process: ProcessIdentity, *, force: bool) -> None:
        if not force:
            # not its group: without its data workers it could not save before it ends
            os.kill(process.pid, signal.SIGTERM)
        elif os.getpgid(process.pid) == process.pid:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            kill_tree(process)  # a `train.py` inside a shell script: the group is the script's
