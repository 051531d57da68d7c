"""The decoding error: the error of points decoded from perfect heatmaps. No network can be measured below it.

It is the mean error of decode(encode(points)), in the frame of each phase: whole images, and crops about the
landmarks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from backend.config import RunConfig, Settings
from backend.data.samples import Samples
from backend.geometry import RESIZES, FloatArray, apply_affine, invert_affine
from backend.training.build import build_refiner_task, build_task
from backend.training.heatmaps import as_logits, encode_heatmaps
from backend.training.metrics import radial_errors, summarize
from backend.training.task import LandmarkTask

MAX_IMAGES = 200  # evenly spaced: the mean hardly changes with more


@dataclass(frozen=True)
class DecodingError:
    """A mean distance, in the original image, of points decoded from perfect maps; mm is None if unknown."""

    mre_px: float | None
    mre_mm: float | None
    num_images: int


def decoding_error_on_images(samples: Samples, settings: Settings) -> DecodingError:
    """Measure the decoding error of the first network, on whole images."""
    samples = _thin_out(samples)
    task = build_task(RunConfig(settings, {}), _names(samples))
    affines = [RESIZES[settings.resize](size_hw, settings.image_size)[None] for size_hw in samples.sizes_hw]
    return _measure(samples, task, affines)


def decoding_error_on_crops(samples: Samples, settings: Settings) -> DecodingError:
    """Measure the decoding error of the refinement, on crops about places near the annotated points."""
    samples, frame = _thin_out(samples), settings.crop_frame
    task = build_refiner_task(RunConfig(settings, {}), _names(samples))
    rng = np.random.default_rng(settings.seed)
    affines = []
    for points, size_hw, spacing in zip(
        samples.points_xy_image, samples.sizes_hw, samples.mm_per_px_xy, strict=True
    ):
        scale_xy = frame.image_px_per_px_xy(size_hw, spacing)
        # anywhere within two cells, so that the points lie everywhere between the centers of cells
        centers = points + rng.uniform(-task.stride, task.stride, points.shape) * scale_xy
        affines.append(np.stack([frame.affine(center, scale_xy) for center in centers]))
    return _measure(samples, task, affines)


def decode_truth(points_xy_input: Tensor, task: LandmarkTask) -> Tensor:
    """Return the points (B, K, 2) that the task's decoder finds in perfect maps of points (B, K, 2).

    Both are in input pixels; NaN stays NaN.
    """
    maps = encode_heatmaps(points_xy_input, task.input_hw, task.stride, task.sigma_px)
    decoded, _ = task.decode(as_logits(maps) if task.loss_name == "kl" else maps)
    return torch.where(torch.isnan(points_xy_input), points_xy_input, decoded)


def _measure(samples: Samples, task: LandmarkTask, affines: list[FloatArray]) -> DecodingError:
    """Map the annotated points to the input, encode and decode them, and compare in the original image.

    `affines` map each image to its input, (1, 2, 3), or to the crop of each landmark, (K, 2, 3).
    """
    decoded_xy_image = []
    for points_xy_image, image_affines in zip(samples.points_xy_image, affines, strict=True):
        point_affines = np.broadcast_to(image_affines, (len(points_xy_image), 2, 3))
        pairs = list(zip(point_affines, points_xy_image.astype(np.float64), strict=True))
        points_xy_input = np.stack([apply_affine(affine, point) for affine, point in pairs])
        decoded_xy_input = decode_truth(torch.from_numpy(points_xy_input[None]).float(), task)[0]
        mapped = [
            apply_affine(invert_affine(affine), point) if np.isfinite(affine).all() else np.full(2, np.nan)
            for affine, point in zip(point_affines, decoded_xy_input.double().numpy(), strict=True)
        ]
        decoded_xy_image.append(np.stack(mapped))
    errors = radial_errors(np.stack(decoded_xy_image), samples.points_xy_image, samples.mm_per_px_xy)
    summary = summarize(errors)
    return DecodingError(summary["mre_px"], summary["mre_mm"], len(samples))


def _thin_out(samples: Samples) -> Samples:
    """Take MAX_IMAGES samples, evenly spaced, if there are more."""
    if len(samples) <= MAX_IMAGES:
        return samples
    return samples.take(np.linspace(0, len(samples) - 1, MAX_IMAGES).round().astype(int).tolist())


def _names(samples: Samples) -> tuple[str, ...]:
    return tuple(map(str, range(samples.points_xy_image.shape[1])))
