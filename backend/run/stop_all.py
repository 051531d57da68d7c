"""Stop every training of this computer in a folder of runs, and wait for each to save."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from backend.run import supervisor
from backend.run.folder import RunFolder
from backend.run.state import derive_state, is_resumable, live_runs, local_process

SAVE_S = 60.0
"""Seconds that a training has to save before it gets a signal: longer than for Cancel, since nobody waits."""

POLL_S = 0.1
_MARGIN_S = 5.0
log = logging.getLogger(__name__)


def longest_wait_s(save_s: float = SAVE_S) -> float:
    """Return after how many seconds `stop_all` returns at the latest."""
    return save_s + 2 * supervisor.TERM_GRACE_S + _MARGIN_S


def stop_all(runs_dir: Path, *, save_s: float = SAVE_S) -> list[RunFolder]:
    """Ask the trainings to stop, as Cancel does; return them once their processes have ended.

    One that does not obey is signaled after `save_s` seconds (see `supervisor.stop`). A training that is
    started meanwhile is stopped too. Those of other computers go on: they do not end with this one.
    """
    asked: dict[Path, RunFolder] = {}
    deadline = time.monotonic() + longest_wait_s(save_s)
    while (running := _running(runs_dir)) and time.monotonic() < deadline:
        for folder in running:
            if folder.path not in asked:
                asked[folder.path] = folder
                log.info("%s: asked to save and end", folder.run_id)
                supervisor.stop(folder, grace_s=save_s)
        time.sleep(POLL_S)
    for folder in asked.values():
        log.info("%s: %s; %s", folder.run_id, derive_state(folder), _what_is_left(folder))
    return list(asked.values())


def _running(runs_dir: Path) -> list[RunFolder]:
    return [folder for folder in live_runs(runs_dir) if local_process(folder) is not None]


def _what_is_left(folder: RunFolder) -> str:
    if is_resumable(folder):
        return "resume goes on from its checkpoint"
    return "it had not begun, so that nothing can be resumed: start it again"
