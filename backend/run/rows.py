"""A run's metrics and events, read on from where the last reading stopped, and shared by all who read them."""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from backend.files import Row, decode_json_lines, patiently, read_finished
from backend.run.folder import RunFolder, merge_metrics

MAX_KNOWN_FILES = 512
MARK_BYTES = 256
Stamp = tuple[int, int, int, int]

_versions = itertools.count(1)


@dataclass(frozen=True)
class RowsRead:
    """`rows` are shared: do not change them. `version` changes whenever the rows do."""

    rows: list[Row]
    version: int


class GrowingFile:
    """The rows of one file of JSON lines that is only appended to, as far as they were read.

    A file that was cut, replaced (a copied or restored run) or written anew is read from its start.
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
        """All rows that are finished; an absent file has none."""
        with self._lock:
            stamp = _stamp(self._path)
            if stamp != self._stamp:
                self._read_on()
                self._stamp = stamp
            return self._read

    def _read_on(self) -> None:
        before = self._read.version
        try:
            with patiently(lambda: self._path.open("rb")) as file:
                if not self._continues(file):
                    self._start_anew()
                finished = read_finished(file, self._offset)
        except FileNotFoundError:
            self._start_anew()
            return
        if finished:
            self._offset += len(finished)
            self._mark = finished[-MARK_BYTES:]
            self._rows += decode_json_lines(finished)
        if finished or self._read.version != before:
            self._read = RowsRead(self._merge(self._rows), next(_versions))

    def _continues(self, file: BinaryIO) -> bool:
        """Whether the file still holds what was read of it: the last bytes of that are where they were."""
        file.seek(self._offset - len(self._mark))
        return file.read(len(self._mark)) == self._mark

    def _start_anew(self) -> None:
        self._rows, self._offset, self._mark = [], 0, b""
        self._read = RowsRead([], next(_versions))


def read_metrics(folder: RunFolder) -> RowsRead:
    """One row for each phase and epoch, the later one where there are two; see `merge_metrics`."""
    return _metrics_of(folder.metrics_path).read()


def read_events(folder: RunFolder) -> RowsRead:
    """Everything that happened, in order."""
    return _events_of(folder.events_path).read()


@functools.lru_cache(MAX_KNOWN_FILES)
def _metrics_of(path: Path) -> GrowingFile:
    return GrowingFile(path, merge_metrics)


@functools.lru_cache(MAX_KNOWN_FILES)
def _events_of(path: Path) -> GrowingFile:
    return GrowingFile(path, list)


def _stamp(path: Path) -> Stamp | None:
    """What changes whenever a file is appended to or another one takes its place; None where there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
