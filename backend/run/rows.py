"""A run's metrics and events.

Each read continues where the last one stopped, and all callers share the rows.
"""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from backend.files import Row, Stamp, decode_json_lines, patiently, read_finished, read_stamp
from backend.run.folder import RunFolder

MAX_KNOWN_FILES = 512
MARK_BYTES = 256  # enough to tell two files apart

_versions = itertools.count(1)


@dataclass(frozen=True)
class RowsRead:
    """Shared rows, which must not be changed, and a version that changes whenever they do."""

    rows: list[Row]
    version: int


class GrowingFile:
    """A file of JSON lines that is only appended to, with the rows read so far.

    A file that was cut, replaced (a copied or restored run) or rewritten is read from its start.
    """

    def __init__(self, path: Path, merge: Callable[[list[Row]], list[Row]]) -> None:
        self._path, self._merge = path, merge
        self._lock = threading.Lock()  # handlers of several browsers read the same run
        self._stamp: Stamp | None = None
        self._rows: list[Row] = []
        self._offset = 0
        self._mark = b""  # the last bytes before the offset
        self._read = RowsRead([], next(_versions))

    def read(self) -> RowsRead:
        """Return all finished rows; none if the file is absent."""
        with self._lock:
            stamp = read_stamp(self._path)
            if stamp != self._stamp:
                self._read_on()
                self._stamp = stamp
            return self._read

    def _read_on(self) -> None:
        """Add the rows that were appended since the last call."""
        before = self._read.version
        try:
            with patiently(lambda: self._path.open("rb")) as file:
                if not self._continues(file):
                    self._start_over()
                finished = read_finished(file, self._offset)
        except FileNotFoundError:
            self._start_over()
            return
        if finished:
            self._offset += len(finished)
            self._mark = finished[-MARK_BYTES:]
            self._rows += decode_json_lines(finished)
        if finished or self._read.version != before:
            self._read = RowsRead(self._merge(self._rows), next(_versions))

    def _continues(self, file: BinaryIO) -> bool:
        """Whether the file still holds what was read: the last of those bytes are where they were."""
        file.seek(self._offset - len(self._mark))
        return file.read(len(self._mark)) == self._mark

    def _start_over(self) -> None:
        self._rows, self._offset, self._mark = [], 0, b""
        self._read = RowsRead([], next(_versions))


def read_metrics(folder: RunFolder) -> RowsRead:
    """Return the run's merged metrics; see `merge_metrics`."""
    return _metrics_file(folder.metrics_path).read()


def read_events(folder: RunFolder) -> RowsRead:
    """Return the run's events, in order."""
    return _events_file(folder.events_path).read()


def merge_metrics(rows: Iterable[Row]) -> list[Row]:
    """Return one row for each (phase, epoch), the later one if there are two (a kill, then a resume).

    Phases are in the order in which they first appear, with epochs ascending. Rows without an epoch are left
    out.
    """
    phases: dict[str, dict[int, Row]] = {}
    for row in rows:
        if isinstance(row.get("epoch"), int):
            phases.setdefault(str(row.get("phase", "")), {})[row["epoch"]] = row
    return [epochs[epoch] for epochs in phases.values() for epoch in sorted(epochs)]


@functools.lru_cache(MAX_KNOWN_FILES)
def _metrics_file(path: Path) -> GrowingFile:
    return GrowingFile(path, merge_metrics)


@functools.lru_cache(MAX_KNOWN_FILES)
def _events_file(path: Path) -> GrowingFile:
    return GrowingFile(path, list)
