"""What the page asks of all runs: which live, which keeps a device busy, and a row for each. No components."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from backend.config import RunConfig
from backend.errors import UserError
from backend.run.folder import RunFolder, list_runs, merge_metrics
from backend.run.state import RunState, derive_state, is_live
from ui.text import in_distance, say

_starting = threading.Lock()  # two browsers that press Start at once start one run


@dataclass(frozen=True)
class RunRow:
    """One line of the runs table."""

    run_id: str
    cells: tuple[str, ...]


def live_runs(runs_dir: Path) -> list[RunFolder]:
    """Runs whose process is there now."""
    return [folder for folder in list_runs(runs_dir) if is_live(folder)]


def busy_run(runs_dir: Path, device: str) -> RunFolder | None:
    """The live run that trains on a device, if any."""
    for folder in live_runs(runs_dir):
        config = read_config(folder)
        if config is not None and config.value("device") == device:
            return folder
    return None


@contextmanager
def free_device(runs_dir: Path, device: str) -> Iterator[None]:
    """Hold the right to start a run on a device. Raises UserError where one trains there already."""
    with _starting:
        busy = busy_run(runs_dir, device)
        if busy is not None:
            raise UserError(say("start_busy", run_id=busy.run_id, device=device))
        yield


def default_run(runs_dir: Path) -> RunFolder | None:
    """The run that a freshly opened page shows: one that lives, else the newest."""
    live = live_runs(runs_dir)
    runs = live or list_runs(runs_dir)
    return runs[0] if runs else None


def read_config(folder: RunFolder) -> RunConfig | None:
    """None for a config that this program cannot read: a damaged run must not take the page down."""
    try:
        return RunConfig.from_dict(folder.read_config())
    except UserError:
        return None


def read_rows(folder: RunFolder) -> list[dict[str, Any]]:
    """The run's metrics, an epoch a row; parsed again only when something was appended."""
    return _rows_at(folder, folder.metrics_stamp())


@functools.lru_cache(maxsize=4096)
def _rows_at(folder: RunFolder, stamp: tuple[int, int]) -> list[dict[str, Any]]:
    return merge_metrics(folder.read_metrics()[0])


def best_row(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The epoch with the lowest validation MRE."""
    validated = [row for row in rows if row.get("val/mre_px") is not None]
    return min(validated, key=lambda row: float(row["val/mre_px"]), default=None)


def runs_table(runs_dir: Path) -> list[RunRow]:
    """Every run, newest first, in the columns of the text `runs_columns`."""
    return [_row(folder) for folder in list_runs(runs_dir)]


def file_link(path: Path, words: str) -> str:
    """A link that streams a file of a run from where it lies; a checkpoint of 400 MB is not copied first."""
    address = "gradio_api/file=" + quote(path.absolute().as_posix())
    return f'<a download="{escape(path.name)}" href="{address}">{escape(words)}</a>'


def describe_state(state: RunState) -> str:
    """A state in words."""
    return say(f"state_{state.value}")


def _row(folder: RunFolder) -> RunRow:
    config = read_config(folder)
    rows = read_rows(folder)
    best = best_row(rows)
    started = (folder.read_launched() or {}).get("time")
    cells = [
        folder.run_id,
        describe_state(derive_state(folder)),
        *_settings_cells(config),
        _epochs_cell(config, rows),
        in_distance(best["val/mre_px"], best.get("val/mre_mm")) if best else "-",
        Path(config.value("dataset_path")).name if config else "?",
        time.strftime("%Y-%m-%d %H:%M", time.localtime(started)) if started else "-",
    ]
    return RunRow(folder.run_id, tuple(cells))


def _epochs_cell(config: RunConfig | None, rows: list[dict[str, Any]]) -> str:
    """Epochs done of those asked for, of each phase."""
    done = {row.get("phase"): row["epoch"] for row in rows}
    if config is None:
        return f"{done.get('train', 0)} / ?"
    settings = config.settings
    first = f"{done.get('train', 0)} / {settings.epochs}"
    return f"{first} + {done.get('refine', 0)} / {settings.refine_epochs}" if settings.refine else first


def _settings_cells(config: RunConfig | None) -> list[str]:
    if config is None:
        return ["?", "?", "?"]
    settings = config.settings
    return [settings.model, "{} x {}".format(*settings.image_size), settings.loss]
