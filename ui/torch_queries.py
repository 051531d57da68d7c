"""Questions that need torch, asked in processes of their own, so that the page starts fast and holds no GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from backend.config import Settings, parse_settings, settings_affecting
from backend.data.samples import SampleSplits
from backend.device.gpu import read_gpus
from backend.device.machine import Machine, machine_from_dict
from backend.errors import UserError
from backend.flags import settings_to_flags
from backend.memory.batch_size import MAX_BATCH
from backend.memory.benchmark_store import Measured, MeasuredBatch
from backend.memory.step_memory import TRACED_FIELDS
from backend.placement import place
from backend.resolve import REPOSITORY, choose_device, settings_in_force
from backend.run.folder import RunFolder
from backend.scheduler import Placed
from ui.text.say import say

TIMEOUT_S = 300
MEASURE_TIMEOUT_S = 1800
Answer = Mapping[str, Any]


@dataclass(frozen=True)
class Subject:
    """What memory and speed are asked of: the settings that decide them, and the data's size. `device` is torch's."""

    settings: Settings
    num_landmarks: int
    num_images: int | None  # to train on; None: not known
    device: str

    @property
    def key(self) -> tuple[Settings, int, int | None, str]:
        """What one answer serves: it has every batch up to the largest sensible one, so any of them is the same."""
        batch_size = self.settings.batch_size
        changes: dict[str, Any] = {} if batch_size == "auto" or batch_size > MAX_BATCH else {"batch_size": 2}
        return self.settings.model_copy(update=changes), self.num_landmarks, self.num_images, self.device


def subject_of(settings: Settings, splits: SampleSplits) -> Subject:
    """Of a data set. Raises UserError for a device that is not there."""
    return planned_subject(settings, len(splits.annotations.landmark_names), len(splits.train))


def planned_subject(settings: Settings, num_landmarks: int, num_images: int | None) -> Subject:
    """Of data that need not be here. Raises UserError for a device that is not there."""
    machine = ask_machine()
    device = choose_device(settings, machine, (), read_gpus()).value  # the one that a run would take now
    in_force = settings_in_force(settings, device, machine.cpu_bfloat16)
    kept = {name: getattr(in_force, name) for name in (*TRACED_FIELDS, "batch_size")}
    return Subject(parse_settings(kept), num_landmarks, num_images, device)


_lock = threading.Lock()  # questions wait for each other: two at once would take twice as long
_machines: list[Machine] = []
_answers: dict[Any, Answer] = {}


def ask_machine() -> Machine:
    """The devices that torch sees; asked once."""
    if not _machines:
        with _lock:
            if not _machines:
                _machines.append(machine_from_dict(_ask("backend.torch_devices", timeout_s=TIMEOUT_S)))
    return _machines[0]


def known_machine() -> Machine | None:
    """The answer of `ask_machine` where it was asked before; at once."""
    return _machines[0] if _machines else None


def place_run(folder: RunFolder, busy: Collection[str | None]) -> Placed | None:
    """Where a waiting run starts now: on a free GPU, where it leaves that open. For `scheduler.tend_queue`."""
    return place(folder, busy, ask_machine(), read_gpus())


def absent_device(device: str) -> str:
    """What is wrong with a device by the answer of `ask_machine`; empty where nothing is, or nobody has asked yet."""
    if not _machines:
        return ""
    try:
        choose_device(parse_settings({"device": device}), _machines[0])
    except UserError as error:
        return f"{error.what}; {error.cure}"
    return ""


def known_memory(subject: Subject) -> Answer | None:
    """The answer of `ask_memory` where it was asked before; at once."""
    return _answers.get(subject.key)


def ask_memory(subject: Subject, *, anew: bool = False) -> Answer:
    """Memory by batch, and what was measured before; see `backend.vram`. Seconds, and at once from the second time on.

    `anew`: its reason is about the memory that is free now. Raises UserError with the process's own words.
    """
    if anew or subject.key not in _answers:
        with _lock:
            if anew or subject.key not in _answers:
                _answers[subject.key] = _ask_vram(subject, timeout_s=TIMEOUT_S)
    return _answers[subject.key]


def ask_speed(subject: Subject) -> Answer:
    """The same with the seconds of an image, which are measured where nothing was; as it was where two do not fit."""
    known = ask_memory(subject)
    if known["seconds_per_image"] is not None or known["recommended_batch_size"] is None:
        return known
    with _lock:
        if _answers[subject.key]["seconds_per_image"] is None:
            _answers[subject.key] = _ask_vram(subject, "--measure_speed", timeout_s=TIMEOUT_S)
    return _answers[subject.key]


def require_weights(settings: Settings) -> None:
    """Raises UserError, at its field, where a run could not use the files of weights that its settings name; their
    paths are absolute. At once where they name none."""
    if not settings.first_network and not settings.pretrained:
        return
    flags = settings_to_flags(settings)
    mistake = _ask("backend.start_check", *flags, "--json", "-", timeout_s=TIMEOUT_S)["mistake"]
    if mistake is not None:
        raise UserError(**mistake)


def ask_floor(settings: Settings) -> dict[str, Any]:
    """The decoding floor on whole images and on crops, as `backend.views` tells it. Raises UserError."""
    key = tuple(getattr(settings, name) for name in settings_affecting("decoding_error"))
    if key not in _floors:
        _floors[key] = dict(
            _ask("backend.views", *settings_to_flags(settings), "--json", "-", timeout_s=TIMEOUT_S)
        )
    return _floors[key]


def ask_views(settings: Settings, image_id: str, first_epoch: int, num_views: int) -> list[str]:
    """An image plain and as a training varies it in some epochs: JPEGs in base64. Raises UserError."""
    arguments = [*settings_to_flags(settings), "--no-floor", f"--image={image_id}", "--json", "-"]
    arguments += ["--first_epoch", str(first_epoch), "--num_views", str(num_views)]
    views: list[str] = _ask("backend.views", *arguments, timeout_s=TIMEOUT_S)["views"]
    return views


_floors: dict[tuple[Any, ...], dict[str, Any]] = {}


def ask_measurement(subject: Subject) -> Answer:
    """The same with steps measured at two batches and at the one recommended; a minute or more."""
    with _lock:
        _answers[subject.key] = _ask_vram(subject, "--measure", timeout_s=MEASURE_TIMEOUT_S)
    return _answers[subject.key]


def measured_of(answer: Answer) -> Measured:
    """What an answer says was measured."""
    return Measured(tuple(MeasuredBatch(**batch) for batch in answer["measured"]))


def _ask_vram(subject: Subject, *more: str, timeout_s: float) -> Answer:
    settings = subject.settings.model_copy(update={"device": subject.device})
    numbers = ["--num_landmarks", str(subject.num_landmarks)]
    if subject.num_images is not None:
        numbers += ["--num_images", str(subject.num_images)]
    flags = [*settings_to_flags(settings), *numbers, "--json", "-", *more]
    return _ask("backend.vram", *flags, timeout_s=timeout_s)


def _ask(module: str, *arguments: str, timeout_s: float) -> Answer:
    try:
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, "PYTHONIOENCODING": "utf-8"},
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired:
        raise UserError(say("no_answer", module=module, seconds=timeout_s)) from None
    if done.returncode != 0:
        ended = say("no_answer_code", module=module, code=done.returncode)
        words = [line for line in done.stderr.splitlines() if line.strip()] or [ended]
        raise UserError(words[-1].removeprefix("error: "))
    answer: Answer = json.loads(done.stdout)
    return answer
