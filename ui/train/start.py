"""From the settings of the form to a running training, and to the line that does the same from a terminal."""

from __future__ import annotations

import shlex
from pathlib import Path

from backend.config import Choice, RunConfig, Settings
from backend.data.flip_pairs import flip_order
from backend.data.samples import require_plausible
from backend.device.gpu import read_gpus
from backend.errors import UserError
from backend.flags import settings_to_flags
from backend.placement import busy_devices
from backend.presets import match_preset, record_preset
from backend.resolve import REPOSITORY, decide
from backend.run.folder import create_run
from backend.run.queue import add_to_queue, read_queue
from backend.run.supervisor import launch
from ui.datasets import read_splits
from ui.run_rows import free_device
from ui.torch_queries import ask_machine, ask_memory, require_weights, subject_of


def start_run(settings: Settings, runs_dir: Path, preset: str = "", busy_words: str = "start_busy") -> str:
    """Decide what is open, create the run and launch its worker. Returns the run's id; raises UserError.

    `preset`: the one that was asked for; empty: the one that the settings agree with, if any. `busy_words`: the text
    that tells of a device that is taken.
    """
    config = _decided(settings, runs_dir, preset)
    if settings.device == "auto" and config.value("device") in busy_devices(runs_dir):
        config = _decided(settings, runs_dir, preset)  # it was taken while the memory was asked for
    with free_device(runs_dir, config.value("device"), busy_words):
        folder = create_run(runs_dir, config.to_dict(), settings.model)
        launch(folder)
    return folder.run_id


def queue_run(settings: Settings, runs_dir: Path, preset: str = "") -> tuple[str, int]:
    """The same, but let the run wait. Returns its id and its place; raises UserError."""
    config = _decided(settings, runs_dir, preset)
    read_queue(runs_dir)  # a damaged queue is told before a folder is made
    folder = create_run(runs_dir, config.to_dict(), settings.model)
    return folder.run_id, add_to_queue(folder)


def to_command(settings: Settings, runs_dir: Path) -> str:
    """The line that does the same from a terminal in the project's folder."""
    path = Path(settings.dataset_path).absolute()
    if path.is_relative_to(REPOSITORY):
        settings = settings.model_copy(update={"dataset_path": path.relative_to(REPOSITORY).as_posix()})
    flags = settings_to_flags(settings)
    if runs_dir.absolute() != REPOSITORY / "runs":
        flags += ["--runs_dir", str(runs_dir)]
    return shlex.join(["python", "train.py", *flags])


def _decided(settings: Settings, runs_dir: Path, preset: str) -> RunConfig:
    config = decide(settings, ask_machine(), _recommended_batch, busy_devices(runs_dir), read_gpus())
    preset = preset or match_preset(settings.model_dump()) or ""
    if preset:
        config = record_preset(config, preset)
    # what a run could not use is told here, not in a log
    splits = read_splits(settings)
    require_plausible(splits, accepted=settings.accept_implausible)
    flip_order(splits.annotations.landmark_names, settings.flip_pairs)
    files = {name: config.value(name) for name in ("dataset_path", "first_network", "pretrained")}
    require_weights(settings.model_copy(update=files))
    return config


def _recommended_batch(settings: Settings, device: str) -> Choice:
    """What the memory that is free now allows."""
    subject = subject_of(settings.model_copy(update={"device": device}), read_splits(settings))
    answer = ask_memory(subject, anew=True)
    if answer["recommended_batch_size"] is None:
        raise UserError(answer["reason"], field="batch_size")
    return Choice(answer["recommended_batch_size"], answer["reason"])
