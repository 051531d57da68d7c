"""Configure, start, queue and resume a run: the one way for the page, the API and train.py.

It needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.config import RunConfig, Settings
from backend.data.flip_pairs import flip_order
from backend.data.samples import SampleSplits, read_splits, require_plausible, require_validation
from backend.device.gpu import read_gpus
from backend.device.machine import Machine
from backend.overrides import read_run_config, resolve_overrides
from backend.placement import busy_devices, require_free
from backend.presets import match_preset, record_preset
from backend.resolve import RecommendBatch, resolve_settings
from backend.run.folder import RunFolder, create_run
from backend.run.queue import add_to_queue, queue_lock, read_queue
from backend.run.supervisor import require_checkpoint

CheckWeights = Callable[[RunConfig, Sequence[str]], None]
Launch = Callable[[RunFolder], None]
Relaunch = Callable[[RunFolder, Mapping[str, Any]], None]


@dataclass(frozen=True)
class TorchAnswers:
    """The answers for which a start needs torch.

    The page gets them from other processes, train.py from its own. `check_weights(config, landmark_names)`
    raises UserError for files of weights that the run could not use.
    """

    machine: Machine
    recommend_batch: RecommendBatch
    check_weights: CheckWeights


@dataclass(frozen=True)
class Configured:
    """The settings of a run that can start, with everything resolved, and its data as it was read."""

    config: RunConfig
    splits: SampleSplits


def configure_run(
    settings: Settings, answers: TorchAnswers, busy: Collection[str] = (), preset: str = ""
) -> Configured:
    """Resolve what the settings leave open and check that a run could start with them; make no run.

    `busy` are the devices that runs train on; `preset` is the requested one (empty: the one that the settings
    equal, if any). Raises UserError, at its field.
    """
    config = resolve_settings(settings, answers.machine, answers.recommend_batch, busy, read_gpus())
    preset = preset or match_preset(settings.model_dump()) or ""
    if preset:
        config = record_preset(config, preset)
    splits = read_splits(settings, config.value("dataset_path"))
    names = splits.annotations.landmark_names
    require_validation(splits, config.value("patience"))
    require_plausible(splits, accepted=settings.accept_implausible)
    flip_order(names, settings.flip_pairs)
    answers.check_weights(config, names)
    return Configured(config, splits)


def start_run(
    settings: Settings,
    runs_dir: Path,
    answers: TorchAnswers,
    launch: Launch,
    *,
    preset: str = "",
    may_share: bool = False,
) -> tuple[RunFolder, Configured]:
    """Configure a run, make its folder and launch it.

    Raises UserError; if a run trains on its device already, DeviceBusyError, unless it `may_share` the
    device. A run that leaves its device open on a machine with several GPUs is configured again if another
    run took that GPU meanwhile.
    """
    is_open = settings.device == "auto" and len(answers.machine.gpus) > 1
    busy_now = busy_devices(runs_dir)
    while True:
        busy = busy_now
        configured = configure_run(settings, answers, busy, preset)
        device = configured.config.value("device")
        runs_dir.mkdir(parents=True, exist_ok=True)  # only now: a mistake leaves no folder
        with queue_lock(runs_dir) if is_open or not may_share else nullcontext():
            busy_now = busy_devices(runs_dir)
            if is_open and device in busy_now - busy:
                continue
            if not may_share:
                require_free(runs_dir, device)
            folder = create_run(runs_dir, configured.config.to_dict(), settings.model)
            launch(folder)
            return folder, configured


def queue_run(
    settings: Settings, runs_dir: Path, answers: TorchAnswers, *, preset: str = ""
) -> tuple[RunFolder, int]:
    """Configure a run, make its folder and let it wait. Return it and its place in the queue.

    Raises UserError.
    """
    configured = configure_run(settings, answers, busy_devices(runs_dir), preset)
    read_queue(runs_dir)  # a damaged queue is reported before a folder is made
    folder = create_run(runs_dir, configured.config.to_dict(), settings.model)
    return folder, add_to_queue(folder)


def resume_run(
    folder: RunFolder,
    changes: Mapping[str, Any],
    machine: Machine,
    relaunch: Relaunch,
    *,
    may_share: bool = False,
) -> Mapping[str, Any]:
    """Go on training in the same folder with changed settings. Return the overrides in `launched.json`.

    Raises UserError as `resolve_overrides` does, and if there is no checkpoint; DeviceBusyError if a run
    trains on the device, unless it `may_share` the device.
    """
    runs_dir = folder.path.parent
    overrides = resolve_overrides(folder, changes, machine, busy_devices(runs_dir), read_gpus())
    new_device = overrides.get("device")
    device = new_device["value"] if new_device else read_run_config(folder).value("device")
    with nullcontext() if may_share else queue_lock(runs_dir):
        if not may_share:
            require_free(runs_dir, device)
        require_checkpoint(folder)
        relaunch(folder, overrides)
    return overrides
