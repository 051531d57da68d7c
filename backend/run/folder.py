"""RunFolder: the only place that knows how the files of a run are called. Reads and writes `runs/<run_id>/`."""

from __future__ import annotations

import contextlib
import io
import re
import socket
import time
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from filelock import BaseFileLock, FileLock

from backend.errors import UserError
from backend.files import (
    Row,
    append_json_line,
    is_lock_held,
    patiently,
    read_json,
    read_json_lines,
    read_tail,
    write_bytes_atomic,
    write_json_atomic,
)
from backend.run.process import ProcessIdentity

RequestKind = Literal["finish", "stop", "save_now", "preview_now"]
CheckpointKind = Literal["best", "last"]
EvaluationKind = Literal["json", "html", "log"]
Arrays = dict[str, npt.NDArray[Any]]
PreviewKey = tuple[str, int]  # phase, and epoch in it (from 1)

REQUEST_KINDS: tuple[RequestKind, ...] = ("finish", "stop", "save_now", "preview_now")
PHASES = ("train", "refine")  # in their order

_CONFIG = "config.json"
_DATA = "data.json"
_RUN_LOCK = "run.lock"
_METRICS = "metrics.jsonl"
_EVENTS = "events.jsonl"
_TIME_FORMAT = "%Y%m%d-%H%M%S"
_TIME_LENGTH = len("yyyymmdd-hhmmss")
_MAX_LABEL_LENGTH = 48  # characters; even at four bytes each, far below the 255 bytes of a file name
_PREVIEW_NAME = re.compile(rf"({'|'.join(PHASES)})-(\d+)\.npz")


@dataclass(frozen=True)
class RunFolder:
    """One run. Times are seconds since 1970; a `read_` method returns None where its file is absent."""

    path: Path

    @property
    def run_id(self) -> str:
        return self.path.name

    # What was asked for.

    @property
    def config_path(self) -> Path:
        return self.path / _CONFIG

    def read_config(self) -> Row:
        """The frozen settings. Raises UserError where `config.json` is absent or damaged."""
        config = read_json(self.config_path)
        if config is None:
            raise UserError(f"{self.path} holds no readable {_CONFIG}", field="run")
        return config

    def set_config_aside(self) -> None:
        """Rename the config: the folder is no run any more, so nobody lists, starts or resumes it."""
        patiently(lambda: self.config_path.rename(self._config_aside_path))

    def put_config_back(self) -> None:
        """Undo `set_config_aside`."""
        patiently(lambda: self._config_aside_path.rename(self.config_path))

    @property
    def _config_aside_path(self) -> Path:
        return self.path / f"{_CONFIG}.aside"

    # What the user says of it.

    def write_notes(self, notes: Mapping[str, Any]) -> None:
        write_json_atomic(self.path / "notes.json", notes)

    def read_notes(self) -> Row | None:
        return read_json(self.path / "notes.json")

    # The process.

    @property
    def log_path(self) -> Path:
        return self.path / "log.txt"

    def log_stamp(self) -> tuple[int, int]:
        """(modification time in ns, bytes) of the log: unchanged while nothing was written."""
        return _stamp(self.log_path)

    def read_log_tail(self, max_bytes: int = 20_000) -> str:
        """The last whole lines of the log within `max_bytes` bytes."""
        return read_tail(self.log_path, max_bytes)

    def lock(self) -> BaseFileLock:
        """The lock that the worker holds while it lives; `acquire` raises filelock.Timeout at once when
        another process has it."""
        return FileLock(self.path / _RUN_LOCK, timeout=0)

    def is_locked(self) -> bool:
        """Whether a process holds `lock()`: proof that one trains in this very folder, under whatever name. A run
        that never started has no such file, and none is made. False also where its file system cannot say."""
        return is_lock_held(self.path / _RUN_LOCK)

    def launch_lock(self) -> BaseFileLock:
        """The lock that is held while a launch is decided and recorded; taken or refused at once."""
        return FileLock(self.path / "launch.lock", timeout=0)

    def write_launched(self, process: ProcessIdentity, argv: Sequence[str], **values: Any) -> None:
        """Record the process that trains and whatever else is worth to know of its launch; this folder, which a copy
        of it is not, the host and the time are added."""
        place = {"folder": str(self.path.resolve()), "host": socket.gethostname(), "time": time.time()}
        launched = {**process.to_row(), "argv": list(argv), **place, **values}
        write_json_atomic(self.path / "launched.json", launched)

    def read_launched(self) -> Row | None:
        return read_json(self.path / "launched.json")

    def was_started(self) -> bool:
        """Whether somebody ever trained it, or does."""
        return self.read_launched() is not None or self.read_outcome() is not None or self.is_locked()

    # What the worker tells.

    def write_status(self, status: Mapping[str, Any]) -> None:
        """Replace the status; `heartbeat`, the present time, is added."""
        # The next status comes in a moment: a reader that holds the file on Windows must not end a training.
        with contextlib.suppress(PermissionError):
            write_json_atomic(self.path / "status.json", {**status, "heartbeat": time.time()})

    def read_status(self) -> Row | None:
        return read_json(self.path / "status.json")

    @property
    def metrics_path(self) -> Path:
        return self.path / _METRICS

    @property
    def events_path(self) -> Path:
        return self.path / _EVENTS

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Append one epoch's values (`phase`, `epoch`, ...); `time` is added where it is missing."""
        append_json_line(self.metrics_path, {"time": time.time(), **row})

    def read_metrics(self, offset: int = 0) -> tuple[list[Row], int]:
        """The rows from byte `offset` on, as they were written, and the next offset; see `merge_metrics`."""
        return read_json_lines(self.metrics_path, offset)

    def metrics_stamp(self) -> tuple[int, int]:
        """(modification time in ns, bytes) of the metrics: unchanged while nothing was appended."""
        return _stamp(self.metrics_path)

    def append_event(self, kind: str, message: str, **values: Any) -> None:
        """Append something that happened: a kind for programs, a sentence for people."""
        row = {"time": time.time(), "kind": kind, "message": message, **values}
        append_json_line(self.events_path, row)

    def read_events(self, offset: int = 0) -> tuple[list[Row], int]:
        """The events from byte `offset` on, and the next offset."""
        return read_json_lines(self.events_path, offset)

    def write_data(self, data: Mapping[str, Any]) -> None:
        """Record what is learned from; written once, at the first start."""
        write_json_atomic(self.path / _DATA, data)

    def read_data(self) -> Row | None:
        """None for a run that was not started yet, or was made before the record was kept.

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
        """What the readers of the validation images differ by among themselves."""
        write_json_atomic(self.path / "readers.json", readers)

    def read_readers(self) -> Row | None:
        return read_json(self.path / "readers.json")

    def write_outcome(self, state: str, reason: str, traceback: str = "", **values: Any) -> None:
        """The worker's last word: a final state, one line of reason, the traceback where there is one."""
        outcome = {"state": state, "reason": reason, "traceback": traceback, "time": time.time(), **values}
        write_json_atomic(self.path / "outcome.json", outcome)

    def read_outcome(self) -> Row | None:
        return read_json(self.path / "outcome.json")

    def set_outcome_aside(self) -> None:
        """Rename the outcome to the first free of outcome.1.json, outcome.2.json ...; absent: nothing."""
        source = self.path / "outcome.json"
        if not source.exists():
            return
        number = 1
        while (target := self.path / f"outcome.{number}.json").exists():
            number += 1
        patiently(lambda: source.rename(target))

    def read_outcome_aside(self) -> tuple[int, Row]:
        """The newest outcome that was set aside, and its number; (0, empty) where there is none."""
        number = 0
        while (self.path / f"outcome.{number + 1}.json").exists():
            number += 1
        return number, (read_json(self.path / f"outcome.{number}.json") or {}) if number else {}

    # What the worker is asked.

    def request(self, kind: RequestKind) -> None:
        """Ask the worker, which looks between batches."""
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
        return self.path / "control" / kind

    # What remains.

    def checkpoint_path(self, kind: CheckpointKind) -> Path:
        """Where the checkpoint is or will be; the folder `checkpoints` may have to be made."""
        return self.path / "checkpoints" / f"{kind}.pt"

    def checkpoint_stamp(self, kind: CheckpointKind) -> tuple[int, int]:
        """(modification time in ns, bytes) of a checkpoint; zeros where there is none."""
        return _stamp(self.checkpoint_path(kind))

    def evaluation_path(self, name: str, kind: EvaluationKind) -> Path:
        """Where the record (json), the report (html) or the words of an evaluation are or will be; see
        `evaluation_name`. The folder may have to be made."""
        return self.path / "evaluations" / f"{name}.{kind}"

    def evaluations(self) -> list[tuple[str, int]]:
        """(name, modification time in ns) of every recorded evaluation, newest first."""
        found = [(path.stem, path.stat().st_mtime_ns) for path in self.path.glob("evaluations/*.json")]
        return sorted(found, key=lambda pair: -pair[1])

    def read_evaluation(self, name: str) -> Row | None:
        return read_json(self.evaluation_path(name, "json"))

    def bundle_paths(self) -> list[Path]:
        """The files to hand on: the best checkpoint (else the last), and the records of the run; no previews."""
        names = (_CONFIG, "notes.json", _METRICS, _EVENTS, "outcome.json", "log.txt")
        checkpoints = [path for kind in ("best", "last") if (path := self.checkpoint_path(kind)).is_file()]
        reports = [path for kind in ("json", "html") for path in self.path.glob(f"evaluations/*.{kind}")]
        records = [*(self.path / name for name in names), *sorted(reports)]
        return [*checkpoints[:1], *(path for path in records if path.is_file())]

    @property
    def previews_path(self) -> Path:
        return self.path / "previews"

    def write_preview_images(self, arrays: Mapping[str, npt.ArrayLike]) -> None:
        """The fixed images, the split that they are of, and what else does not change with the epochs, by name."""
        self._write_arrays("images.npz", arrays)

    def read_preview_images(self) -> Arrays | None:
        return self._read_arrays("images.npz")

    def write_preview(self, phase: str, epoch: int, arrays: Mapping[str, npt.ArrayLike]) -> None:
        """The predictions after an epoch of a phase, by name."""
        self._write_arrays(_preview_name((phase, epoch)), arrays)

    def read_preview(self, key: PreviewKey) -> Arrays | None:
        return self._read_arrays(_preview_name(key))

    def preview_stamp(self, key: PreviewKey) -> int:
        """Modification time in ns, 0 where there is none: an epoch's own preview replaces one from within it."""
        try:
            return (self.previews_path / _preview_name(key)).stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    def preview_keys(self) -> list[PreviewKey]:
        """The epochs that have a preview, in the order of training."""
        if not self.previews_path.is_dir():
            return []
        matches = (_PREVIEW_NAME.fullmatch(path.name) for path in self.previews_path.iterdir())
        keys = [(match[1], int(match[2])) for match in matches if match]
        return sorted(keys, key=lambda key: (PHASES.index(key[0]), key[1]))

    def prune_previews(self, max_kept: int = 24) -> None:
        """Delete previews of each phase until `max_kept` (at least 2) of it are left: first, last, an even middle."""
        if max_kept < 2:
            raise ValueError(f"max_kept must be at least 2, not {max_kept}")
        for phase in PHASES:
            epochs = [epoch for name, epoch in self.preview_keys() if name == phase]
            while len(epochs) > max_kept:
                # The one that leaves the smallest gap: this stays even when we are called after every epoch.
                gaps = [after - before for before, after in zip(epochs, epochs[2:], strict=False)]
                path = self.previews_path / _preview_name((phase, epochs.pop(1 + gaps.index(min(gaps)))))
                # A preview that a reader holds on Windows goes next time.
                with contextlib.suppress(PermissionError):
                    path.unlink(missing_ok=True)

    def _write_arrays(self, name: str, arrays: Mapping[str, npt.ArrayLike]) -> None:
        buffer = io.BytesIO()
        # Written member by member, because np.savez has no way to refuse pickles in every version of numpy.
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for key, array in arrays.items():
                with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
        self.previews_path.mkdir(exist_ok=True)
        write_bytes_atomic(self.previews_path / name, buffer.getvalue())

    def _read_arrays(self, name: str) -> Arrays | None:
        path = self.previews_path / name
        try:
            content = patiently(path.read_bytes)
            with np.load(io.BytesIO(content), allow_pickle=False) as archive:
                return dict(archive)
        except (FileNotFoundError, ValueError, EOFError, zipfile.BadZipFile, zlib.error):
            return None


def create_run(runs_dir: Path, config: Mapping[str, Any], label: str) -> RunFolder:
    """Make `runs_dir/<yyyymmdd-hhmmss>-<label>` (then `-2`, `-3` ...) and write its `config.json`."""
    runs_dir.mkdir(parents=True, exist_ok=True)
    stem = f"{datetime.now().strftime(_TIME_FORMAT)}-{_sanitise_label(label)}"
    path, number = runs_dir / stem, 1
    while not _makes_folder(path):
        number += 1
        path = runs_dir / f"{stem}-{number}"
    folder = RunFolder(path)
    write_json_atomic(folder.config_path, config)
    return folder


def evaluation_name(dataset: str, split: str) -> str:
    """The name of an evaluation's files, `<dataset>-<split>`: the same measured again takes their place."""
    return f"{_sanitise_label(dataset)}-{_sanitise_label(split)}"


def list_runs(runs_dir: Path) -> list[RunFolder]:
    """The runs in `runs_dir`, newest first. A folder is a run when it has a `config.json`."""
    if not runs_dir.is_dir():
        return []
    dated: list[tuple[tuple[str, int, str], RunFolder]] = []
    for path in runs_dir.iterdir():
        # no config: not a run, or one that is made or deleted at this moment; or a folder that is not ours to read
        with contextlib.suppress(OSError):
            dated.append((_creation_key(RunFolder(path)), RunFolder(path)))
    return [folder for _, folder in sorted(dated, key=lambda pair: pair[0], reverse=True)]


def open_run(path: Path | str) -> RunFolder:
    """The run at `path`: its folder, or its `checkpoints/last.pt`.

    Raises UserError for the setting `resume` where there is no run.
    """
    given = Path(path)
    folder = RunFolder(given)
    if (
        given.is_file()
        and RunFolder(given.absolute().parent.parent).checkpoint_path("last") == given.absolute()
    ):
        folder = RunFolder(given.absolute().parent.parent)
    if not folder.config_path.is_file():
        raise UserError(
            f"{given} is not a run",
            field="resume",
            cure="give the folder of a run (it has a config.json) or its checkpoints/last.pt",
        )
    return folder


def merge_metrics(rows: Iterable[Row]) -> list[Row]:
    """One row for each (phase, epoch), the later one where there are two (a kill, then a resume).

    Phases in the order in which they first appear, epochs ascending within; a row without an epoch is
    left out.
    """
    phases: dict[str, dict[int, Row]] = {}
    for row in rows:
        if isinstance(row.get("epoch"), int):
            phases.setdefault(str(row.get("phase", "")), {})[row["epoch"]] = row
    return [epochs[epoch] for epochs in phases.values() for epoch in sorted(epochs)]


def _preview_name(key: PreviewKey) -> str:
    phase, epoch = key
    return f"{phase}-{epoch:04d}.npz"


def _stamp(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except FileNotFoundError:
        return (0, 0)
    return (found.st_mtime_ns, found.st_size)


def _makes_folder(path: Path) -> bool:
    """Make a new folder; False where the name is taken. mkdir is atomic: of two creators one wins."""
    try:
        path.mkdir()
    except FileExistsError:
        return False
    return True


def _sanitise_label(label: str) -> str:
    """`label` as a part of a file name on every system: letters of any script, digits, `_`, `.` and `-`."""
    name = re.sub(r"[^\w.-]+", "-", unicodedata.normalize("NFC", label))
    # Windows drops a dot at the end of a name, and then does not find the folder again.
    return name[:_MAX_LABEL_LENGTH].strip("-.") or "run"


def _creation_key(folder: RunFolder) -> tuple[str, int, str]:
    """Sorts by creation: by the time in the name, or, where the user renamed the run, by its config's."""
    modified_ns = folder.config_path.stat().st_mtime_ns
    stamp = folder.run_id[:_TIME_LENGTH]
    try:
        datetime.strptime(stamp, _TIME_FORMAT)
    except ValueError:
        stamp = datetime.fromtimestamp(modified_ns / 1e9).strftime(_TIME_FORMAT)
    return stamp, modified_ns, folder.run_id
