"""Questions that need torch, asked in other processes, so that the page starts fast and holds no GPU."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.config import Settings, parse_settings, settings_affecting
from backend.data.samples import SampleSplits
from backend.device import machine_query
from backend.device.gpu import read_gpus
from backend.device.machine import Machine
from backend.errors import UserError
from backend.flags import settings_to_flags
from backend.json_command import TIMEOUT_S, run_json_command
from backend.memory.batch_size import MAX_BATCH
from backend.memory.benchmark_store import Measured, MeasuredBatch
from backend.memory.step_memory import TRACED_FIELDS
from backend.resolve import choose_device, settings_in_force
from ui.text.say import say

MEASURE_TIMEOUT_S = 1800
Answer = Mapping[str, Any]


@dataclass(frozen=True)
class Subject:
    """The settings and the size of the data that decide memory and speed. `device` is torch's."""

    settings: Settings
    num_landmarks: int
    num_images: int | None  # to train on; None: unknown
    device: str

    @property
    def key(self) -> tuple[Settings, int, int | None, str]:
        """The settings and sizes that one answer serves.

        An answer has every batch up to the largest sensible one, so all these share a key.
        """
        batch_size = self.settings.batch_size
        changes: dict[str, Any] = {} if batch_size == "auto" or batch_size > MAX_BATCH else {"batch_size": 2}
        return self.settings.model_copy(update=changes), self.num_landmarks, self.num_images, self.device


def subject_of(settings: Settings, splits: SampleSplits) -> Subject:
    """Return the subject of a data set. Raises UserError for a device that is not there."""
    return planned_subject(settings, len(splits.annotations.landmark_names), len(splits.train))


def planned_subject(settings: Settings, num_landmarks: int, num_images: int | None) -> Subject:
    """Return the subject of data that need not be here. Raises UserError for a device that is not there."""
    machine = query_machine()
    device = choose_device(settings, machine, (), read_gpus()).value  # the one that a run would take now
    in_effect = settings_in_force(settings, device, machine.cpu_bfloat16)
    decisive = {name: getattr(in_effect, name) for name in (*TRACED_FIELDS, "batch_size")}
    return Subject(parse_settings(decisive), num_landmarks, num_images, device)


_lock = threading.Lock()  # questions wait for each other: two at once would take twice as long
_answers: dict[Any, Answer] = {}


def query_machine() -> Machine:
    """Return the devices that torch can use here, at once after a first call of seconds. Raises UserError."""
    with _report_failures("backend.torch_devices", TIMEOUT_S):
        return machine_query.query_machine()


def query_checks(runs_dir: Path, data_root: Path, user_agent: str) -> list[Mapping[str, Any]]:
    """Return what `backend.check` finds on this computer now; takes seconds. Raises UserError."""
    flags = ["--runs_dir", str(runs_dir), "--data_root", str(data_root), f"--user_agent={user_agent}"]
    with _report_failures("backend.check", TIMEOUT_S):
        checks: list[Mapping[str, Any]] = run_json_command("backend.check", *flags, "--json", "-")
        return checks


def absent_device(device: str) -> str:
    """Say what is wrong with a device; empty if nothing is, or if `query_machine` has not answered yet."""
    machine = machine_query.known_machine()
    if machine is None:
        return ""
    try:
        choose_device(parse_settings({"device": device}), machine)
    except UserError as error:
        return f"{error.what}; {error.cure}"
    return ""


def known_memory(subject: Subject) -> Answer | None:
    """Return the answer of `query_memory` at once if there is one."""
    return _answers.get(subject.key)


def query_memory(subject: Subject, *, anew: bool = False) -> Answer:
    """Return memory by batch, and what was measured before, from `backend.vram`.

    The first call takes seconds. `anew`: ask again, for a reason about the memory that is free now. Raises
    UserError with the process's own message.
    """
    if anew or subject.key not in _answers:
        with _lock:
            if anew or subject.key not in _answers:
                _answers[subject.key] = _query_vram(subject, timeout_s=TIMEOUT_S)
    return _answers[subject.key]


def query_speed(subject: Subject) -> Answer:
    """Return the answer of `query_memory` with the seconds per image, which are measured if they are unknown.

    If not even two images fit, nothing is measured.
    """
    answer = query_memory(subject)
    if answer["seconds_per_image"] is not None or answer["recommended_batch_size"] is None:
        return answer
    with _lock:
        if _answers[subject.key]["seconds_per_image"] is None:
            _answers[subject.key] = _query_vram(subject, "--measure_speed", timeout_s=TIMEOUT_S)
    return _answers[subject.key]


def require_weights(settings: Settings) -> None:
    """Raise UserError, at its field, if a run could not use the files of weights that its settings name.

    Their paths are absolute. Returns at once if they name none.
    """
    if not settings.first_network and not settings.pretrained:
        return
    flags = settings_to_flags(settings)
    mistake = _query("backend.start_check", *flags, "--json", "-", timeout_s=TIMEOUT_S)["mistake"]
    if mistake is not None:
        raise UserError(**mistake)


def query_decoding_error(settings: Settings) -> dict[str, Any]:
    """Return the decoding error on whole images and on crops, from `backend.views`. Raises UserError."""
    key = tuple(getattr(settings, name) for name in settings_affecting("decoding_error"))
    if key not in _decoding_errors:
        _decoding_errors[key] = dict(
            _query("backend.views", *settings_to_flags(settings), "--json", "-", timeout_s=TIMEOUT_S)
        )
    return _decoding_errors[key]


def query_views(settings: Settings, image_id: str, first_epoch: int, num_views: int) -> list[str]:
    """Return an image plain and as some epochs vary it: JPEGs in base64. Raises UserError."""
    arguments = [*settings_to_flags(settings), "--no-floor", f"--image={image_id}", "--json", "-"]
    arguments += ["--first_epoch", str(first_epoch), "--num_views", str(num_views)]
    views: list[str] = _query("backend.views", *arguments, timeout_s=TIMEOUT_S)["views"]
    return views


_decoding_errors: dict[tuple[Any, ...], dict[str, Any]] = {}


def query_measurement(subject: Subject) -> Answer:
    """Measure steps at two batches and at the recommended one, which takes a minute or more.

    Returns the answer of `query_memory` with the measurements.
    """
    with _lock:
        _answers[subject.key] = _query_vram(subject, "--measure", timeout_s=MEASURE_TIMEOUT_S)
    return _answers[subject.key]


def measured_of(answer: Answer) -> Measured:
    """Return what was measured by an answer of `query_memory`."""
    return Measured(tuple(MeasuredBatch(**batch) for batch in answer["measured"]))


def _query_vram(subject: Subject, *more: str, timeout_s: float) -> Answer:
    settings = subject.settings.model_copy(update={"device": subject.device})
    numbers = ["--num_landmarks", str(subject.num_landmarks)]
    if subject.num_images is not None:
        numbers += ["--num_images", str(subject.num_images)]
    flags = [*settings_to_flags(settings), *numbers, "--json", "-", *more]
    return _query("backend.vram", *flags, timeout_s=timeout_s)


def _query(module: str, *arguments: str, timeout_s: float) -> Answer:
    with _report_failures(module, timeout_s):
        answer: Answer = run_json_command(module, *arguments, timeout_s=timeout_s)
        return answer


@contextmanager
def _report_failures(module: str, timeout_s: float) -> Iterator[None]:
    """Raise UserError, with the process's own message if it wrote one, if it fails or takes too long."""
    try:
        yield
    except subprocess.TimeoutExpired:
        raise UserError(say("no_answer", module=module, seconds=timeout_s)) from None
    except subprocess.CalledProcessError as error:
        ended = say("no_answer_code", module=module, code=error.returncode)
        lines = [line for line in error.stderr.splitlines() if line.strip()] or [ended]
        raise UserError(lines[-1].removeprefix("error: ")) from None
