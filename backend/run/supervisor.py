"""Start, ask, stop and resume the process that trains a run.

Owns processes and signals. Remembers nothing that matters: what it did stands in the run folder, so that
another dashboard can go on. Must not know what a worker does, and never touches a GPU.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import filelock
import psutil

from backend.errors import UserError
from backend.run import state
from backend.run.files import Row
from backend.run.folder import RunFolder

GRACE_S = 30.0
"""Seconds that a worker has to answer a stop request: it looks between batches, then saves."""

TERM_GRACE_S = 10.0
"""Seconds from SIGTERM to SIGKILL."""

_REPOSITORY = Path(__file__).resolve().parents[2]
_POLL_S = 0.05

# Our own children. A Popen that is dropped warns, and a dead child is a zombie until somebody polls it.
_children: list[subprocess.Popen[bytes]] = []
_children_lock = threading.Lock()
_insisting: dict[tuple[Any, Any], threading.Thread] = {}  # who was asked to stop, by process
_insisting_lock = threading.Lock()


def launch(folder: RunFolder, *, argv_prefix: Sequence[str] | None = None) -> None:
    """Start the worker of a run that has not ended; returns once the process is recorded in the folder.

    The command is `argv_prefix` (None: `python -m backend.worker`) and the folder. Raises UserError when
    the run is live, is being started, or has an outcome already.
    """
    with deciding_launch(folder):
        if folder.read_outcome() is not None:
            raise UserError("this run has ended", field="run", cure="resume it or start a new one")
        _start(folder, argv_prefix)


def resume(folder: RunFolder, *, argv_prefix: Sequence[str] | None = None) -> None:
    """Go on in the same folder: set the outcome aside, empty the requests, start the worker.

    Raises UserError when the run is live, is being started, or has no `last.pt` to go on from.
    """
    with deciding_launch(folder):
        if not folder.checkpoint_path("last").is_file():
            raise UserError(
                "this run has no checkpoints/last.pt to go on from", field="resume", cure="start a new run"
            )
        folder.set_outcome_aside()
        _start(folder, argv_prefix)


def record_launch(folder: RunFolder, pid: int | None = None) -> None:
    """Record a process that trains without being started here (None: this one, as `train.py` does).

    Sets an earlier outcome aside and empties the requests. Raises UserError when another process trains
    the run already.
    """
    pid = os.getpid() if pid is None else pid
    with deciding_launch(folder, allowed_pid=pid):
        folder.set_outcome_aside()
        folder.clear_requests()
        process = psutil.Process(pid)
        folder.write_launched(pid, process.create_time(), process.cmdline())


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
    launched = folder.read_launched() or {}
    request_stop(folder)
    key = (launched.get("pid"), launched.get("create_time"))
    with _insisting_lock:
        for ended in [known for known, thread in _insisting.items() if not thread.is_alive()]:
            del _insisting[ended]
        insisting = _insisting.get(key)
        if insisting is None:
            insisting = _insisting[key] = threading.Thread(
                target=_escalate,
                args=(launched, grace_s, term_grace_s),
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
    """Hold the launch lock and know that no other process trains, so that a double click starts one.

    Raises UserError where one trains, or is being started.
    """
    reap()
    try:
        with folder.launch_lock():
            launched = folder.read_launched() or {}
            if launched.get("pid") != allowed_pid and state.is_live(folder):
                raise UserError("this run is running already", field="run", cure="stop it first")
            yield
    except filelock.Timeout:
        raise UserError("this run is being started already", field="run", cure="wait a moment") from None


def _start(folder: RunFolder, argv_prefix: Sequence[str] | None) -> None:
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
            cwd=_REPOSITORY,
            env=environment,
            **_detachment(),
        )
    with _children_lock:
        _children.append(child)
    try:
        folder.write_launched(child.pid, _create_time(child.pid), argv)
    except BaseException:  # a full disk: a process that nobody knows of must not keep the GPU
        child.kill()
        raise


def _detachment() -> dict[str, Any]:
    """The arguments of Popen that let the child outlive us and give it a process group of its own."""
    if sys.platform == "win32":
        # A console of its own, hidden: the child of a console that closes would be closed with it.
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
    return {"start_new_session": True}


def _create_time(pid: int) -> float:
    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:  # it ended at once; any time says so
        return time.time()


def _request(folder: RunFolder, kind: Any) -> bool:
    folder.request(kind)
    return state.is_live(folder)


def _escalate(launched: Row, grace_s: float, term_grace_s: float) -> None:
    """Insist on the end of the one process in `launched`; a process of a later launch is not touched."""
    family: list[psutil.Process] = []
    for wait_s, force in ((grace_s, False), (term_grace_s, True)):
        if _is_gone_within(launched, wait_s):
            break
        family = _data_workers(launched) or family
        _signal(launched, force=force)
    _is_gone_within(launched, term_grace_s)
    for child in family:  # those it left behind; psutil looks at the creation time before it kills
        with contextlib.suppress(psutil.Error):
            child.kill()
    reap()


def _data_workers(launched: Row) -> list[psutil.Process]:
    """The data workers of the process, and theirs."""
    if not _is_ours(launched):
        return []
    try:
        return psutil.Process(int(launched["pid"])).children(recursive=True)
    except psutil.Error:
        return []


def _is_gone_within(launched: Row, wait_s: float) -> bool:
    deadline = time.monotonic() + wait_s
    while _is_ours(launched):
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_S)
    return True


def _is_ours(launched: Row) -> bool:
    """Whether the process is alive, on this host, and the very one that was launched."""
    # At a time without end no heartbeat is fresh: only a pid of this host, with its creation time, counts.
    return state.is_alive(launched, float("inf"), None)


def _signal(launched: Row, *, force: bool) -> None:
    """End the process of `launched` and what belongs to it: politely, or by force."""
    if not _is_ours(launched):  # looked at again right before the signal: a pid may have been reused
        return
    pid = int(launched["pid"])
    # It went by itself meanwhile; and SystemError is what Windows' os.kill makes of a failed CTRL_BREAK.
    with contextlib.suppress(OSError, psutil.Error, SystemError):
        if sys.platform == "win32":
            _signal_windows(pid, force=force)
        else:
            _signal_posix(pid, force=force)


if sys.platform == "win32":

    def _signal_windows(pid: int, *, force: bool) -> None:
        if force:
            _kill_tree(pid)
        else:
            # Reaches only a process that shares our console (a `train.py` in a terminal beside us).
            os.kill(pid, signal.CTRL_BREAK_EVENT)

else:

    def _signal_posix(pid: int, *, force: bool) -> None:
        if not force:
            os.kill(pid, signal.SIGTERM)  # it alone: without its data workers it could not stop in good order
        elif os.getpgid(pid) == pid:
            os.killpg(pid, signal.SIGKILL)
        else:
            _kill_tree(pid)  # a `train.py` inside somebody's script: the group is the script's


def _kill_tree(pid: int) -> None:
    process = psutil.Process(pid)
    for child in (*process.children(recursive=True), process):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
