"""Describe what a checkpoint was trained on, and with which program, torch and device."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from backend import __version__
from backend.config import RunConfig
from backend.data.provenance import read_record
from backend.data.trained_on import TrainedOn, trained_on_digests, trained_on_record, trained_on_splits
from backend.device.machine import cpu_title
from backend.errors import UserError
from backend.files import REPOSITORY
from backend.run.folder import RunFolder
from backend.training.build import build_splits
from backend.training.precision import FLOAT32_ON_GPU


def describe_program(device: str) -> dict[str, str | None]:
    """Return version, git commit (None outside a checkout), torch, Python and device, for run and checkpoint.

    On a GPU also the precision of float32.
    """
    on_gpu = device.startswith("cuda")
    return {
        "version": __version__,
        "git_commit": _git_commit(),
        "torch": str(torch.__version__),  # torch's own class of string cannot be saved in a checkpoint
        "python": platform.python_version(),
        "device": device,
        "device_name": torch.cuda.get_device_name(device) if on_gpu else cpu_title(),
        **({"float32": FLOAT32_ON_GPU} if on_gpu else {}),
    }


def describe_change(program: Mapping[str, Any], before: Mapping[str, Any]) -> str:
    """Describe what differs from before when a run is resumed; empty if nothing does."""
    return ", ".join(
        f"{name} {value} (before: {before.get(name)})"
        for name, value in program.items()
        if value != before.get(name)
    )


def find_trained_on(checkpoint_path: Path, content: Mapping[str, Any]) -> list[TrainedOn]:
    """Find the images that the weights were trained and validated on, in each run that trained them.

    These are the run itself and, if another run trained its first network, that one.
    """
    config = RunConfig.from_dict(content["args"])
    by_run = [_find_in_run(checkpoint_path, content.get("learned_from"), config)]
    if "first_args" in content:
        first_config = RunConfig.from_dict(content["first_args"])
        first_path = Path(config.value("first_network"))
        by_run.append(_find_in_run(first_path, content.get("first_learned_from"), first_config))
    return by_run


def _find_in_run(
    checkpoint_path: Path, learned_from: Mapping[str, list[str]] | None, config: RunConfig
) -> TrainedOn:
    """Find the images of one run by its record, if the checkpoint is in its folder, else by fingerprints.

    The fingerprints are those in the checkpoint. For an old checkpoint without any, the data set is read as
    it is today. Raises UserError if it cannot be read.
    """
    if not learned_from:
        return trained_on_splits(build_splits(config))
    try:
        record = read_record(RunFolder(checkpoint_path.absolute().parent.parent))
    except UserError:  # damaged; the checkpoint has the fingerprints
        record = None
    if record is None or record.digests_by_split() != learned_from:  # another run's folder
        return trained_on_digests(learned_from)
    dataset_path = Path(config.value("dataset_path"))
    return trained_on_record(record, [dataset_path if dataset_path.is_dir() else dataset_path.parent])


def _git_commit() -> str | None:
    """Return the commit of this checkout, with `-dirty` if files have changed since."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    if not (REPOSITORY / ".git").exists():  # a copy inside another project's checkout has no commit
        return None
    try:
        run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.strip() or None
