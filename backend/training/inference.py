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
from backend.training.checkpoint_checks import OTHER_CHECKPOINT, check_weights, config_of, read_shape_prior
from backend.training.micro_batch import WHOLE_BATCHES, MicroBatch
from backend.training.out_of_memory import MemoryShortage, catch_shortage
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
    """A trained network, ready to predict, with the network that refines its points and the shape prior where
    it has them."""

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
        """Points (N, K, 2) in original pixels and confidence (N, K), in the order of the samples.

        `on_batch` is called with the number of images of each batch, `on_maps` with the maps of the last
        network: on crops about the landmarks where there is a second one. Raises UserError for an image that
        cannot be decoded, and where memory runs out.
        """
        parts = []
        for first in range(0, len(samples), BATCH_SIZE):
            rows = list(range(first, min(first + BATCH_SIZE, len(samples))))
            found = catch_shortage(partial(self._predict_few, samples.take(rows), on_maps), self.device)
            if isinstance(found, MemoryShortage):
                raise _short_of_memory(self.device)
            if not np.isfinite(found.points_xy_image).all():
                raise UserError(
                    "the networks return numbers that are not finite",
                    field="checkpoint",
                    cure=OTHER_CHECKPOINT,
                )
            parts.append(self._with_shape_prior(found, samples.take(rows)))
            on_batch(len(rows))
        return concatenate_predictions(parts)

    def _predict_few(self, samples: Samples, on_maps: OnMaps | None) -> Predictions:
        """A batch of images, each decoded once for both networks."""
        settings = self.config.settings
        store = build_store(samples, self.config)
        here = {"device": Choice(str(self.device), "prediction")}  # perhaps not the device that trained it
        config = RunConfig(settings, {**self.config.chosen, **FOR_PREDICTION, **here})
        whole = build_batches(config, samples, store)
        shaped = self.shape_prior is not None
        if self.refiner is None:
            return predict_batches(
                self.network, self.task, whole, self.device, on_maps=on_maps, with_spread=shaped
            )
        found = predict_batches(self.network, self.task, whole, self.device)
        task = build_refiner_task(config, self.task.landmark_names)
        scale = image_px_per_crop_px(samples, self.config.crop_frame)
        answers = []
        for number, offset in enumerate(crop_offsets(settings.prediction_crops)):
            centres = found.points_xy_image + offset * scale
            crops = build_crop_batches(config, samples, store, centres)
            about_the_point = on_maps if number == 0 else None
            answer = predict_batches(
                self.refiner, task, crops, self.device, on_maps=about_the_point, with_spread=shaped
            )
            answers.append(answer)
        return replace(mean_predictions(answers), unrefined_xy_image=found.points_xy_image)

    def _with_shape_prior(self, found: Predictions, samples: Samples) -> Predictions:
        """With the shape prior applied to the points."""
        if self.shape_prior is None or found.spread_xy_image is None:
            return found
        unit = square_unit_xy(samples.mm_per_px_xy)[:, None]
        if not self.config.learned_pixel_sizes:  # the shape prior was fitted in pixels
            unit = np.ones_like(unit)
        spread = found.spread_xy_image * unit[..., None] * unit[..., None, :]
        drawn = self.shape_prior.draw(found.points_xy_image * unit, spread) / unit
        return replace(found, points_xy_image=drawn, unshaped_xy_image=found.points_xy_image)


def _short_of_memory(device: torch.device) -> UserError:
    on_gpu = device.type == "cuda"
    return UserError(
        f"{'the GPU' if on_gpu else 'this computer'} has too little free memory",
        field="device",
        cure="wait until nothing trains there, or "
        f"{'give --device cpu' if on_gpu else 'close other programs'}",
    )


def crop_offsets(num: int) -> FloatArray:
    """(num, 2) crop pixels: one crop is centered on the point, the others are spread evenly over a disc of 3
    px.

    A spiral of the golden angle (Vogel 1979), which is even for any number.
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
    """The points that a network in evaluation mode finds, batch by batch; `with_spread`, also their
    uncertainty.

    `before_part` is called before each batch, or part of one, and may abort by an exception.
    """
    found: list[Predictions] = []
    for part in (part for batch in batches.iterate_epoch(0) for part in micro_batch.split(batch)):
        before_part()
        maps = network(part.to(device).images).float()
        spread = task.spread(maps, part) if with_spread else None
        found.append(replace(task.predict(maps, part), spread_xy_image=spread))
        if on_maps is not None:
            on_maps(*task.small_maps(maps, part))
    return concatenate_predictions(found)


def load_predictor(checkpoint_path: Path, device: str = "auto") -> Predictor:
    """Rebuild the network of a checkpoint with its averaged weights.

    Raises UserError for a file that is not a checkpoint, for weights, settings or a shape prior that cannot
    be used, and for a device that does not exist.
    """
    on_device = _device(device)
    checkpoint = load_checkpoint(checkpoint_path)
    config = config_of(checkpoint_path, checkpoint["args"])
    num_landmarks = len(checkpoint["landmark_names"])
    network = _load_network(
        checkpoint_path,
        checkpoint["model_state_dict"],
        partial(build_network, config, num_landmarks),
        config.settings.model,
    )
    second = checkpoint.get("networks", {}).get(REFINE)  # kept once it improves on the first one
    refiner = None
    if second is not None:
        build = partial(build_refiner, config, num_landmarks)
        refiner = _load_network(checkpoint_path, second["model_state_dict"], build, "the refinement")
    return Predictor(
        _placed(network, on_device),
        build_task(config, checkpoint["landmark_names"]),
        None if refiner is None else _placed(refiner, on_device),
        read_shape_prior(checkpoint_path, checkpoint),
        config,
        on_device,
        checkpoint,
    )


def _load_network(
    path: Path, weights: Mapping[str, Tensor], build: Callable[[], nn.Module], name: str
) -> nn.Module:
    """A network with a checkpoint's weights, which are checked before memory is allocated."""
    with torch.device("meta"):
        check_weights(path, weights, build(), name)
    network = build()
    network.load_state_dict(weights)
    return network


def _placed(network: nn.Module, device: torch.device) -> nn.Module:
    network = network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network.eval()


def unlabelled_samples(
    paths: Sequence[Path], num_landmarks: int, spacings: Sequence[tuple[float, float]] | None = None
) -> Samples:
    """Images without annotations, for prediction; `spacings` are mm per pixel along x and y, NaN where
    unknown.

    Raises UserError for a file that is not an image.
    """
    rows = []
    for path, mm_per_px_xy in zip(paths, spacings or [UNKNOWN_SPACING] * len(paths), strict=True):
        height, width = read_image_size(path)
        rows.append((str(path), str(path), "predict", "", "", *mm_per_px_xy, height, width))
    points = np.full((len(rows), num_landmarks, 2), np.nan, np.float32)
    return Samples(pd.DataFrame(rows, columns=list(IMAGE_COLUMNS)), points)


def _device(name: str) -> torch.device:
    """A device by its name; "auto" is a free GPU that torch can use, else the CPU. Unusable GPUs are named on
    stderr.

    Raises UserError for a name that is not a device, and for a GPU that does not exist or cannot be used.
    """
    machine = describe_machine()
    for gpu in machine.unusable if name == "auto" else ():
        print(gpu.message, file=sys.stderr, flush=True)
    return torch.device(choose_device(parse_settings({"device": name}), machine, (), read_gpus()).value)
