"""Questions that need torch, asked in processes of their own, so that the page starts fast and holds no GPU."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from backend.choices import REPOSITORY
from backend.config import Settings
from backend.data.samples import SampleSplits
from backend.device.machine import Machine, machine_from_dict
from backend.errors import UserError
from backend.flags import settings_to_flags

TIMEOUT_S = 120
SPEED_KEYS = (
    "seconds_per_image", "validation_seconds_per_image", "refine_seconds_per_image",
    "refine_validation_seconds_per_image",
)  # fmt: skip
# what decides memory and speed, beside the data; a flag is passed on where it is not at its default
PROBED_KEYS = (
    "model", "image_size", "loss", "batch_size", "device", "mixed_precision", "output_stride", "refine",
    "refine_crops", "num_refiners", "crop_size", "gradient_accumulation_steps",
)  # fmt: skip

# what a decoding floor does not depend on, of that which a user changes often
FREE_KEYS = (
    "model",
    "batch_size",
    "lr",
    "epochs",
    "warmup_epochs",
    "mixed_precision",
    "device",
    "refine_epochs",
)


@functools.cache
def ask_machine() -> Machine:
    """The devices that torch sees; asked once."""
    return machine_from_dict(_ask("backend.device.machine"))


def ask_estimate(settings: Settings, splits: SampleSplits, *, measure: bool) -> dict[str, Any]:
    """Memory by batch size, a recommended batch and, where `measure`, seconds an image; see `backend.vram`.

    Raises UserError with the process's own words where it fails. Memory is read anew at every call.
    """
    num_landmarks, num_images = len(splits.annotations.landmark_names), len(splits.train)
    probed = Settings.model_validate({key: getattr(settings, key) for key in PROBED_KEYS})
    arguments = [*settings_to_flags(probed), "--num_landmarks", str(num_landmarks)]
    arguments += ["--num_images", str(num_images), "--json", "-"]
    if not measure:
        return dict(_ask("backend.vram", *arguments))
    speed = _speeds.get((probed, num_landmarks))
    if speed is None:
        answer = _ask("backend.vram", *arguments, "--measure_speed")
        speed = {name: answer[name] for name in SPEED_KEYS}
        if speed["seconds_per_image"] is not None:
            _speeds[probed, num_landmarks] = speed
        return dict(answer)
    return {**_ask("backend.vram", *arguments), **speed}


def ask_floor(settings: Settings) -> dict[str, Any]:
    """The decoding floor on whole images and on crops, as `backend.views` tells it. Raises UserError."""
    key = settings.model_copy(update={name: Settings.model_fields[name].default for name in FREE_KEYS})
    if key not in _floors:
        _floors[key] = dict(_ask("backend.views", *settings_to_flags(settings), "--json", "-"))
    return _floors[key]


def ask_views(settings: Settings, image_id: str, first_epoch: int, num_views: int) -> list[str]:
    """An image plain and as a training varies it in some epochs: JPEGs in base64. Raises UserError."""
    arguments = [*settings_to_flags(settings), "--no-floor", "--image", image_id, "--json", "-"]
    arguments += ["--first_epoch", str(first_epoch), "--num_views", str(num_views)]
    views: list[str] = _ask("backend.views", *arguments)["views"]
    return views


_floors: dict[Settings, dict[str, Any]] = {}

# measured once a setting: it takes seconds and does not change
_speeds: dict[Any, dict[str, float | None]] = {}


def _ask(module: str, *arguments: str) -> Mapping[str, Any]:
    try:
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, "PYTHONIOENCODING": "utf-8"},
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"{module} gave no answer in {TIMEOUT_S} s", cure="try again") from None
    if done.returncode != 0:
        words = [line for line in done.stderr.splitlines() if line.strip()] or [
            f"exit code {done.returncode}"
        ]
        raise UserError(words[-1].removeprefix("error: "))
    answer: Mapping[str, Any] = json.loads(done.stdout)
    return answer
