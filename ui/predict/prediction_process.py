"""Predictions in another process, so that the page holds neither torch nor a GPU."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from backend.data.annotations.writers import read_json_export
from backend.errors import UserError
from backend.files import read_json, read_tail
from ui.annotator.uploads import Predictions
from ui.child_process import LOG_BYTES, Progress, find_mistake, read_bar, start_command
from ui.text.say import say

POLL_S = 0.5
_LOG, _CSV, _JSON, _MAPS = "predict.log", "predictions.csv", "predictions.json", "maps"
_started: dict[Path, subprocess.Popen[bytes]] = {}
_lock = threading.Lock()


def start_prediction(folder: Path, images: Path, checkpoint: Path) -> None:
    """Start predicting on a list of images; the results are written to `folder`.

    Raises UserError if a prediction of that folder is still running.
    """
    with _lock:
        previous = _started.get(folder)
        if previous is not None and previous.poll() is None:
            raise UserError(say("predict_running"))
        (folder / _JSON).unlink(missing_ok=True)
        arguments = ["--checkpoint", str(checkpoint), "--images", str(images), "--out", str(folder / _CSV)]
        arguments += ["--json", str(folder / _JSON), "--maps", str(folder / _MAPS)]
        _started[folder] = start_command("backend.predict", *arguments, log_path=folder / _LOG)


def read_progress(folder: Path) -> Progress | None:
    """Return the progress of a folder's prediction; None if it was stopped or has ended well."""
    process = _started.get(folder)
    if process is None:
        return None
    code, log = process.poll(), read_tail(folder / _LOG, LOG_BYTES)
    if code is None:
        return Progress(*read_bar(log))
    _started.pop(folder, None)
    return None if code == 0 else Progress(failure=find_mistake(log, code) or _last_line(log, code))


def follow_prediction(folder: Path) -> Iterator[Progress]:
    """Yield the progress of a folder's prediction whenever it changes, until it ends or is stopped.

    Raises UserError if it failed.
    """
    last = None
    while (progress := read_progress(folder)) is not None:
        if progress.failure:
            raise UserError(progress.failure)
        if progress != last:
            yield progress
            last = progress
        time.sleep(POLL_S)


def is_running(folder: Path) -> bool:
    """Whether a prediction of the folder is running, or has ended without a report by `read_progress` yet."""
    return folder in _started


def stop_prediction(folder: Path) -> None:
    """End the process at once; it has nothing to save."""
    process = _started.pop(folder, None)
    if process is not None:
        process.kill()
        process.wait()


def read_predictions(folder: Path) -> tuple[list[str], Predictions] | None:
    """Return landmark names and the predictions by file name; None if the prediction was stopped."""
    content = read_json(folder / _JSON)
    return None if content is None else read_json_export(content)


def _last_line(log: str, code: int) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return say("predict_ended", code=code, line=lines[-1] if lines else "-")
