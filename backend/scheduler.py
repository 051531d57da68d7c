"""Start the waiting runs: each as soon as no live run keeps its device busy.

Any number of dashboards may do so over one folder of runs; the queue's lock lets one at a time look and
start. A start is recorded in the run's folder before the run leaves the queue, so that after a kill in
between no run is started twice.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from backend.device.gpu import read_gpus
from backend.device.machine import Machine
from backend.device.machine_query import query_machine
from backend.placement import Placed, busy_devices, place
from backend.run import supervisor
from backend.run.folder import RunFolder
from backend.run.queue import editing_queue, read_queue

POLL_S = 3.0
LAUNCH_S = 5.0  # longer than a process takes to start; the answer of torch before it is not waited for
log = logging.getLogger(__name__)


def start_waiting(
    runs_dir: Path,
    *,
    query_machine: Callable[[], Machine] = query_machine,
    launch: Callable[..., None] = supervisor.launch,
    is_ending: Callable[[], bool] = lambda: False,
) -> list[RunFolder]:
    """Start, on each free device, the first run that waits for it. Return the runs that were started.

    None is started once `is_ending`; those that wait stay in the queue. A run that is gone or was started
    otherwise leaves the queue; one that cannot be started fails, and the next is tried. Raises UserError for
    a damaged queue.
    """
    if not read_queue(runs_dir):
        return []
    machine, readings = query_machine(), read_gpus()  # before the lock, since the first answer takes seconds
    started: list[RunFolder] = []
    with editing_queue(runs_dir) as run_ids:
        busy: set[str | None] = {*busy_devices(runs_dir)}
        for folder in [RunFolder(runs_dir / run_id) for run_id in run_ids]:
            if is_ending():
                break
            if _is_waiting(folder):
                placed = place(folder, busy, machine, readings)
                if placed is None:
                    continue
                if _try_launch(folder, launch, placed):
                    started.append(folder)
                    busy.add(placed.device)
            run_ids.remove(folder.run_id)
    return started


@dataclass(frozen=True)
class Scheduler:
    """A thread that starts waiting runs until it is ended."""

    thread: threading.Thread
    ending: threading.Event

    def end(self) -> None:
        """Start nothing from now on; returns once a start that is under way is done."""
        self.ending.set()
        self.thread.join(LAUNCH_S)


def start_scheduler(runs_dir: Path, poll_s: float = POLL_S) -> Scheduler:
    """Start waiting runs every `poll_s` seconds, in a thread of its own."""
    ending = threading.Event()
    thread = threading.Thread(target=_run, args=(runs_dir, poll_s, ending), name="scheduler", daemon=True)
    thread.start()
    return Scheduler(thread, ending)


def _run(runs_dir: Path, poll_s: float, ending: threading.Event) -> None:
    reported = ""
    while not ending.wait(poll_s):
        try:
            supervisor.reap()
            for folder in start_waiting(runs_dir, is_ending=ending.is_set):
                log.info("started %s from the queue", folder.run_id)
            reported = ""
        except Exception as error:  # noqa: BLE001 (the thread's outermost edge: the next look may succeed)
            if str(error) != reported:
                reported = str(error)
                log.error("queue: %s", reported)


def _is_waiting(folder: RunFolder) -> bool:
    return folder.config_path.is_file() and not folder.was_started()


def _try_launch(folder: RunFolder, launch: Callable[..., None], placed: Placed) -> bool:
    """Launch the run. Return whether that succeeded; if the system refuses, that is the run's outcome."""
    try:
        launch(folder, **({"overrides": placed.overrides} if placed.overrides else {}))
    except OSError as error:
        with contextlib.suppress(OSError):  # a full disk: then the state stays `created`
            folder.write_outcome("failed", f"it could not be started from the queue: {error}")
        return False
    return True
