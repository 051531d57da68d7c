"""A run's data: what is loaded, left out and reported before training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.data.shape_prior import fit_shape_prior
from backend.training import build
from backend.training.inference import load_predictor
from backend.worker import train_run
from tests.training.tiny_runs import (
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
        ({"loss": "mse"}, "maps of mse do not tell how sure they are"),
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
