"""RunFolder reads and writes the files of a run, `runs/<run_id>/`. No other module knows their names."""

from __future__ import annotations

import contextlib
import re
import socket
import time
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from filelock import BaseFileLock, FileLock

from backend.errors import UserError
from backend.files import (
    Row,
    Stamp,
    append_json_line,
    is_lock_held,
    patiently,
    read_json,
    read_json_lines,
    read_stamp,
    read_tail,
    write_json_atomic,
)
from backend.run.previews import PreviewFolder
from backend.run.process import ProcessIdentity

RequestKind = Literal["finish", "stop", "save_now", "preview_now"]
CheckpointKind = Literal["best", "last"]
EvaluationKind = Literal["json", "html", "log"]

REQUEST_KINDS: tuple[RequestKind, ...] = ("finish", "stop", "save_now", "preview_now")

_CONFIG = "config.json"
_HIDDEN_CONFIG = "config.json.aside"
_NOTES = "notes.json"
_DATA = "data.json"
_READERS = "readers.json"
_LAUNCHED = "launched.json"
_LAUNCH_LOCK = "launch.lock"
_RUN_LOCK = "run.lock"
_STATUS = "status.json"
_METRICS = "metrics.jsonl"
_EVENTS = "events.jsonl"
_LOG = "log.txt"
_OUTCOME = "outcome.json"
_CONTROL = "control"
_CHECKPOINTS = "checkpoints"
_EVALUATIONS = "evaluations"
_PREVIEWS = "previews"

_TIME_FORMAT = "%Y%m%d-%H%M%S"
_TIME_LENGTH = len("yyyymmdd-hhmmss")
_MAX_LABEL_LENGTH = 48  # characters; even at four bytes each, far below the 255 bytes of a file name


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run.

    Times are seconds since 1970; a `read_` method returns None if its file is absent.

    config.json         settings, written once
    notes.json          tags and notes of the user
    data.json           images and landmarks that the run learns from; readers.json: how far readers differ
    launched.json       process that trains; launch.lock: held while it is started, run.lock: while it trains
    status.json         phase, epoch, step, heartbeat; replaced again and again
    metrics.jsonl       one line per epoch; events.jsonl: one line per event; log.txt: what the process prints
    outcome.json        how the training ended; outcome.1.json ...: how it ended before it was resumed
    control/            requests to the process: finish, stop, save_now, preview_now
    checkpoints/        best.pt, last.pt
    evaluations/        <data set>-<split>.json, .html, .log
    previews/           see `PreviewFolder`
    """

    path: Path

    @property
    def run_id(self) -> str:
        return self.path.name

    # config.json

    @property
    def config_path(self) -> Path:
        return self.path / _CONFIG

    def read_config(self) -> Row:
        """Return the frozen settings. Raises UserError if the file is absent or damaged."""
        config = read_json(self.config_path)
        if config is None:
            raise UserError(f"{self.path} holds no readable {_CONFIG}", field="run")
        return config

    def hide_config(self) -> None:
        """Rename the config: the folder is not a run any more, so nobody lists, starts or resumes it."""
        patiently(lambda: self.config_path.rename(self.path / _HIDDEN_CONFIG))

    def unhide_config(self) -> None:
        """Undo `hide_config`."""
        patiently(lambda: (self.path / _HIDDEN_CONFIG).rename(self.config_path))

    # notes.json

    def write_notes(self, notes: Mapping[str, Any]) -> None:
        write_json_atomic(self.path / _NOTES, notes)

    def read_notes(self) -> Row | None:
        return read_json(self.path / _NOTES)

    # data.json, readers.json

    def write_data(self, data: Mapping[str, Any]) -> None:
        """Record the images and landmarks to learn from; called once, at the first start."""
        write_json_atomic(self.path / _DATA, data)

    def read_data(self) -> Row | None:
        """Return the record; None for a run that was not started yet, or is older than such records.

        Raises UserError for a damaged file: it must not pass for one that was never written.
        """
        path = self.path / _DATA
        data = read_json(path)
        if data is None and path.exists():
            raise UserError(
                f"{path} is damaged",
                field="run",
                cure="put the run's own back, or move it away: today's folder is read",
            )
        return data

    def write_readers(self, readers: Mapping[str, Any]) -> None:
        """Record how far the readers of the validation images differ from each other."""
        write_json_atomic(self.path / _READERS, readers)

    def read_readers(self) -> Row | None:
        return read_json(self.path / _READERS)

    # launched.json, launch.lock, run.lock

    def write_launched(self, process: ProcessIdentity, argv: Sequence[str], **values: Any) -> None:
        """Record the training process and its command line.

        Adds the folder's path (to recognize a copied run), the host and the time.
        """
        place = {"folder": str(self.path.resolve()), "host": socket.gethostname(), "time": time.time()}
        launched = {**process.to_row(), "argv": list(argv), **place, **values}
        write_json_atomic(self.path / _LAUNCHED, launched)

    def read_launched(self) -> Row | None:
        return read_json(self.path / _LAUNCHED)

    def was_started(self) -> bool:
        """Whether the run was ever trained, or is now."""
        return self.read_launched() is not None or self.read_outcome() is not None or self.is_locked()

    def launch_lock(self) -> BaseFileLock:
        """Return the lock to hold while a launch is decided and recorded; taken or refused at once."""
        return FileLock(self.path / _LAUNCH_LOCK, timeout=0)

    def lock(self) -> BaseFileLock:
        """Return the lock that the worker holds while it lives; `acquire` raises filelock.Timeout at once."""
        return FileLock(self.path / _RUN_LOCK, timeout=0)

    def is_locked(self) -> bool:
        """Whether some process is training in this folder (even if the folder was renamed).

        Never creates the lock file. Also False if the file system does not support locks.
        """
        return is_lock_held(self.path / _RUN_LOCK)

    # status.json, metrics.jsonl, events.jsonl, log.txt

    def write_status(self, status: Mapping[str, Any]) -> None:
        """Replace the status; adds `heartbeat`, the present time."""
        # The next status comes soon: a process that holds the file open on Windows must not end a training.
        with contextlib.suppress(PermissionError):
            write_json_atomic(self.path / _STATUS, {**status, "heartbeat": time.time()})

    def read_status(self) -> Row | None:
        return read_json(self.path / _STATUS)

    @property
    def metrics_path(self) -> Path:
        return self.path / _METRICS

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Append one epoch's values (`phase`, `epoch`, ...); adds `time` if it is missing."""
        append_json_line(self.metrics_path, {"time": time.time(), **row})

    def read_metrics(self, offset: int = 0) -> tuple[list[Row], int]:
        """Return the rows from byte `offset` on as written (see `merge_metrics`), and the next offset."""
        return read_json_lines(self.metrics_path, offset)

    def metrics_stamp(self) -> Stamp | None:
        return read_stamp(self.metrics_path)

    @property
    def events_path(self) -> Path:
        return self.path / _EVENTS

    def append_event(self, kind: str, message: str, **values: Any) -> None:
        """Append an event: `kind` is for programs, `message` for people."""
        row = {"time": time.time(), "kind": kind, "message": message, **values}
        append_json_line(self.events_path, row)

    def read_events(self, offset: int = 0) -> tuple[list[Row], int]:
        """Return the events from byte `offset` on, and the next offset."""
        return read_json_lines(self.events_path, offset)

    @property
    def log_path(self) -> Path:
        return self.path / _LOG

    def log_stamp(self) -> Stamp | None:
        return read_stamp(self.log_path)

    def read_log_tail(self, max_bytes: int = 20_000) -> str:
        """Return the last whole lines of the log within `max_bytes` bytes."""
        return read_tail(self.log_path, max_bytes)

    # outcome.json

    def write_outcome(self, state: str, reason: str, traceback: str = "", **values: Any) -> None:
        """Record the end of the training: a final state, one line of reason, the traceback of a fault."""
        outcome = {"state": state, "reason": reason, "traceback": traceback, "time": time.time(), **values}
        write_json_atomic(self.path / _OUTCOME, outcome)

    def read_outcome(self) -> Row | None:
        return read_json(self.path / _OUTCOME)

    def archive_outcome(self) -> None:
        """Rename the outcome, if there is one, to the first free of outcome.1.json, outcome.2.json ..."""
        source = self.path / _OUTCOME
        if not source.exists():
            return
        number = 1
        while (target := self._archived_outcome_path(number)).exists():
            number += 1
        patiently(lambda: source.rename(target))

    def read_archived_outcome(self) -> tuple[int, Row]:
        """Return the number of the newest archived outcome, and the outcome; (0, empty) if there is none."""
        number = 0
        while self._archived_outcome_path(number + 1).exists():
            number += 1
        if number == 0:
            return 0, {}
        return number, read_json(self._archived_outcome_path(number)) or {}

    def _archived_outcome_path(self, number: int) -> Path:
        return self.path / f"outcome.{number}.json"

    # control/: requests to the worker

    def request(self, kind: RequestKind) -> None:
        """Leave a request for the worker, which looks between batches."""
        path = self._request_path(kind)
        path.parent.mkdir(exist_ok=True)
        write_json_atomic(path, {"time": time.time()})

    def requested(self, kind: RequestKind) -> bool:
        return self._request_path(kind).exists()

    def clear_request(self, kind: RequestKind) -> None:
        path = self._request_path(kind)
        patiently(lambda: path.unlink(missing_ok=True))

    def clear_requests(self) -> None:
        for kind in REQUEST_KINDS:
            self.clear_request(kind)

    def _request_path(self, kind: RequestKind) -> Path:
        if kind not in REQUEST_KINDS:
            raise ValueError(f"no such request: {kind!r}")
        return self.path / _CONTROL / kind

    # checkpoints/

    def checkpoint_path(self, kind: CheckpointKind) -> Path:
        """Return the path of a checkpoint, which need not exist, nor its folder."""
        return self.path / _CHECKPOINTS / f"{kind}.pt"

    def checkpoint_stamp(self, kind: CheckpointKind) -> Stamp | None:
        return read_stamp(self.checkpoint_path(kind))

    # evaluations/

    def evaluation_path(self, name: str, kind: EvaluationKind) -> Path:
        """Return the path of an evaluation's record (json), report (html) or output (log).

        The file need not exist, nor its folder. `name`: see `evaluation_name`.
        """
        return self.path / _EVALUATIONS / f"{name}.{kind}"

    def evaluations(self) -> list[tuple[str, int]]:
        """List (name, modification time in ns) of every recorded evaluation, newest first."""
        records = self.path.glob(f"{_EVALUATIONS}/*.json")
        dated = [(path.stem, path.stat().st_mtime_ns) for path in records]
        return sorted(dated, key=lambda pair: -pair[1])

    def read_evaluation(self, name: str) -> Row | None:
        return read_json(self.evaluation_path(name, "json"))

    # previews/

    @property
    def previews(self) -> PreviewFolder:
        return PreviewFolder(self.path / _PREVIEWS)

    # all of it

    def bundle_paths(self) -> list[Path]:
        """List the files to hand on: the best checkpoint (else the last) and the records, no previews."""
        names = (_CONFIG, _NOTES, _METRICS, _EVENTS, _OUTCOME, _LOG)
        checkpoints = [path for kind in ("best", "last") if (path := self.checkpoint_path(kind)).is_file()]
        reports = [path for kind in ("json", "html") for path in self.path.glob(f"{_EVALUATIONS}/*.{kind}")]
        records = [*(self.path / name for name in names), *sorted(reports)]
        return [*checkpoints[:1], *(path for path in records if path.is_file())]


def create_run(runs_dir: Path, config: Mapping[str, Any], label: str) -> RunFolder:
    """Create `runs_dir/<yyyymmdd-hhmmss>-<label>` (then `-2`, `-3` ...) and write its `config.json`."""
    runs_dir.mkdir(parents=True, exist_ok=True)
    stem = f"{datetime.now().strftime(_TIME_FORMAT)}-{_sanitize_label(label)}"
    path, number = runs_dir / stem, 1
    while not _try_mkdir(path):
        number += 1
        path = runs_dir / f"{stem}-{number}"
    folder = RunFolder(path)
    write_json_atomic(folder.config_path, config)
    return folder


def evaluation_name(dataset: str, split: str) -> str:
    """Return the name of an evaluation's files, `<dataset>-<split>`; a repeated evaluation replaces them."""
    return f"{_sanitize_label(dataset)}-{_sanitize_label(split)}"


def list_runs(runs_dir: Path) -> list[RunFolder]:
    """List the runs in `runs_dir`, newest first. A folder is a run if it has a `config.json`."""
    if not runs_dir.is_dir():
        return []
    dated: list[tuple[tuple[str, int, str], RunFolder]] = []
    for path in runs_dir.iterdir():
        # without a config: not a run, or one that is just being created or deleted, or one we may not read
        with contextlib.suppress(OSError):
            dated.append((_creation_key(RunFolder(path)), RunFolder(path)))
    return [folder for _, folder in sorted(dated, key=lambda pair: pair[0], reverse=True)]


def open_run(path: Path | str) -> RunFolder:
    """Return the run at `path`, which is its folder or its `checkpoints/last.pt`.

    Raises UserError for the setting `resume` if there is no run.
    """
    given = Path(path)
    parent = RunFolder(given.absolute().parent.parent)
    is_last = given.is_file() and parent.checkpoint_path("last") == given.absolute()
    folder = parent if is_last else RunFolder(given)
    if not folder.config_path.is_file():
        raise UserError(
            f"{given} is not a run",
            field="resume",
            cure="give the folder of a run (it has a config.json) or its checkpoints/last.pt",
        )
    return folder


def _try_mkdir(path: Path) -> bool:
    """Create a folder; False if the name is taken. mkdir is atomic: of two processes one succeeds."""
    try:
        path.mkdir()
    except FileExistsError:
        return False
    return True


def _sanitize_label(label: str) -> str:
    """Make `label` a part of a file name on any system: letters of any language, digits, `_`, `.`, `-`."""
    name = re.sub(r"[^\w.-]+", "-", unicodedata.normalize("NFC", label))
    # Windows drops a dot at the end of a name, and then does not find the folder again.
    return name[:_MAX_LABEL_LENGTH].strip("-.") or "run"


def _creation_key(folder: RunFolder) -> tuple[str, int, str]:
    """Return a key to sort by creation: the time in the name, or the config's if the user renamed the run."""
    modified_ns = folder.config_path.stat().st_mtime_ns
    created = folder.run_id[:_TIME_LENGTH]
    try:
        datetime.strptime(created, _TIME_FORMAT)
    except ValueError:
        created = datetime.fromtimestamp(modified_ns / 1e9).strftime(_TIME_FORMAT)
    return created, modified_ns, folder.run_id
