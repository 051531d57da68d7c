"""Where the trained first network finds the landmarks, how large its errors are, and how far crops are
shifted in training because of them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from backend.data.samples import Samples
from backend.geometry import FloatArray
from backend.run.best import REFINE
from backend.training import build
from backend.training.control import raise_if_stopped
from backend.training.events import prediction_retry
from backend.training.inference import predict_batches
from backend.training.metrics import mean_error, radial_errors
from backend.training.micro_batch import WHOLE_BATCHES
from backend.training.out_of_memory import MemoryShortage, MemoryShortageError, catch_shortage
from backend.training.protocols import Metrics
from backend.training.run_data import RunData, StoredSamples
from backend.training.task import Predictions

log = logging.getLogger(__name__)

PLACE = "predictions of the first network"
# shares of a crop's side, so that a finer crop of the same area is shifted by as much
DEFAULT_JITTER = 1 / 8  # where the validation images are too few to measure the errors
JITTER_LIMITS = (1 / 32, 3 / 16)
JITTER_OF_ERROR = 1.5  # above 1, so that the network also corrects rare, large errors
MIN_ERRORS = 20  # fewer measured errors say little about their spread
MAD_OF_GAUSSIAN = 0.6745  # median absolute deviation of a Gaussian of standard deviation 1


@dataclass(frozen=True)
class FirstPoints:
    """Where the trained first network finds the landmarks, (N, K, 2) in original pixels, and its errors."""

    valid: FloatArray | None
    previews: FloatArray
    errors: Metrics

    @classmethod
    def of(cls, data: RunData, state: dict[str, Any]) -> FirstPoints:
        """Of a network with the weights of `state`. Raises MemoryShortageError and StopAskedError."""
        network = build.build_network(data.config, len(data.landmark_names))
        network.load_state_dict(state)
        network = network.to(data.config.value("device")).eval()
        previews = _predict(data, network, data.previews)
        if data.valid is None:
            return cls(None, previews, {})
        valid = _predict(data, network, data.valid)
        samples = data.valid.samples
        error = mean_error(radial_errors(valid, samples.points_xy_image, samples.mm_per_px_xy))
        return cls(valid, previews, {"mre_px": error.px, "mre_mm": error.mm})


def _predict(data: RunData, network: nn.Module, stored: StoredSamples) -> FloatArray:
    """In smaller parts where memory runs out."""
    task = build.build_task(data.config, data.landmark_names)
    batches = build.build_batches(data.config, stored.samples, stored.store)
    device, size, micro_batch = (
        torch.device(data.config.value("device")),
        batches.largest_batch,
        WHOLE_BATCHES,
    )
    check = partial(raise_if_stopped, data.folder, data.stop)

    def predict() -> Predictions:
        return predict_batches(network, task, batches, device, micro_batch, before_part=check)

    while isinstance(found := catch_shortage(predict, device), MemoryShortage):
        smaller = micro_batch.halved(size, 1, data.config.settings.on_oom)
        if smaller is None:
            num_images = micro_batch.largest_part(size)
            raise MemoryShortageError(PLACE, num_images, micro_batch.num_retries, found)
        micro_batch = smaller
        event = prediction_retry(PLACE, micro_batch, found.error)
        log.info("%s", event.message)
        data.folder.append_event(event.kind, event.message, phase=REFINE, **event.values)
    return found.points_xy_image


def choose_jitter(data: RunData, first: FirstPoints) -> float:
    """By how many crop pixels crops are shifted in training: as set, or half as much again as the spread of
    the first network's errors on the validation images."""
    setting = data.config.settings.crop_jitter
    if setting != "auto":
        return float(setting)
    side_px = data.config.settings.crop_size
    jitter_px, why = (
        DEFAULT_JITTER * side_px,
        "too few validation images to measure the first network's errors",
    )
    if data.valid is not None and first.valid is not None:
        errors = _errors_in_crop_px(data, data.valid.samples, first.valid)
        if errors.size >= MIN_ERRORS:
            # the median gives the spread of a Gaussian whatever the outliers
            spread = float(np.median(np.abs(errors))) / MAD_OF_GAUSSIAN
            least, most = (share * side_px for share in JITTER_LIMITS)
            jitter_px = min(max(JITTER_OF_ERROR * spread, least), most)
            why = (
                f"on validation images the first network is off by {spread:.1f} crop pixels per axis "
                "(standard deviation)"
            )
    data.folder.append_event(
        "crop_jitter", f"crops are shifted by {jitter_px:.1f} crop pixels in training: {why}"
    )
    return jitter_px


def _errors_in_crop_px(data: RunData, samples: Samples, points_xy_image: FloatArray) -> FloatArray:
    """Known differences from the annotated points along both axes, flat."""
    scale = build.image_px_per_crop_px(samples, data.config.crop_frame)
    differences = (points_xy_image - samples.points_xy_image) / scale
    known: FloatArray = differences[np.isfinite(differences)]
    return known
