"""Start the waiting runs: each as soon as no live run keeps its device busy.

Any number of dashboards may do so over one folder of runs; the queue's lock lets one at a time look and start. What
was started stands in the run's folder before it leaves the queue, so a kill in between starts nothing twice. Must not
know what a config means: whoever calls says which device a run wants.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from backend.run import supervisor
from backend.run.folder import RunFolder
from backend.run.queue import editing_queue, read_queue
from backend.run.state import live_runs

POLL_S = 3.0

DeviceOf = Callable[[RunFolder], str | None]
"""The device that a run trains on; None where its config cannot be read."""


@dataclass(frozen=True)
class Placed:
    """Where a run starts, and the settings that this changes (see `supervisor.resume`)."""

    device: str | None
    overrides: Mapping[str, Any] = field(default_factory=dict)


Place = Callable[[RunFolder, Collection[str | None]], Placed | None]
"""Where a waiting run starts beside the devices that are busy; None while there is no room for it."""


def start_waiting(
    runs_dir: Path,
    device_of: DeviceOf,
    *,
    place: Place | None = None,
    launch: Callable[..., None] = supervisor.launch,
    live_runs: Callable[[Path], list[RunFolder]] = live_runs,
) -> list[RunFolder]:
    """Start, on each free device, the first run that waits for it. Returns the runs that were started.

    `place` says where a run starts, for those that leave it open; None: each on its own device.
    A run that is gone or was started otherwise leaves the queue; one that cannot be started fails, and the next is
    tried. Raises UserError for a damaged queue.
    """
    if not read_queue(runs_dir):
        return []
    started: list[RunFolder] = []
    with editing_queue(runs_dir) as run_ids:
        busy = {device_of(folder) for folder in live_runs(runs_dir)}
        for folder in [RunFolder(runs_dir / run_id) for run_id in run_ids]:
            if _is_waiting(folder):
                placed = (place or _on_its_own(device_of))(folder, busy)
                if placed is None:
                    continue
                if _starts(folder, launch, placed):
                    started.append(folder)
                    busy.add(placed.device)
            run_ids.remove(folder.run_id)
    return started


def tend_queue(
    runs_dir: Path, device_of: DeviceOf, poll_s: float = POLL_S, *, place: Place | None = None
) -> threading.Event:
    """Look every `poll_s` seconds, in a thread that ends with the process or when the returned event is set."""
    stop = threading.Event()
    threading.Thread(
        target=_tend, args=(runs_dir, device_of, place, poll_s, stop), name="queue", daemon=True
    ).start()
    return stop


def _tend(
    runs_dir: Path, device_of: DeviceOf, place: Place | None, poll_s: float, stop: threading.Event
) -> None:
    told = ""
    look = partial(start_waiting, runs_dir, device_of)
    while not stop.wait(poll_s):
        try:
            supervisor.reap()
            for folder in look() if place is None else look(place=place):
                print(f"started {folder.run_id} from the queue", flush=True)
            told = ""
        except Exception as error:  # noqa: BLE001 (the thread's outermost edge: whatever it is, the next look may do better)
            if str(error) != told:
                told = str(error)
                print(f"queue: {told}", file=sys.stderr, flush=True)


def _is_waiting(folder: RunFolder) -> bool:
    return folder.config_path.is_file() and not folder.was_started()


def _on_its_own(device_of: DeviceOf) -> Place:
    def place(folder: RunFolder, busy: Collection[str | None]) -> Placed | None:
        device = device_of(folder)
        return None if device is not None and device in busy else Placed(device)

    return place


def _starts(folder: RunFolder, launch: Callable[..., None], placed: Placed) -> bool:
    """Launch the run; where the system refuses, that is the run's outcome."""
    try:
        launch(folder, **({"overrides": placed.overrides} if placed.overrides else {}))
    except OSError as error:
        with contextlib.suppress(OSError):  # a full disk: then the state stays `created`
            folder.write_outcome("failed", f"it could not be started from the queue: {error}")
        return False
    return True
