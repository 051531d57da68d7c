"""Evaluations in other processes: started and watched. Their results are in the run's folder."""

from __future__ import annotations

import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path

from backend.errors import UserError
from backend.files import read_tail
from backend.run.folder import RunFolder, evaluation_name
from ui.child_process import LOG_BYTES, Progress, find_mistake, read_bar, start_command
from ui.text.say import say


@dataclass(frozen=True)
class Request:
    """The images and the ground truth on which to evaluate the run's best weights."""

    dataset_path: str
    dataset_format: str
    split: str
    annotation_type: str
    exclude: str = ""
    leave_out_leaked: bool = True


@dataclass(frozen=True)
class _Started:
    process: subprocess.Popen[bytes]
    name: str


_started: dict[Path, _Started] = {}
_lock = threading.Lock()


def start_evaluation(folder: RunFolder, request: Request) -> None:
    """Start measuring. Raises UserError if the run is being evaluated or has no best.pt."""
    with _lock:
        previous = _started.get(folder.path)
        if previous is not None and previous.process.poll() is None:
            raise UserError(say("evaluate_running"))
        if not folder.checkpoint_path("best").is_file():
            raise UserError(say("no_files"))
        name = evaluation_name(Path(request.dataset_path).name, request.split)
        log_path = folder.evaluation_path(name, "log")
        log_path.parent.mkdir(exist_ok=True)
        arguments = _arguments(folder, name, request)
        process = start_command("backend.evaluate", *arguments, log_path=log_path)
        _started[folder.path] = _Started(process, name)


def read_progress(folder: RunFolder) -> Progress | None:
    """Return the progress of the evaluation that this program started last.

    None if there is none or it has ended well.
    """
    started = _started.get(folder.path)
    if started is None:
        return None
    code = started.process.poll()
    log = read_tail(folder.evaluation_path(started.name, "log"), LOG_BYTES)
    if code is None:
        return Progress(*read_bar(log))
    if code == 0:
        return None
    return Progress(failure=find_mistake(log, code) or say("evaluate_ended", code=code, name=started.name))


def is_evaluating(folder: RunFolder) -> bool:
    """Whether an evaluation that this program started is running."""
    progress = read_progress(folder)
    return progress is not None and not progress.failure


def _arguments(folder: RunFolder, name: str, request: Request) -> list[str]:
    arguments = ["--checkpoint", str(folder.checkpoint_path("best").absolute())]
    arguments += ["--dataset_path", str(Path(request.dataset_path).absolute())]
    arguments += ["--dataset_format", request.dataset_format, "--split", request.split]
    arguments += ["--annotation_type", request.annotation_type]
    if request.exclude:
        arguments += ["--exclude", str(Path(request.exclude).absolute())]
    arguments += ["--leaked", "leave_out" if request.leave_out_leaked else "keep"]
    for flag, kind in (("--json", "json"), ("--report", "html")):
        arguments += [flag, str(folder.evaluation_path(name, kind).absolute())]  # type: ignore[arg-type]
    return arguments
