"""Heatmap regression of landmarks: the loss, the decoding to points in the original image, and the scores.

It is the same on whole images and on crops, since a batch has the affine from the input of each landmark to
the original image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from backend.data.dataset import Batch
from backend.geometry import FloatArray, Size, apply_affine, compose, invert_affine, scaling
from backend.training.health import Evidence
from backend.training.heatmaps import (
    as_logits,
    decode_heatmaps,
    encode_heatmaps,
    inside_heatmap,
    measure_spread,
    points_to_cells,
)
from backend.training.losses import adaptive_wing, kl, mse
from backend.training.metrics import (
    RadialErrors,
    in_one_unit,
    radial_errors,
    summarize,
    summarize_per_landmark,
)

DECODER_OF_LOSS = {"kl": "expectation", "adaptive_wing": "dark", "mse": "dark"}


@dataclass(frozen=True)
class Predictions:
    """The points of N images, K landmarks each."""

    points_xy_image: FloatArray  # (N, K, 2) original pixels
    confidence: FloatArray  # (N, K) in 0..1
    # (N, K, 2) the first network's points, if a second one refined them
    unrefined_xy_image: FloatArray | None = None
    # (N, K, 2, 2) square pixels, the uncertainty of the points, if it was requested
    spread_xy_image: FloatArray | None = None
    # (N, K, 2) the networks' points, if the shape prior moved them
    unshaped_xy_image: FloatArray | None = None


def concatenate_predictions(parts: Sequence[Predictions]) -> Predictions:
    """Join the predictions of several batches of images, one after the other."""
    return _join(parts, np.concatenate)


def mean_predictions(answers: Sequence[Predictions]) -> Predictions:
    """Return the mean of several predictions of the same images."""
    return _join(answers, lambda arrays: np.asarray(np.mean(arrays, axis=0)))


def _join(parts: Sequence[Predictions], join: Callable[[list[FloatArray]], FloatArray]) -> Predictions:
    """Join each field of several predictions; a field that the first one lacks stays empty."""
    arrays = {field.name: [getattr(part, field.name) for part in parts] for field in fields(Predictions)}
    return Predictions(**{name: join(values) for name, values in arrays.items() if values[0] is not None})


@dataclass(frozen=True)
class LandmarkTask:
    """Heatmap regression of K landmarks on inputs of `input_hw` pixels. Implements `Task` (protocols.py)."""

    landmark_names: Sequence[str]
    input_hw: Size
    stride: int
    sigma_px: float
    loss_name: str
    decoder: str

    def compute_loss(self, outputs: Tensor | list[Tensor], batch: Batch) -> Tensor:
        """Return the mean loss over the visible landmarks; a list of stacks is supervised stack by stack."""
        points = batch.points_xy_input
        visible = inside_heatmap(points, self.input_hw)
        targets = encode_heatmaps(points, self.input_hw, self.stride, self.sigma_px)
        stacks = outputs if isinstance(outputs, list) else [outputs]
        losses = [self._compute_map_loss(maps, targets, points, visible) for maps in stacks]
        return torch.stack(losses).mean()

    def _compute_map_loss(self, maps: Tensor, targets: Tensor, points: Tensor, visible: Tensor) -> Tensor:
        if self.loss_name == "kl":
            return kl(maps, targets, points_to_cells(points, self.stride), visible)
        return {"adaptive_wing": adaptive_wing, "mse": mse}[self.loss_name](maps, targets, visible)

    def count_targets(self, batch: Batch) -> int:
        """Return the number of visible landmarks, over which the loss is a mean."""
        return int(inside_heatmap(batch.points_xy_input, self.input_hw).sum())

    def new_scorer(self) -> LandmarkScorer:
        return LandmarkScorer(self)

    def predict(self, heatmaps: Tensor, batch: Batch) -> Predictions:
        """Find the points in the original images from final maps (B, K, h, w)."""
        points_xy_input, confidence = self.decode(heatmaps)
        points = points_xy_input.double().cpu()
        affine = batch.affine_input_to_image  # one for all landmarks of an image, or one each
        mapped = (affine[..., :2] @ points[..., None])[..., 0] + affine[..., 2]
        return Predictions(mapped.numpy(), confidence.cpu().numpy())

    def decode(self, heatmaps: Tensor) -> tuple[Tensor, Tensor]:
        """Find points (B, K, 2) in input pixels, with confidence (B, K) in 0..1, in final maps (B, K, h, w).

        Maps of `kl` are logits, others have a peak of 1: they are converted if the decoder expects the other
        kind. Confidence is that of the loss's own decoder.
        """
        if (self.loss_name == "kl") == (self.decoder == "expectation"):
            return decode_heatmaps(heatmaps, self.stride, self.decoder)
        readable = self.display_maps(heatmaps) if self.loss_name == "kl" else as_logits(heatmaps)
        points_xy_input, _ = decode_heatmaps(readable, self.stride, self.decoder)
        _, confidence = decode_heatmaps(heatmaps, self.stride, DECODER_OF_LOSS[self.loss_name])
        return points_xy_input, confidence

    def spread(self, heatmaps: Tensor, batch: Batch) -> FloatArray:
        """Return covariances (B, K, 2, 2), square original pixels: the uncertainty of maps of `kl`."""
        to_image = batch.affine_input_to_image[..., :2].double().cpu()
        in_input = measure_spread(heatmaps, self.stride, self.sigma_px)
        spread: FloatArray = (to_image @ in_input @ to_image.mT).numpy()
        return spread

    def display_maps(self, heatmaps: Tensor) -> Tensor:
        """Return maps (B, K, h, w) in 0..1 for display: a `kl` map as its probabilities over their peak."""
        if self.loss_name != "kl":
            return heatmaps.clamp(0, 1)
        return torch.exp(heatmaps - heatmaps.amax((-2, -1), keepdim=True))

    def small_maps(self, heatmaps: Tensor, batch: Batch) -> tuple[npt.NDArray[np.uint8], FloatArray]:
        """Return maps for display, (B, K, h, w) uint8, and the affines from their cells to original pixels.

        The affines are (B, 1, 2, 3), or (B, K, 2, 3) for crops.
        """
        stride = float(self.stride)
        to_image = [
            [compose(affine, scaling(stride, stride)) for affine in affines]
            for affines in batch.affine_input_to_image.numpy()
        ]
        return (self.display_maps(heatmaps) * 255).round().to(torch.uint8).cpu().numpy(), np.array(to_image)

    def contrast(self, heatmaps: Tensor) -> FloatArray:
        """Return the peak of each map less its mean, (B, K) in 0..1; 0 is a flat map, under any loss."""
        maps = self.display_maps(heatmaps)
        difference: FloatArray = (maps.amax((-2, -1)) - maps.mean((-2, -1))).cpu().numpy()
        return difference


@dataclass
class LandmarkScorer:
    """Collects predictions batch by batch and computes metrics. Implements `Scorer` (protocols.py)."""

    task: LandmarkTask
    _predicted: list[FloatArray] = field(default_factory=list)
    _true: list[FloatArray] = field(default_factory=list)
    _spacings: list[FloatArray] = field(default_factory=list)
    _affines: list[FloatArray] = field(default_factory=list)
    _contrast: list[FloatArray] = field(default_factory=list)

    def add(self, heatmaps: Tensor, batch: Batch) -> None:
        self._predicted.append(self.task.predict(heatmaps, batch).points_xy_image)
        self._true.append(batch.points_xy_image.numpy())
        self._spacings.append(batch.mm_per_px_xy.numpy())
        self._affines.append(batch.affine_input_to_image.numpy())
        self._contrast.append(self.task.contrast(heatmaps))

    def metrics(self) -> dict[str, float | int | None]:
        """Return `mre_px`, `mre_mm`, `sdr_2mm` ..., and `mre_px/<landmark>`, `mre_mm/<landmark>`.

        Those in mm are None unless every image has a pixel size.
        """
        errors = in_one_unit(self.errors())
        by_landmark = summarize_per_landmark(errors, self.task.landmark_names)
        result = summarize(errors)
        for unit in ("px", "mm"):
            result |= {f"mre_{unit}/{name}": summary[f"mre_{unit}"] for name, summary in by_landmark.items()}
        return result

    def errors(self) -> RadialErrors:
        return radial_errors(
            *(np.concatenate(part) for part in (self._predicted, self._true, self._spacings))
        )

    def evidence(self) -> Evidence:
        """Return what the health checks need of predictions on whole images."""
        to_input = [invert_affine(affine) for (affine,) in np.concatenate(self._affines)]

        def in_input(parts: list[FloatArray]) -> FloatArray:
            pairs = zip(to_input, np.concatenate(parts), strict=True)
            return np.stack([apply_affine(affine, points) for affine, points in pairs])

        return Evidence(in_input(self._predicted), in_input(self._true), np.concatenate(self._contrast))
