"""Runs on the tiny data set with small networks, and what they leave behind."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from backend.config import Choice, RunConfig, Settings
from backend.files import Row
from backend.run.folder import RunFolder, create_run
from backend.run.rows import merge_metrics
from backend.training.checkpoint import load_checkpoint
from backend.training.loop_state import LoopState
from backend.training.recorder import Recorder
from backend.worker import train_run

LANDMARKS = ("nose", "chin", "ear")


NUM_TRAIN = 9  # of the tiny data set's 12 images


# of crops of 32 pixels: an eighth, and from a thirty-second to three sixteenths
DEFAULT_JITTER_PX, JITTER_LIMITS_PX = 4.0, (1.0, 6.0)


def create_tiny_run(runs_dir: Path, dataset: Path, **values: Any) -> RunFolder:
    """Two epochs of the first network alone, of images of 64 x 64 in batches of 3; or as `values` say."""
    defaults: dict[str, Any] = {
        "image_size": (64, 64),
        "batch_size": 3,
        "epochs": 2,
        "lr": 1e-2,
        "val_fraction": 0.25,
        "refine": False,
    }
    settings = Settings(**{**defaults, **values}, dataset_path=str(dataset), device="cpu", num_workers=0)
    chosen = {"dataset_path": Choice(str(dataset), "as asked"), "mixed_precision": Choice(False, "a CPU")}
    return create_run(runs_dir, RunConfig(settings, chosen).to_dict(), "tiny")


def new_run(runs_dir: Path, dataset: Path, **values: Any) -> RunFolder:
    """Two epochs of three steps, then three of five: 9 images, 3 and 2 of them a step."""
    refinement: dict[str, Any] = {
        "warmup_epochs": 0,
        "refine": True,
        "refine_epochs": 3,
        "num_refiners": 1,
        "prediction_crops": 1,
        "refine_crops": 6,
        "crop_size": 32,
    }
    return create_tiny_run(runs_dir, dataset, **{**refinement, **values})


def rows_of(folder: RunFolder) -> list[Row]:
    return merge_metrics(folder.read_metrics()[0])


def rows_by_phase(folder: RunFolder) -> dict[str, list[Row]]:
    rows = rows_of(folder)
    return {phase: [row for row in rows if row["phase"] == phase] for phase in ("train", "refine")}


def losses(folder: RunFolder) -> list[tuple[Any, ...]]:
    names = ("phase", "epoch", "global_step", "lr", "train/loss", "val/loss", "val/mre_px")
    return [tuple(row.get(name) for name in names) for row in rows_of(folder)]


def outcome_of(folder: RunFolder) -> Row:
    outcome = folder.read_outcome()
    assert outcome is not None
    return outcome


def best_of(folder: RunFolder) -> dict[str, Any]:
    return load_checkpoint(folder.checkpoint_path("best"))


def last_of(folder: RunFolder) -> dict[str, Any]:
    return load_checkpoint(folder.checkpoint_path("last"))


def events_of(folder: RunFolder, kind: str) -> list[str]:
    return [event["message"] for event in folder.read_events()[0] if event["kind"] == kind]


def resume(folder: RunFolder) -> None:
    folder.archive_outcome()
    folder.clear_requests()
    assert train_run(folder) == 0


def assert_same_weights(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def stop_at(patch: pytest.MonkeyPatch, phase: str, global_step: int) -> None:
    """Ask for a stop after a step of a phase."""
    on_step = Recorder.on_step

    def step_and_ask(recorder: Recorder, loop: LoopState, *rest: Any) -> None:
        on_step(recorder, loop, *rest)
        if recorder._phase.name == phase and loop.global_step == global_step:
            recorder._folder.request("stop")

    patch.setattr(Recorder, "on_step", step_and_ask)


def die(*_arguments: Any) -> None:
    raise RuntimeError("killed")


LONG: dict[str, Any] = {"epochs": 5, "refine_epochs": 5, "lr": 3e-3, "refine_lr": 1e-3}


def copy_of(
    dataset: Path, folder: Path, change: Callable[[int, dict[str, str], np.ndarray[Any, Any]], Any]
) -> Path:
    """The tiny data set with each row and image changed; `change` returns the image."""
    folder.mkdir()
    with (dataset / "annotations.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows):
        image = cv2.imread(str(dataset / row["image"]), cv2.IMREAD_UNCHANGED)
        assert image is not None
        cv2.imwrite(str(folder / row["image"]), change(number, row, image))
    with (folder / "annotations.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return folder


def first_of(folder: RunFolder) -> dict[str, Any]:
    """The setting of a run that takes over another one's first network."""
    return {"first_network": str(folder.checkpoint_path("best"))}


def oom_events(folder: RunFolder) -> list[Row]:
    return [event for event in folder.read_events()[0] if event["kind"] == "oom_retry"]


def with_brow(_number: int, row: dict[str, str], image: np.ndarray[Any, Any]) -> Any:
    """A fourth landmark, above the nose."""
    row["brow_x"], row["brow_y"] = row["nose_x"], str(float(row["nose_y"]) - 15)
    return image
