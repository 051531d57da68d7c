"""What the page shows of all runs: a row of each, its metrics and its best weights."""

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
from backend.placement import read_config as read_config
from backend.run.best import BestWeights, best_row, read_best_weights
from backend.run.folder import RunFolder, list_runs
from backend.run.notes import read_notes
from backend.run.rows import read_metrics
from backend.run.state import RunState, derive_state
from backend.run.state import live_runs as live_runs
from ui.figures.table import WORDS, SortKey, opening_line, table_html
from ui.text.say import in_distance, say

ORDERS = ("newest", "oldest", "error", "name", "state")
"""By which the table is sorted; each has its words as `order_<name>`."""


@dataclass(frozen=True)
class RunRow:
    """One line of the runs table, and what it is sorted and searched by.

    `error` is (rank of the unit, value), so that mm come before px, and a run without an error last.
    """

    run_id: str
    state: RunState
    cells: tuple[str, ...]
    sort_keys: tuple[SortKey, ...]  # of each cell
    error: tuple[int, float]
    searched: str


def default_run(runs_dir: Path) -> RunFolder | None:
    """The run that a freshly opened page shows: one that lives, else the newest."""
    live = live_runs(runs_dir)
    runs = live or list_runs(runs_dir)
    return runs[0] if runs else None


MAX_KNOWN_RUNS = 256


def read_rows(folder: RunFolder) -> list[dict[str, Any]]:
    """The run's metrics, one row per epoch. They are shared: do not change them."""
    return read_metrics(folder).rows


def has_validated(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether any epoch measured validation images."""
    return any(key.startswith("val/") and value is not None for row in rows for key, value in row.items())


def find_best(folder: RunFolder) -> Mapping[str, Any] | None:
    """Phase, epoch and validation errors of the weights in best.pt; None where their error is not known.

    Rows may tell of epochs that training went back from, so they are asked only where there is no such file.
    """
    stamp = folder.checkpoint_stamp("best")
    known = _known_best.get(folder)
    if known is None or known[0] != stamp:
        known = _known_best[folder] = (stamp, read_best_weights(folder))
        for oldest in list(_known_best)[:-MAX_KNOWN_RUNS]:
            _known_best.pop(oldest, None)
    weights = known[1]
    if weights is None:
        return best_row(read_rows(folder))
    if weights.error.px is None:
        return None
    where = {"phase": weights.phase, "epoch": weights.epoch, "num_landmarks": weights.num_landmarks}
    return {**weights.metrics, **where}


_known_best: dict[RunFolder, tuple[tuple[int, int], BestWeights | None]] = {}


def runs_table(runs_dir: Path) -> list[RunRow]:
    """Every run, newest first, in the columns of the text `runs_columns`."""
    return [_row(folder) for folder in list_runs(runs_dir)]


def rows_html(rows: Sequence[RunRow]) -> str:
    """The rows as a table; a click on one opens its run."""
    lines = [opening_line(row.run_id, list(zip(row.cells, row.sort_keys, strict=True))) for row in rows]
    return table_html(say("open_run"), say("runs_columns").split(","), lines, classes="opens")


def choose_rows(
    rows: Sequence[RunRow], words: str = "", state: str = "", order: str = ORDERS[0]
) -> list[RunRow]:
    """The rows that hold every one of the words, in a state ("": any), sorted; `rows` are newest first."""
    wanted = words.casefold().split()
    chosen = [
        row for row in rows if state in ("", row.state.value) and all(word in row.searched for word in wanted)
    ]
    keys: dict[str, Callable[[RunRow], Any]] = {
        "error": lambda row: row.error,
        "name": lambda row: _name_of(row.run_id),
        "state": lambda row: describe_state(row.state),
    }
    if order in keys:
        return sorted(chosen, key=keys[order])
    return chosen[::-1] if order == "oldest" else chosen


def file_link(path: Path, words: str) -> str:
    """A link that streams a file of a run from where it lies; a checkpoint of 400 MB is not copied first."""
    address = "gradio_api/file=" + quote(path.absolute().as_posix())
    return f'<a download="{escape(path.name)}" href="{address}">{escape(words)}</a>'


def describe_state(state: RunState) -> str:
    """A state in words."""
    return say(f"state_{state.value}")


def _row(folder: RunFolder) -> RunRow:
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
        WORDS, WORDS, WORDS, WORDS, None if size is None else size[0] * size[1], WORDS, len(rows),
        None if best is None else _error_key(best), WORDS, started,
    )  # fmt: skip
    words = " ".join((*cells, notes.text)).casefold()
    return RunRow(folder.run_id, state, cells, keys, _error_key(best), words)


def _error_key(best: Mapping[str, Any] | None) -> tuple[int, float]:
    if best is None:
        return (2, math.inf)
    in_mm = best.get("val/mre_mm")
    return (1, best["val/mre_px"]) if in_mm is None else (0, in_mm)


def _name_of(run_id: str) -> str:
    """What follows the time in an id: the label, by which runs of one model stand together."""
    return run_id.split("-", 2)[-1]


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
