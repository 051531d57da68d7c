"""Start or queue a training with the settings of the form, or write the command that does the same."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from backend import start_run as backend_start
from backend.config import Choice, RunConfig, Settings
from backend.data.samples import read_splits
from backend.errors import UserError
from backend.files import REPOSITORY
from backend.flags import settings_to_flags
from backend.memory.batch_size import choose_batch
from backend.memory.reasons import Reason
from backend.placement import DeviceBusyError
from backend.run.supervisor import launch
from ui.text.say import say
from ui.torch_queries import query_machine, query_memory, require_weights, subject_of


def start_run(settings: Settings, runs_dir: Path, preset: str = "", busy_key: str = "start_busy") -> str:
    """Create a run and launch its worker. Returns the run's id; raises UserError.

    `preset`: the one that was asked for; empty: the one that the settings equal, if any. `busy_key`: the text
    about a device on which another run trains.
    """
    try:
        folder, _ = backend_start.start_run(settings, runs_dir, _answers(), launch, preset=preset)
    except DeviceBusyError as error:
        raise UserError(say(busy_key, run_id=error.run_id, device=error.device)) from error
    return folder.run_id


def queue_run(settings: Settings, runs_dir: Path, preset: str = "") -> tuple[str, int]:
    """Create a run and let it wait. Returns its id and its place; raises UserError."""
    folder, place = backend_start.queue_run(settings, runs_dir, _answers(), preset=preset)
    return folder.run_id, place


def to_command(settings: Settings, runs_dir: Path) -> str:
    """Return the command that does the same from a terminal in the project's folder."""
    path = Path(settings.dataset_path).absolute()
    if path.is_relative_to(REPOSITORY):
        settings = settings.model_copy(update={"dataset_path": path.relative_to(REPOSITORY).as_posix()})
    flags = settings_to_flags(settings)
    if runs_dir.absolute() != REPOSITORY / "runs":
        flags += ["--runs_dir", str(runs_dir)]
    return shlex.join(["python", "train.py", *flags])


def _answers() -> backend_start.TorchAnswers:
    """Return the answers that need torch; other processes give them, because the page holds no torch."""
    return backend_start.TorchAnswers(query_machine(), _recommend_batch, _check_weights)


def _recommend_batch(settings: Settings, device: str) -> Choice:
    """Recommend a batch size for the memory that is free now."""
    subject = subject_of(settings.model_copy(update={"device": device}), read_splits(settings))
    answer = query_memory(subject, anew=True)
    reasons = [Reason(**each) for each in answer["remarks"]]
    return choose_batch(answer["recommended_batch_size"], reasons)


def _check_weights(config: RunConfig, _landmark_names: Sequence[str]) -> None:
    """Check the files of weights in a process that reads the data set again, and with it the names."""
    files = {name: config.value(name) for name in ("dataset_path", "first_network", "pretrained")}
    require_weights(config.settings.model_copy(update=files))
