"""A run's data: what is loaded, left out and reported before training."""

from __future__ import annotations

import logging
import math
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.config import RunConfig
from backend.data.shape_prior import fit_shape_prior
from backend.errors import UserError
from backend.run.folder import RunFolder
from backend.training import build
from backend.training import run_data as run_data_module
from backend.training.inference import load_predictor
from backend.training.run_data import RunData, load_run_data, report_once
from backend.worker import train_run
from tests.training.tiny_runs import (
    LANDMARKS,
    NUM_TRAIN,
    best_of,
    copy_of,
    events_of,
    new_run,
    rows_of,
    with_brow,
)

pytestmark = pytest.mark.usefixtures("tiny_network")


def test_a_landmark_marked_on_no_training_image_is_neither_learnt_nor_in_the_checkpoint(
    tmp_path: Path, tiny_dataset: Path
) -> None:
    def without_chin(_number: int, row: dict[str, str], image: np.ndarray[Any, Any]) -> Any:
        row["chin_x"] = row["chin_y"] = ""
        return image

    folder = new_run(tmp_path / "runs", copy_of(tiny_dataset, tmp_path / "data", without_chin))
    assert train_run(folder) == 0
    assert best_of(folder)["landmark_names"] == ["nose", "ear"]
    for row in rows_of(folder):
        assert math.isfinite(row["val/mre_px/ear"]) and "val/mre_px/chin" not in row
    (told,) = events_of(folder, "landmarks_left_out")
    assert "chin" in told


@pytest.mark.parametrize("phase", ["train", "refine"])
def test_the_shapes_of_the_training_images_stand_in_the_checkpoint(
    tmp_path: Path, tiny_dataset: Path, phase: str
) -> None:
    data = copy_of(tiny_dataset, tmp_path / "data", with_brow)
    folder = new_run(
        tmp_path / "runs",
        data,
        val_fraction=0,
        epochs=1,
        shape_prior=True,
        refine_epochs=1,
        refine=phase == "refine",
    )
    assert train_run(folder) == 0
    (told,) = events_of(folder, "shape_prior")
    assert told == "the shape prior is fitted to 12 training images"
    content = best_of(folder)
    assert content["phase"] == phase
    predictor = load_predictor(folder.checkpoint_path("best"), "cpu")
    train = build.build_splits(predictor.config).train
    expected = fit_shape_prior(train.points_xy_image * 0.5)
    assert expected is not None and predictor.shape_prior is not None
    np.testing.assert_allclose(predictor.shape_prior.covariance, expected.covariance)
    np.testing.assert_allclose(predictor.shape_prior.mean_xy, expected.mean_xy)
    assert predictor.predict(train).unshaped_xy_image is not None


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"loss": "mse"}, "maps of mse do not show how certain they are"),
        ({"val_fraction": 0.25}, "the training images have too few landmarks in common"),
    ],
)
def test_why_predictions_are_not_drawn_to_shapes_is_told(
    tmp_path: Path, tiny_dataset: Path, values: dict[str, Any], why: str
) -> None:
    data = copy_of(tiny_dataset, tmp_path / "data", with_brow)
    asked = {"val_fraction": 0, "epochs": 1, "refine": False, "shape_prior": True}
    folder = new_run(tmp_path / "runs", data, **{**asked, **values})
    assert train_run(folder) == 0
    assert events_of(folder, "shape_prior") == [f"the shape prior is not used: {why}"]
    assert best_of(folder)["shape_prior"] == {}
    assert load_predictor(folder.checkpoint_path("best"), "cpu").shape_prior is None


def test_predictions_are_not_drawn_to_shapes_unless_asked(tmp_path: Path, tiny_dataset: Path) -> None:
    data = copy_of(tiny_dataset, tmp_path / "data", with_brow)
    folder = new_run(tmp_path / "runs", data, val_fraction=0, epochs=1, refine=False)
    assert train_run(folder) == 0
    assert events_of(folder, "shape_prior") == []
    assert load_predictor(folder.checkpoint_path("best"), "cpu").shape_prior is None


# Loaded without a training


def load(folder: RunFolder) -> RunData:
    return load_run_data(folder, RunConfig.from_dict(folder.read_config()), threading.Event())


def test_the_splits_are_loaded_and_recorded(tmp_path: Path, tiny_dataset: Path) -> None:
    folder = new_run(tmp_path, tiny_dataset)
    data = load(folder)
    assert data.landmark_names == LANDMARKS and data.valid is not None
    assert (len(data.train.samples), len(data.valid.samples)) == (NUM_TRAIN, 3)
    assert data.preview_split == "valid" and len(data.previews.samples) == 3
    recorded = folder.read_data()
    assert recorded is not None and recorded["made_with"] == data.origin["made_with"]
    assert {split: len(digests) for split, digests in data.origin["learned_from"].items()} == {
        "train": NUM_TRAIN,
        "valid": 3,
    }


def test_without_validation_images_the_previews_are_training_images(
    tmp_path: Path, tiny_dataset: Path
) -> None:
    data = load(new_run(tmp_path, tiny_dataset, val_fraction=0))
    assert data.valid is None and data.preview_split == "train" and len(data.previews.samples) == 4


def test_an_image_that_cannot_be_decoded_is_left_out_and_reported_once(
    tmp_path: Path, tiny_dataset: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "backend")
    data_path = tmp_path / "data"
    shutil.copytree(tiny_dataset, data_path)
    folder = new_run(tmp_path / "runs", data_path)
    name = load(new_run(tmp_path / "runs", data_path)).train.samples.paths[0].name
    content = (data_path / name).read_bytes()
    (data_path / name).write_bytes(content[: len(content) // 2])  # its header is whole
    assert len(load(folder).train.samples) == NUM_TRAIN - 1
    (message,) = events_of(folder, "image_left_out")
    assert name in message and name in caplog.text
    folder.checkpoint_path("last").parent.mkdir()
    folder.checkpoint_path("last").touch()  # as if it had been trained
    assert len(load(folder).train.samples) == NUM_TRAIN - 1
    assert len(events_of(folder, "image_left_out")) == 1


def test_where_no_image_can_be_decoded_it_is_a_mistake(tmp_path: Path, tiny_dataset: Path) -> None:
    data_path = tmp_path / "data"
    shutil.copytree(tiny_dataset, data_path)
    for path in data_path.glob("*.png"):
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match="none of 9 images can be decoded") as raised:
        load(new_run(tmp_path / "runs", data_path))
    assert raised.value.field == "dataset_path"


def test_an_image_in_two_splits_is_reported_with_its_cure(tmp_path: Path, tiny_dataset: Path) -> None:
    data_path = tmp_path / "data"
    shutil.copytree(tiny_dataset, data_path)
    first = load(new_run(tmp_path / "runs", tiny_dataset))
    assert first.valid is not None and events_of(first.folder, "leaks") == []
    shutil.copy(data_path / first.train.samples.paths[0].name, data_path / first.valid.samples.paths[0].name)
    folder = new_run(tmp_path / "runs", data_path)
    load(folder)
    (message,) = events_of(folder, "leaks")
    assert message.startswith("images in two splits: 1; ")


def test_a_message_is_recorded_again_only_where_it_changed(tmp_path: Path, tiny_dataset: Path) -> None:
    folder = new_run(tmp_path, tiny_dataset)
    for message in ("one", "one", "two", "one"):
        report_once(folder, "a_kind", message, {"number": 1})
    assert events_of(folder, "a_kind") == ["one", "two", "one"]


def test_resumed_with_another_program_it_is_an_event(
    tmp_path: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = new_run(tmp_path, tiny_dataset)
    load(folder)
    folder.checkpoint_path("last").parent.mkdir()
    folder.checkpoint_path("last").touch()
    load(folder)
    assert events_of(folder, "program_changed") == []
    program = run_data_module.describe_program("cpu") | {"torch": "99.0"}
    monkeypatch.setattr(run_data_module, "describe_program", lambda device: program)
    load(folder)
    load(folder)
    (message,) = events_of(folder, "program_changed")
    assert message.startswith("resumed with torch 99.0 (before: ")
