"""Heatmap regression of landmarks: the loss, the decoding to points in the original image, and the scores.

The same on whole images and on crops: a batch has the affine from the input of each landmark to the original
image.
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
    points_to_cells,
    spread_of_maps,
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
    """N images, K landmarks."""

    points_xy_image: FloatArray  # (N, K, 2) original pixels
    confidence: FloatArray  # (N, K) in 0..1
    # (N, K, 2) the first network's, where a second one refined them
    unrefined_xy_image: FloatArray | None = None
    # (N, K, 2, 2) square pixels, the uncertainty of the points, where it was requested
    spread_xy_image: FloatArray | None = None
    # (N, K, 2) the networks' own, where the shape prior moved them
    unshaped_xy_image: FloatArray | None = None


def concatenate_predictions(parts: Sequence[Predictions]) -> Predictions:
    """The predictions of several batches of images as one."""
    return _join(parts, np.concatenate)


def mean_predictions(answers: Sequence[Predictions]) -> Predictions:
    """Several predictions of the same images as one."""
    return _join(answers, _mean)


def _mean(answers: list[FloatArray]) -> FloatArray:
    result: FloatArray = np.mean(answers, axis=0)
    return result


def _join(parts: Sequence[Predictions], how: Callable[[list[FloatArray]], FloatArray]) -> Predictions:
    columns = {each.name: [getattr(part, each.name) for part in parts] for each in fields(Predictions)}
    return Predictions(**{name: how(found) for name, found in columns.items() if found[0] is not None})


@dataclass(frozen=True)
class LandmarkTask:
    """Heatmap regression of K named landmarks on inputs of `input_hw` pixels."""

    landmark_names: Sequence[str]
    input_hw: Size
    stride: int
    sigma_px: float
    loss_name: str
    decoder: str

    def compute_loss(self, outputs: Tensor | list[Tensor], batch: Batch) -> Tensor:
        """Scalar mean over the visible landmarks; a list of stacks is supervised stack by stack."""
        points = batch.points_xy_input
        visible = inside_heatmap(points, self.input_hw)
        targets = encode_heatmaps(points, self.input_hw, self.stride, self.sigma_px)
        stacks = outputs if isinstance(outputs, list) else [outputs]
        losses = [self._loss_of_maps(maps, targets, points, visible) for maps in stacks]
        return torch.stack(losses).mean()

    def count_targets(self, batch: Batch) -> int:
        """The number of visible landmarks, over which the loss is a mean."""
        return int(inside_heatmap(batch.points_xy_input, self.input_hw).sum())

    def _loss_of_maps(self, maps: Tensor, targets: Tensor, points: Tensor, visible: Tensor) -> Tensor:
        if self.loss_name == "kl":
            return kl(maps, targets, points_to_cells(points, self.stride), visible)
        return {"adaptive_wing": adaptive_wing, "mse": mse}[self.loss_name](maps, targets, visible)

    def predict(self, heatmaps: Tensor, batch: Batch) -> Predictions:
        """Final maps (B, K, h, w) -> points in the original images."""
        points_xy_input, confidence = self.decode(heatmaps)
        points = points_xy_input.double().cpu()
        affine = batch.affine_input_to_image  # one for all landmarks of an image, or one each
        mapped = (affine[..., :2] @ points[..., None])[..., 0] + affine[..., 2]
        return Predictions(mapped.numpy(), confidence.cpu().numpy())

    def decode(self, heatmaps: Tensor) -> tuple[Tensor, Tensor]:
        """Final maps (B, K, h, w) -> points (B, K, 2) in input pixels and confidence (B, K) in 0..1.

        Maps of `kl` are logits, others have a peak of 1: they are converted where the decoder expects the
        other kind. Confidence is that of the loss's own decoder.
        """
        if (self.loss_name == "kl") == (self.decoder == "expectation"):
            return decode_heatmaps(heatmaps, self.stride, self.decoder)
        readable = self.display_maps(heatmaps) if self.loss_name == "kl" else as_logits(heatmaps)
        points_xy_input, _ = decode_heatmaps(readable, self.stride, self.decoder)
        _, confidence = decode_heatmaps(heatmaps, self.stride, DECODER_OF_LOSS[self.loss_name])
        return points_xy_input, confidence

    def spread(self, heatmaps: Tensor, batch: Batch) -> FloatArray:
        """(B, K, 2, 2) square pixels of the original images: the uncertainty of points from maps of `kl`."""
        to_image = batch.affine_input_to_image[..., :2].double().cpu()
        in_input = spread_of_maps(heatmaps, self.stride, self.sigma_px)
        spread: FloatArray = (to_image @ in_input @ to_image.mT).numpy()
        return spread

    def display_maps(self, heatmaps: Tensor) -> Tensor:
        """Maps (B, K, h, w) in 0..1 for display: a `kl` map as its probabilities over their peak."""
        if self.loss_name != "kl":
            return heatmaps.clamp(0, 1)
        return torch.exp(heatmaps - heatmaps.amax((-2, -1), keepdim=True))

    def small_maps(self, heatmaps: Tensor, batch: Batch) -> tuple[npt.NDArray[np.uint8], FloatArray]:
        """Maps for display, (B, K, h, w) uint8, and the affines from their cells to original pixels, (B, 1,
        2, 3), or (B, K, 2, 3) for crops."""
        stride = float(self.stride)
        to_image = [
            [compose(affine, scaling(stride, stride)) for affine in affines]
            for affines in batch.affine_input_to_image.numpy()
        ]
        return (self.display_maps(heatmaps) * 255).round().to(torch.uint8).cpu().numpy(), np.array(to_image)

    def contrast(self, heatmaps: Tensor) -> FloatArray:
        """(B, K) in 0..1: the peak of a map less its mean; 0 is a flat map, under any loss."""
        maps = self.display_maps(heatmaps)
        difference: FloatArray = (maps.amax((-2, -1)) - maps.mean((-2, -1))).cpu().numpy()
        return difference

    def new_scorer(self) -> LandmarkScorer:
        return LandmarkScorer(self)


@dataclass
class LandmarkScorer:
    """Collects predictions batch by batch and computes metrics."""

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

    def errors(self) -> RadialErrors:
        return radial_errors(
            *(np.concatenate(part) for part in (self._predicted, self._true, self._spacings))
        )

    def evidence(self) -> Evidence:
        """What the health checks need of predictions on whole images."""
        to_input = [invert_affine(affine) for (affine,) in np.concatenate(self._affines)]

        def in_input(parts: list[FloatArray]) -> FloatArray:
            pairs = zip(to_input, np.concatenate(parts), strict=True)
            return np.stack([apply_affine(affine, points) for affine, points in pairs])

        return Evidence(in_input(self._predicted), in_input(self._true), np.concatenate(self._contrast))

    def metrics(self) -> dict[str, float | int | None]:
        """`mre_px`, `mre_mm`, `sdr_2mm` ..., and `mre_px/<landmark>`, `mre_mm/<landmark>`; those in mm only
        where every image has a pixel size."""
        errors = in_one_unit(self.errors())
        named = summarize_per_landmark(errors, self.task.landmark_names)
        result = summarize(errors)
        for unit in ("px", "mm"):
            result |= {f"mre_{unit}/{name}": summary[f"mre_{unit}"] for name, summary in named.items()}
        return result
