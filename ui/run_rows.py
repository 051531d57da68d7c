"""All runs as rows of a table, and each run's metrics and best weights."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from backend.config import RunConfig
from backend.files import Stamp
from backend.placement import read_config as read_config
from backend.run.best import BestWeights, best_row, read_best_weights
from backend.run.folder import RunFolder, list_runs
from backend.run.notes import read_notes
from backend.run.rows import read_metrics
from backend.run.state import RunState, derive_state
from backend.run.state import live_runs as live_runs
from ui.figures.table import BY_TEXT, SortKey, opening_line, table_html
from ui.text.say import in_distance, say

ORDERS = ("newest", "oldest", "error", "name", "state")
"""The orders of the table; the text of each is `order_<name>`."""


@dataclass(frozen=True)
class RunRow:
    """One line of the runs table, with its keys for sorting and searching.

    `error` is (rank of the unit, value), so that mm come before px, and a run without an error last.
    """

    run_id: str
    state: RunState
    cells: tuple[str, ...]
    sort_keys: tuple[SortKey, ...]  # of each cell
    error: tuple[int, float]
    searchable: str


def default_run(runs_dir: Path) -> RunFolder | None:
    """Return the run that a freshly opened page shows: one that lives, else the newest."""
    live = live_runs(runs_dir)
    runs = live or list_runs(runs_dir)
    return runs[0] if runs else None


MAX_CACHED_RUNS = 256


def read_rows(folder: RunFolder) -> list[dict[str, Any]]:
    """Return the run's metrics, one row per epoch. They are shared: do not change them."""
    return read_metrics(folder).rows


def has_validated(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether any epoch measured validation images."""
    return any(key.startswith("val/") and value is not None for row in rows for key, value in row.items())


def find_best(folder: RunFolder) -> Mapping[str, Any] | None:
    """Return phase, epoch and validation errors of the weights in best.pt; None if their error is not known.

    Rows may hold epochs that training went back from, so they are used only if there is no such file.
    """
    stamp = folder.checkpoint_stamp("best")
    cached = _cached_best.get(folder)
    if cached is None or cached[0] != stamp:
        cached = _cached_best[folder] = (stamp, read_best_weights(folder))
        for oldest in list(_cached_best)[:-MAX_CACHED_RUNS]:
            _cached_best.pop(oldest, None)
    weights = cached[1]
    if weights is None:
        return best_row(read_rows(folder))
    if weights.error.px is None:
        return None
    epoch = {"phase": weights.phase, "epoch": weights.epoch, "num_landmarks": weights.num_landmarks}
    return {**weights.metrics, **epoch}


_cached_best: dict[RunFolder, tuple[Stamp | None, BestWeights | None]] = {}


def runs_table(runs_dir: Path) -> list[RunRow]:
    """Return every run, newest first, in the columns of the text `runs_columns`."""
    return [_row(folder) for folder in list_runs(runs_dir)]


def rows_html(rows: Sequence[RunRow]) -> str:
    """Render the rows as a table; a click on one opens its run."""
    lines = [opening_line(row.run_id, list(zip(row.cells, row.sort_keys, strict=True))) for row in rows]
    return table_html(say("open_run"), say("runs_columns").split(","), lines, classes="opens")


def choose_rows(
    rows: Sequence[RunRow], search: str = "", state: str = "", order: str = ORDERS[0]
) -> list[RunRow]:
    """Return the rows that contain every word of `search`, in a state ("": any), sorted.

    `rows` are newest first.
    """
    words = search.casefold().split()
    matching = [
        row
        for row in rows
        if state in ("", row.state.value) and all(word in row.searchable for word in words)
    ]
    keys: dict[str, Callable[[RunRow], Any]] = {
        "error": lambda row: row.error,
        "name": lambda row: _label(row.run_id),
        "state": lambda row: describe_state(row.state),
    }
    if order in keys:
        return sorted(matching, key=keys[order])
    return matching[::-1] if order == "oldest" else matching


def file_link(path: Path, text: str) -> str:
    """Return a link that streams a run's file from its folder; a checkpoint of 400 MB is not copied first."""
    address = "gradio_api/file=" + quote(path.absolute().as_posix())
    return f'<a download="{escape(path.name)}" href="{address}">{escape(text)}</a>'


def describe_state(state: RunState) -> str:
    """Return the name of a state on the page."""
    return say(f"state_{state.value}")


def _row(folder: RunFolder) -> RunRow:
    """Return the row of a run, with a sort key for each cell."""
    config, rows, notes = read_config(folder), read_rows(folder), read_notes(folder)
    best, state = find_best(folder), derive_state(folder)
    started = (folder.read_launched() or {}).get("time")
    cells = (
        folder.run_id,
        describe_state(state),
        ", ".join(notes.tags),
        *_settings_cells(config),
        _epochs_cell(config, rows),
        in_distance(best["val/mre_px"], best.get("val/mre_mm")) if best else "-",
        Path(config.value("dataset_path")).name if config else "?",
        time.strftime("%Y-%m-%d %H:%M", time.localtime(started)) if started else "-",
    )
    size = config.settings.image_size if config is not None else None
    keys: tuple[SortKey, ...] = (
        BY_TEXT, BY_TEXT, BY_TEXT, BY_TEXT, None if size is None else size[0] * size[1], BY_TEXT, len(rows),
        None if best is None else _error_key(best), BY_TEXT, started,
    )  # fmt: skip
    return RunRow(
        run_id=folder.run_id,
        state=state,
        cells=cells,
        sort_keys=keys,
        error=_error_key(best),
        searchable=" ".join((*cells, notes.text)).casefold(),
    )


def _error_key(best: Mapping[str, Any] | None) -> tuple[int, float]:
    if best is None:
        return (2, math.inf)
    in_mm = best.get("val/mre_mm")
    return (1, best["val/mre_px"]) if in_mm is None else (0, in_mm)


def _label(run_id: str) -> str:
    """Return what follows the time in an id: the label, which puts runs of one model side by side."""
    return run_id.split("-", 2)[-1]


def _epochs_cell(config: RunConfig | None, rows: list[dict[str, Any]]) -> str:
    """Return the epochs done and those asked for, of each phase."""
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
