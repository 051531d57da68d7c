"""The preview images of a run, and the points and heatmaps that are predicted on them after an epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from backend.data.crops import CropDataset
from backend.data.dataset import Batch, LandmarkDataset
from backend.data.image_store import reduce_image
from backend.data.images import read_image
from backend.data.samples import Samples
from backend.training.task import LandmarkTask

NUM_PREVIEW_IMAGES = 4
PREVIEW_SIDE_PX = 768


@dataclass(frozen=True)
class PreviewImages:
    """The samples that every preview of a run shows."""

    samples: Samples
    batch: Batch
    split: str  # `valid`, or `train` in a run without validation images


def choose_preview_samples(samples: Samples) -> Samples:
    """Choose up to four samples, evenly spaced: the same ones throughout the run."""
    num = min(NUM_PREVIEW_IMAGES, len(samples))
    return samples.take([int(i) for i in np.linspace(0, len(samples) - 1, num).round()])


def load_preview_batch(dataset: LandmarkDataset | CropDataset) -> Batch:
    """Load all samples of a small data set as one batch."""
    batch: Batch = torch.utils.data.default_collate([dataset[(0, row)] for row in range(len(dataset))])
    return batch


def build_preview(task: LandmarkTask, batch: Batch, maps: Tensor) -> dict[str, Any]:
    """Return points and heatmaps for a preview file, from the maps (B, K, h, w) of a batch."""
    predictions = task.predict(maps, batch)
    heatmaps, affines = task.small_maps(maps, batch)
    return {
        "points_xy_image": predictions.points_xy_image.astype(np.float32),
        "confidence": predictions.confidence.astype(np.float32),
        "heatmaps": heatmaps,
        "affine_heatmap_to_image": affines,
    }


def build_preview_images(previews: PreviewImages, landmark_names: Sequence[str]) -> dict[str, Any]:
    """Return the preview images at screen size, and their annotated points."""
    samples = previews.samples
    arrays: dict[str, Any] = {
        "image_ids": np.array([str(name) for name in samples.images["image_id"]]),
        "split": np.array(previews.split),
        "landmark_names": np.array(list(landmark_names)),
        "truth_xy_image": samples.points_xy_image.astype(np.float32),
        "mm_per_px_xy": samples.mm_per_px_xy,
    }
    for number, (path, size_hw) in enumerate(zip(samples.paths, samples.sizes_hw, strict=True)):
        display = reduce_image(read_image(path), PREVIEW_SIDE_PX / max(size_hw))
        arrays[f"display_{number}"] = display.pixels
        arrays[f"affine_image_to_display_{number}"] = display.affine_from_image
    return arrays
