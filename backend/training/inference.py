"""From a checkpoint and image files to points: what `predict`, `evaluate` and later the page share.

The checkpoint alone decides network, input size and decoding; no run folder is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from backend.config import RunConfig
from backend.data.annotations.table import IMAGE_COLUMNS
from backend.data.dataset import Batches, EpochBatches, LandmarkDataset
from backend.data.images import read_image_size
from backend.data.samples import Samples
from backend.errors import UserError
from backend.training.build import build_network, build_store, build_task
from backend.training.checkpoint import load_checkpoint
from backend.training.task import LandmarkTask, Predictions

BATCH_SIZE = 8


@dataclass(frozen=True)
class Predictor:
    """A trained network, ready to predict."""

    network: nn.Module
    task: LandmarkTask
    config: RunConfig
    device: torch.device
    checkpoint: dict[str, Any]

    @torch.inference_mode()
    def predict(
        self, samples: Samples, on_batch: Callable[[int], object] = lambda num_images: None
    ) -> Predictions:
        """Points (N, K, 2) in original pixels and confidence (N, K), in the order of the samples.

        `on_batch` hears how many images each batch held. Raises UserError for an image that cannot be decoded.
        """
        parts: list[Predictions] = []
        for batch in self._batches(samples).of_epoch(0):
            maps = self.network(batch.to(self.device).images).float()
            parts.append(self.task.predict(maps, batch))
            on_batch(len(batch.rows))
        return Predictions(
            np.concatenate([part.points_xy_image for part in parts]),
            np.concatenate([part.confidence for part in parts]),
        )

    def _batches(self, samples: Samples) -> Batches:
        input_hw = self.task.input_hw
        dataset = LandmarkDataset(
            samples, input_hw, resize=self.config.settings.resize, store=build_store(samples, input_hw)
        )
        return Batches(dataset, EpochBatches(len(samples), BATCH_SIZE), num_workers=0, pin_memory=False)


def load_predictor(checkpoint_path: Path, device: str = "auto") -> Predictor:
    """Rebuild the network of a checkpoint with its averaged weights.

    Raises UserError for a file that is no checkpoint and a device that is not there.
    """
    on_device = _device(device)
    checkpoint = load_checkpoint(checkpoint_path)
    config = RunConfig.from_dict(checkpoint["args"])
    names = checkpoint["landmark_names"]
    network = build_network(config, len(names))
    try:
        network.load_state_dict(checkpoint["model_state_dict"])
    except RuntimeError as error:
        raise UserError(
            f"the weights in {checkpoint_path} do not fit {config.settings.model} ({str(error).splitlines()[0]:.120})",
            field="checkpoint",
            cure="use the version of Fiducial that made it",
        ) from error
    network = network.to(on_device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Predictor(network.eval(), build_task(config, names), config, on_device, checkpoint)


def unlabelled_samples(paths: Sequence[Path], num_landmarks: int) -> Samples:
    """Images without truth, for prediction. Raises UserError for a file that is no image."""
    rows = []
    for path in paths:
        height, width = read_image_size(path)
        rows.append((str(path), str(path), "predict", "", np.nan, np.nan, height, width))
    points = np.full((len(rows), num_landmarks, 2), np.nan, np.float32)
    return Samples(pd.DataFrame(rows, columns=list(IMAGE_COLUMNS)), points)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"{name!r} is no device", field="device", cure="give cpu, cuda or cuda:N") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"torch sees no {name} here", field="device", cure="give cpu")
    return device
