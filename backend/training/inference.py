"""Predict landmarks on images with a checkpoint.

The checkpoint alone decides network, input size and decoding; no run folder is needed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor, nn

from backend.config import Choice, RunConfig, parse_settings
from backend.data.annotations.builder import UNKNOWN_SPACING
from backend.data.annotations.table import IMAGE_COLUMNS
from backend.data.dataset import Batches
from backend.data.images import read_image_size
from backend.data.samples import Samples
from backend.data.shape_prior import ShapePrior
from backend.device.gpu import read_gpus
from backend.errors import UserError
from backend.geometry import FloatArray, square_unit_xy
from backend.resolve import choose_device
from backend.run.best import REFINE
from backend.torch_devices import describe_machine
from backend.training.build import (
    build_batches,
    build_crop_batches,
    build_network,
    build_refiner,
    build_refiner_task,
    build_store,
    build_task,
    image_px_per_crop_px,
)
from backend.training.checkpoint import load_checkpoint
from backend.training.checkpoint_checks import OTHER_CHECKPOINT, check_weights, parse_config, read_shape_prior
from backend.training.micro_batch import WHOLE_BATCHES, MicroBatch
from backend.training.out_of_memory import MemoryRanOutError, free_on_shortage
from backend.training.task import (
    LandmarkTask,
    Predictions,
    concatenate_predictions,
    mean_predictions,
)

BATCH_SIZE = 8
# called with the maps of each batch (B, K, h, w) uint8 and their affines to original pixels (B, 1 or K, 2, 3)
OnMaps = Callable[[npt.NDArray[np.uint8], FloatArray], object]
OFFSET_RADIUS_PX = 3.0
FOR_PREDICTION = {
    "batch_size": Choice(BATCH_SIZE, "prediction"),
    "num_workers": Choice(0, "prediction"),
}


@dataclass(frozen=True)
class Predictor:
    """A trained network, ready to predict; perhaps with one that refines its points, and a shape prior."""

    network: nn.Module
    task: LandmarkTask
    refiner: nn.Module | None
    shape_prior: ShapePrior | None
    config: RunConfig
    device: torch.device
    checkpoint: dict[str, Any]

    def predict(
        self,
        samples: Samples,
        on_batch: Callable[[int], object] = lambda num_images: None,
        on_maps: OnMaps | None = None,
    ) -> Predictions:
        """Return points (N, K, 2) in original pixels and confidence (N, K), in the order of the samples.

        `on_batch` is called with the number of images of each batch, `on_maps` with the maps of the last
        network: of crops about the landmarks if there is a refining one. Raises UserError for an image that
        cannot be decoded, and if memory runs out.
        """
        parts = []
        for first in range(0, len(samples), BATCH_SIZE):
            rows = list(range(first, min(first + BATCH_SIZE, len(samples))))
            batch = samples.take(rows)
            try:
                predictions = free_on_shortage(partial(self._predict_few, batch, on_maps), self.device)
            except MemoryRanOutError:
                raise _memory_mistake(self.device) from None
            if not np.isfinite(predictions.points_xy_image).all():
                raise UserError(
                    "the networks return numbers that are not finite",
                    field="checkpoint",
                    cure=OTHER_CHECKPOINT,
                )
            parts.append(self._apply_shape_prior(predictions, batch))
            on_batch(len(rows))
        return concatenate_predictions(parts)

    def _predict_few(self, samples: Samples, on_maps: OnMaps | None) -> Predictions:
        """Predict on a batch of images, each decoded once for both networks.

        The first network predicts on whole images. If there is a refining one, it predicts on several crops
        about each of these points, slightly shifted, and its mean is the answer.
        """
        settings = self.config.settings
        store = build_store(samples, self.config)
        device = {"device": Choice(str(self.device), "prediction")}  # perhaps not the one that trained it
        config = RunConfig(settings, {**self.config.chosen, **FOR_PREDICTION, **device})
        whole_images = build_batches(config, samples, store)
        with_spread = self.shape_prior is not None
        if self.refiner is None:
            return predict_batches(
                self.network, self.task, whole_images, self.device, on_maps=on_maps, with_spread=with_spread
            )
        first = predict_batches(self.network, self.task, whole_images, self.device)
        task = build_refiner_task(config, self.task.landmark_names)
        scale = image_px_per_crop_px(samples, self.config.crop_frame)
        answers = []
        for number, offset in enumerate(crop_offsets(settings.prediction_crops)):
            centres = first.points_xy_image + offset * scale
            crops = build_crop_batches(config, samples, store, centres)
            answer = predict_batches(
                self.refiner,
                task,
                crops,
                self.device,
                on_maps=on_maps if number == 0 else None,  # of the crops that are not shifted
                with_spread=with_spread,
            )
            answers.append(answer)
        return replace(mean_predictions(answers), unrefined_xy_image=first.points_xy_image)

    def _apply_shape_prior(self, predictions: Predictions, samples: Samples) -> Predictions:
        """Move the points by the shape prior, if there is one."""
        if self.shape_prior is None or predictions.spread_xy_image is None:
            return predictions
        points = predictions.points_xy_image
        unit = square_unit_xy(samples.mm_per_px_xy)[:, None]
        if not self.config.learned_pixel_sizes:  # the shape prior was fitted in pixels
            unit = np.ones_like(unit)
        spread = predictions.spread_xy_image * unit[..., None] * unit[..., None, :]
        moved = self.shape_prior.draw(points * unit, spread) / unit
        return replace(predictions, points_xy_image=moved, unshaped_xy_image=points)


def _memory_mistake(device: torch.device) -> UserError:
    on_gpu = device.type == "cuda"
    return UserError(
        f"{'the GPU' if on_gpu else 'this computer'} has too little free memory",
        field="device",
        cure="wait until nothing trains there, or "
        f"{'give --device cpu' if on_gpu else 'close other programs'}",
    )


def crop_offsets(num: int) -> FloatArray:
    """Return by how many pixels to shift each of `num` crops, (num, 2).

    The first one is centered on the point, the others are spread evenly over a disc of OFFSET_RADIUS_PX: on a
    spiral of the golden angle (Vogel 1979), which is even for any number.
    """
    index = np.arange(num)
    radius, angle = OFFSET_RADIUS_PX * np.sqrt(index / max(1, num - 1)), index * np.pi * (3 - np.sqrt(5))
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)


@torch.inference_mode()
def predict_batches(
    network: nn.Module,
    task: LandmarkTask,
    batches: Batches,
    device: torch.device,
    micro_batch: MicroBatch = WHOLE_BATCHES,
    on_maps: OnMaps | None = None,
    *,
    before_part: Callable[[], object] = lambda: None,
    with_spread: bool = False,
) -> Predictions:
    """Predict points with a network in evaluation mode; `with_spread`, also their uncertainty.

    `before_part` is called before each batch, or part of one, and may abort by an exception.
    """
    predictions: list[Predictions] = []
    for part in (part for batch in batches.iterate_epoch(0) for part in micro_batch.split(batch)):
        before_part()
        maps = network(part.to(device).images).float()
        spread = task.spread(maps, part) if with_spread else None
        predictions.append(replace(task.predict(maps, part), spread_xy_image=spread))
        if on_maps is not None:
            on_maps(*task.small_maps(maps, part))
    return concatenate_predictions(predictions)


def load_predictor(checkpoint_path: Path, device: str = "auto") -> Predictor:
    """Build the networks of a checkpoint with their averaged weights.

    Raises UserError for a file that is not a checkpoint, for weights, settings or a shape prior that cannot
    be used, and for a device that does not exist.
    """
    torch_device = _choose_device(device)
    checkpoint = load_checkpoint(checkpoint_path)
    config = parse_config(checkpoint_path, checkpoint["args"])
    num_landmarks = len(checkpoint["landmark_names"])
    network = _load_network(
        checkpoint_path,
        checkpoint["model_state_dict"],
        partial(build_network, config, num_landmarks),
        name=config.settings.model,
    )
    refiner = None
    refiner_content = checkpoint.get("networks", {}).get(REFINE)  # kept once it improves on the first network
    if refiner_content is not None:
        refiner = _load_network(
            checkpoint_path,
            refiner_content["model_state_dict"],
            partial(build_refiner, config, num_landmarks),
            name="the refinement",
        )
    return Predictor(
        network=_prepare(network, torch_device),
        task=build_task(config, checkpoint["landmark_names"]),
        refiner=None if refiner is None else _prepare(refiner, torch_device),
        shape_prior=read_shape_prior(checkpoint_path, checkpoint),
        config=config,
        device=torch_device,
        checkpoint=checkpoint,
    )


def _choose_device(name: str) -> torch.device:
    """Return a device by its name; "auto" is a free GPU that torch can use, else the CPU.

    Names unusable GPUs on stderr. Raises UserError for a name that is not a device, and for a GPU that does
    not exist or cannot be used.
    """
    machine = describe_machine()
    for gpu in machine.unusable if name == "auto" else ():
        print(gpu.message, file=sys.stderr, flush=True)
    return torch.device(choose_device(parse_settings({"device": name}), machine, (), read_gpus()).value)


def _load_network(
    path: Path, weights: Mapping[str, Tensor], build: Callable[[], nn.Module], *, name: str
) -> nn.Module:
    """Build a network with a checkpoint's weights, which are checked before memory is allocated."""
    with torch.device("meta"):
        check_weights(path, weights, build(), name)
    network = build()
    network.load_state_dict(weights)
    return network


def _prepare(network: nn.Module, device: torch.device) -> nn.Module:
    """Move a network to a device, for prediction."""
    network = network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network.eval()


def unlabelled_samples(
    paths: Sequence[Path], num_landmarks: int, spacings: Sequence[tuple[float, float]] | None = None
) -> Samples:
    """Return images without annotations, for prediction.

    `spacings` are mm per pixel along x and y, NaN if unknown. Raises UserError for a file that is not an
    image.
    """
    rows = []
    for path, mm_per_px_xy in zip(paths, spacings or [UNKNOWN_SPACING] * len(paths), strict=True):
        height, width = read_image_size(path)
        rows.append((str(path), str(path), "predict", "", "", *mm_per_px_xy, height, width))
    points = np.full((len(rows), num_landmarks, 2), np.nan, np.float32)
    return Samples(pd.DataFrame(rows, columns=list(IMAGE_COLUMNS)), points)
