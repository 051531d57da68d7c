"""The queue: ids of the runs that wait to be started, in order.

`runs/queue.json`, changed under `runs/queue.lock`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import filelock

from backend.errors import UserError
from backend.files import read_json, write_json_atomic
from backend.run.folder import RunFolder

FORMAT_VERSION = 1
LOCK_WAIT_S = 15.0  # nobody holds it for longer than it takes to start a process

_QUEUE = "queue.json"


@contextlib.contextmanager
def queue_lock(runs_dir: Path) -> Iterator[None]:
    """Hold the lock under which processes change the queue or start a run on a free device.

    Raises UserError if another process holds it for too long. One thread must not take it twice.
    """
    try:
        with filelock.FileLock(runs_dir / "queue.lock", timeout=LOCK_WAIT_S):
            yield
    except filelock.Timeout:
        raise UserError("another dashboard is starting a run", cure="wait a moment, then try again") from None


def read_queue(runs_dir: Path) -> list[str]:
    """List the ids of the waiting runs, the next one first.

    Raises UserError for a damaged file, which stays as it is.
    """
    path = runs_dir / _QUEUE
    if not path.exists():
        return []
    run_ids = (read_json(path) or {}).get("run_ids")
    if not isinstance(run_ids, list) or not all(isinstance(run_id, str) for run_id in run_ids):
        raise UserError(
            f"{path} is damaged, so nothing waiting is started",
            cure="mend it, or move it away and add its runs again: each is still in its folder",
        )
    return run_ids


@contextlib.contextmanager
def editing_queue(runs_dir: Path) -> Iterator[list[str]]:
    """Hand out the ids, to be changed in place under the lock, and write them at the end.

    Raises UserError.
    """
    with queue_lock(runs_dir):
        run_ids = read_queue(runs_dir)
        before = list(run_ids)
        yield run_ids
        if run_ids != before:
            write_json_atomic(runs_dir / _QUEUE, {"format_version": FORMAT_VERSION, "run_ids": run_ids})


def add_to_queue(folder: RunFolder) -> int:
    """Add a run that was never started to the end, unless it waits already. Returns its place, from 1."""
    if folder.was_started():
        raise UserError("this run was started before", field="run", cure="resume it, or duplicate it")
    with editing_queue(folder.path.parent) as run_ids:
        if folder.run_id not in run_ids:
            run_ids.append(folder.run_id)
        return run_ids.index(folder.run_id) + 1


def remove_from_queue(runs_dir: Path, run_id: str) -> None:
    """Remove a run, if it waits; it may have just been started."""
    with editing_queue(runs_dir) as run_ids, contextlib.suppress(ValueError):
        run_ids.remove(run_id)


def move_in_queue(runs_dir: Path, run_id: str, places: int) -> None:
    """Move a waiting run by `places`, negative toward the front, at most to an end."""
    with editing_queue(runs_dir) as run_ids:
        if run_id in run_ids:
            place = run_ids.index(run_id) + places
            run_ids.remove(run_id)
            run_ids.insert(max(0, place), run_id)


def is_queued(folder: RunFolder) -> bool:
    """Whether the run waits. False if the queue is damaged, which `read_queue` reports."""
    try:
        return folder.run_id in read_queue(folder.path.parent)
    except UserError:
        return False
