"""The trained first network's points and errors, and how far crops are therefore shifted in training."""

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
from backend.training.out_of_memory import MemoryRanOutError, MemoryShortageError, free_on_shortage
from backend.training.protocols import Metrics
from backend.training.run_data import RunData, StoredSamples
from backend.training.task import Predictions

log = logging.getLogger(__name__)

PLACE = "predictions of the first network"
# shares of a crop's side, so that a finer crop of the same area is shifted by as much
DEFAULT_JITTER = 1 / 8  # if the validation images are too few to measure the errors
JITTER_LIMITS = (1 / 32, 3 / 16)
JITTER_OF_ERROR = 1.5  # above 1, so that the network also corrects rare, large errors
MIN_ERRORS = 20  # fewer measured errors say little about their spread
MAD_OF_GAUSSIAN = 0.6745  # median absolute deviation of a Gaussian of standard deviation 1


@dataclass(frozen=True)
class FirstPoints:
    """The trained first network's points, (N, K, 2) in original pixels, and its mean errors."""

    valid: FloatArray | None
    previews: FloatArray
    errors: Metrics

    @classmethod
    def predict(cls, data: RunData, weights: dict[str, Any]) -> FirstPoints:
        """Predict with these weights on the preview and validation images.

        Raises MemoryShortageError and StopAskedError.
        """
        network = build.build_network(data.config, len(data.landmark_names))
        network.load_state_dict(weights)
        network = network.to(data.config.value("device")).eval()
        previews = _predict(data, network, data.previews)
        if data.valid is None:
            return cls(None, previews, {})
        valid = _predict(data, network, data.valid)
        samples = data.valid.samples
        error = mean_error(radial_errors(valid, samples.points_xy_image, samples.mm_per_px_xy))
        return cls(valid, previews, {"mre_px": error.px, "mre_mm": error.mm})


def _predict(data: RunData, network: nn.Module, stored: StoredSamples) -> FloatArray:
    """Return the points (N, K, 2) of some images; repeat in smaller parts each time that memory runs out."""
    task = build.build_task(data.config, data.landmark_names)
    batches = build.build_batches(data.config, stored.samples, stored.store)
    device = torch.device(data.config.value("device"))
    check = partial(raise_if_stopped, data.folder, data.stop)
    micro_batch = WHOLE_BATCHES

    def predict() -> Predictions:
        return predict_batches(network, task, batches, device, micro_batch, before_part=check)

    while True:
        try:
            return free_on_shortage(predict, device).points_xy_image
        except MemoryRanOutError as error:
            smaller = micro_batch.halved(batches.largest_batch, 1, data.config.settings.on_oom)
            if smaller is None:
                num_images = micro_batch.largest_part(batches.largest_batch)
                raise MemoryShortageError(PLACE, num_images, micro_batch.num_retries, error.trace) from error
            micro_batch = smaller
            event = prediction_retry(PLACE, micro_batch, error.message)
            log.info("%s", event.message)
            data.folder.append_event(event.kind, event.message, phase=REFINE, **event.values)


def choose_jitter(data: RunData, first: FirstPoints) -> float:
    """Choose by how many crop pixels crops are shifted in training, and record the reason.

    As set, or half as much again as the spread of the first network's errors on the validation images.
    """
    setting = data.config.settings.crop_jitter
    if setting != "auto":
        return float(setting)
    side_px = data.config.settings.crop_size
    jitter_px = DEFAULT_JITTER * side_px
    why = "too few validation images to measure the first network's errors"
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
    """Return the differences from the annotated points along both axes, flat; missing points are left out."""
    scale = build.image_px_per_crop_px(samples, data.config.crop_frame)
    differences = (points_xy_image - samples.points_xy_image) / scale
    errors: FloatArray = differences[np.isfinite(differences)]
    return errors
