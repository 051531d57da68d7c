"""The refinement on other data: several image sizes, no pixel sizes, other formats."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from backend.config import RunConfig
from backend.data.annotations.builder import UNKNOWN_SPACING
from backend.data.shape_prior import ShapePrior
from backend.training import build
from backend.training.inference import load_predictor, unlabelled_samples
from backend.worker import train_run
from tests.training.tiny_runs import (
    JITTER_LIMITS_PX,
    LANDMARKS,
    best_of,
    copy_of,
    last_of,
    new_run,
    outcome_of,
    rows_by_phase,
    rows_of,
)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tiny_network")]


def test_images_of_several_sizes_without_a_spacing_are_refined(tmp_path: Path, tiny_dataset: Path) -> None:
    def resized(number: int, row: dict[str, str], image: np.ndarray[Any, Any]) -> Any:
        scale = 1 + number % 3
        for name in row:
            if name.endswith(("_x", "_y")):
                row[name] = str((float(row[name]) + 0.5) * scale - 0.5)
        row["mm_per_px"] = ""
        return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)

    data = copy_of(tiny_dataset, tmp_path / "data", resized)
    folder = new_run(tmp_path / "runs", data, crop_share=0.4, refine_epochs=2)
    assert train_run(folder) == 0
    for row in rows_by_phase(folder)["refine"]:
        assert math.isfinite(row["train/loss"]) and math.isfinite(row["val/mre_px"])
        assert row["val/mre_mm"] is None and row["val/unrefined_mre_mm"] is None
    preview = folder.previews.read(("refine", 2))
    assert preview is not None
    sides = preview["affine_heatmap_to_image"][:, 0, 0, 0] * 16
    # mean sides of 88, 176 and 264 pixels: a crop covers 0.4 of them, but no pixel is split
    assert set(np.round(sides, 3)) <= {35.2, 70.4, 105.6}


def test_coco_keypoints_of_images_of_several_sizes_are_refined(tmp_path: Path, tiny_dataset: Path) -> None:
    data = tmp_path / "data"
    content: dict[str, list[Any]] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 1, "name": "face", "keypoints": list(LANDMARKS)}],
    }

    def as_coco(number: int, row: dict[str, str], image: np.ndarray[Any, Any]) -> Any:
        scale = 1 + number % 3
        content["images"].append({"id": number, "file_name": row["image"]})
        values = [
            (float(row[f"{name}_{axis}"]) + 0.5) * scale - 0.5 if axis != "v" else 2
            for name in LANDMARKS
            for axis in "xyv"
        ]
        values[3:6] = values[3:6] if number % 4 else [0, 0, 0]  # the chin is not marked everywhere
        content["annotations"].append(
            {"id": number, "image_id": number, "category_id": 1, "keypoints": values}
        )
        return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)

    copy_of(tiny_dataset, data, as_coco)
    (data / "annotations.csv").unlink()
    (data / "result.json").write_text(json.dumps(content), encoding="utf-8")
    folder = new_run(tmp_path / "runs", data, crop_share=0.4, epochs=1, refine_epochs=1)
    assert train_run(folder) == 0
    rows = rows_of(folder)
    assert [row["phase"] for row in rows] == ["train", "refine"]
    for row in rows:
        assert math.isfinite(row["train/loss"]) and math.isfinite(row["val/mre_px"])
        assert row["val/mre_mm"] is None
    assert best_of(folder)["landmark_names"] == list(LANDMARKS)
    preview = folder.previews.read(("refine", 1))
    assert preview is not None and preview["affine_heatmap_to_image"].shape[1:] == (3, 2, 3)


def test_stating_a_pixel_size_moves_no_point_of_a_network_trained_without_any(
    tmp_path: Path, tiny_dataset: Path
) -> None:
    """Also where points are drawn to shapes that were learned in pixels, and a pixel is not square."""

    def without_size(number: int, row: dict[str, str], image: np.ndarray[Any, Any]) -> Any:
        row["mm_per_px"] = ""
        return image

    data = copy_of(tiny_dataset, tmp_path / "data", without_size)
    folder = new_run(tmp_path / "runs", data, crop_share=0.4, epochs=1, refine_epochs=1, val_fraction=0)
    assert train_run(folder) == 0
    predictor = load_predictor(folder.checkpoint_path("best"), "cpu")
    assert predictor.refiner is not None
    prior = ShapePrior(np.array([[0.0, 0.0], [30.0, 10.0], [10.0, 40.0]]), 4 * np.eye(6))
    predictor = replace(predictor, shape_prior=prior)
    paths = sorted(data.glob("*.png"))[:3]
    found = [
        predictor.predict(unlabelled_samples(paths, 3, [spacing] * 3)).points_xy_image
        for spacing in (UNKNOWN_SPACING, (0.05, 0.05), (3.3, 3.3), (0.1, 0.2))
    ]
    for points in found[1:]:
        np.testing.assert_array_equal(points, found[0])


def test_where_an_image_has_no_pixel_size_both_phases_report_and_choose_in_px(
    tmp_path: Path, tiny_dataset: Path
) -> None:
    """Of the three validation images one has none: the mm of the other two are not those of all."""
    with_spacing = new_run(tmp_path, tiny_dataset)
    samples = build.build_splits(RunConfig.from_dict(with_spacing.read_config())).by_split["valid"]
    without = str(samples.images["image_id"].iloc[0])

    def without_one(_number: int, row: dict[str, str], image: np.ndarray[Any, Any]) -> Any:
        row["mm_per_px"] = "" if row["image"] == without else row["mm_per_px"]
        return image

    data = copy_of(tiny_dataset, tmp_path / "data", without_one)
    folder = new_run(tmp_path / "runs", data)
    assert train_run(folder) == 0
    for row in rows_of(folder):
        assert math.isfinite(row["val/mre_px"])
        assert {row[name] for name in row if name.startswith("val/") and "mm" in name} == {None}
    best = best_of(folder)
    assert best["best_mre"] == min(row["val/mre_px"] for row in rows_of(folder))
    assert best["best_mre_mm"] is None and "mm" not in outcome_of(folder)["reason"]


def test_a_real_data_set_without_spacing_is_refined(shared_data: Path, tmp_path: Path) -> None:
    folder = new_run(
        tmp_path, shared_data / "openfield", batch_size=8, epochs=1, refine_epochs=1, refine_crops=32
    )
    assert train_run(folder) == 0
    rows = rows_of(folder)
    assert [row["phase"] for row in rows] == ["train", "refine"]
    assert all(math.isfinite(row["val/mre_px"]) and row["val/mre_mm"] is None for row in rows)
    assert JITTER_LIMITS_PX[0] <= last_of(folder)["networks"]["refine"]["jitter_px"] <= JITTER_LIMITS_PX[1]
