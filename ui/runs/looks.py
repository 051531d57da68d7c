"""The color, dash and symbol of each run in plots and tables, kept in `runs/looks.json`.

A run keeps its look in every browser, after a reload, and beside any other runs.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from backend.files import read_json, write_json_atomic

FORMAT_VERSION = 1
# Okabe and Ito's palette: distinct for every kind of color vision, in light and dark
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "cross")
MAX_RUNS = len(COLORS)  # beside each other

_LOOKS = "looks.json"
_lock = threading.Lock()
_unwritten: dict[Path, dict[str, int]] = {}  # used if the folder of runs cannot be written to


@dataclass(frozen=True)
class Look:
    """The color, dash and symbol of a run; `dash` and `symbol` are plotly's names."""

    color: str
    dash: str
    symbol: str

    @classmethod
    def of(cls, number: int) -> Look:
        """Return the look of a number: six in a row differ in everything, 36 in color or dash."""
        place = (number + number // MAX_RUNS) % MAX_RUNS
        return cls(COLORS[number % MAX_RUNS], DASHES[place], SYMBOLS[place])


def assign_looks(runs_dir: Path, chosen: Sequence[str], run_ids: Sequence[str]) -> dict[str, Look]:
    """Return the looks of the chosen runs among all runs, and store those that are new.

    A run without a look gets the first that no other run has, in a color that none of the chosen ones has;
    that of a deleted run is free again.
    """
    with _lock:
        stored = _read(runs_dir)
        numbers = {run_id: number for run_id, number in stored.items() if run_id in run_ids}
        for run_id in chosen:
            if run_id not in numbers:
                numbers[run_id] = _free_number(numbers, chosen)
        if numbers != stored:
            _unwritten[runs_dir] = numbers
            with contextlib.suppress(OSError):  # a read-only folder: remembered as long as the program runs
                write_json_atomic(runs_dir / _LOOKS, {"format_version": FORMAT_VERSION, "numbers": numbers})
        return {run_id: Look.of(numbers[run_id]) for run_id in chosen}


def _free_number(numbers: Mapping[str, int], chosen: Sequence[str]) -> int:
    """Return the first number that no run has, in a color of its own among the chosen runs if one is left."""
    taken = set(numbers.values())
    colors = {numbers[run_id] % MAX_RUNS for run_id in chosen if run_id in numbers}
    number = 0
    while number in taken or (number % MAX_RUNS in colors and len(colors) < MAX_RUNS):
        number += 1
    return number


def _read(runs_dir: Path) -> dict[str, int]:
    """Read the number of each run; a foreign or damaged file counts as empty."""
    content = read_json(runs_dir / _LOOKS)
    numbers = content.get("numbers") if content is not None else _unwritten.get(runs_dir)
    if not isinstance(numbers, dict):
        return {}
    return {run_id: number for run_id, number in numbers.items() if isinstance(number, int) and number >= 0}
