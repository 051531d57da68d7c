"""Losses on heatmaps, over the visible landmarks alone. All are computed in float32.

Shapes: heatmaps and targets (B, K, h, w), visible (B, K) bool. Each returns a scalar; if nothing is visible,
a zero that still carries gradients.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from backend.training.heatmaps import expectation, spatial_softmax

ALPHA, OMEGA, EPSILON, THETA = 2.1, 14.0, 1.0, 0.5
FOREGROUND_THRESHOLD, FOREGROUND_WEIGHT = 0.2, 10.0
EXPECTATION_WEIGHT = 0.2


def adaptive_wing(heatmaps: Tensor, targets: Tensor, visible: Tensor) -> Tensor:
    """Return the adaptive wing loss with its weighted map (Wang, Bo, Fuxin 2019), a mean over cells.

    For errors below theta it is omega * ln(1 + |e / epsilon| ** (alpha - target)), steep near the peak and
    mild in the background; above, a line that continues it. Cells whose 3 x 3 dilated target exceeds 0.2
    weigh 1 + 10.
    """
    heatmaps, targets = heatmaps.float(), targets.float()
    error = (targets - heatmaps).abs()
    power = ALPHA - targets
    ratio = (THETA / EPSILON) ** power
    slope = OMEGA / EPSILON / (1 + ratio) * power * (THETA / EPSILON) ** (power - 1)
    offset = THETA * slope - OMEGA * torch.log1p(ratio)
    # the power's gradient at an error of zero is 0 ** positive: finite, since alpha - target >= 1.1
    curved = OMEGA * torch.log1p((error / EPSILON) ** power)
    loss = torch.where(error < THETA, curved, slope * error - offset)
    foreground = F.max_pool2d(targets, 3, stride=1, padding=1) > FOREGROUND_THRESHOLD
    return _masked_mean(loss * (1 + FOREGROUND_WEIGHT * foreground), visible)


def mse(heatmaps: Tensor, targets: Tensor, visible: Tensor) -> Tensor:
    """Return the squared error, balanced, a mean over cells.

    Each cell weighs 1 + target * cells / sum(target), so that a landmark's Gaussian counts as much as the
    rest of the map. Unweighted, a Gaussian of some five cells in ten thousand has no effect: training ends at
    a map of zeros, whose error is as small as 1e-4 (see docs/method-and-measurements.md).
    """
    heatmaps, targets = heatmaps.float(), targets.float()
    num_cells = targets.shape[-2] * targets.shape[-1]
    weights = 1 + targets * (num_cells / targets.sum((-2, -1), keepdim=True).clamp(min=1e-6))
    return _masked_mean(weights * (heatmaps - targets) ** 2, visible)


def kl(logits: Tensor, targets: Tensor, centres_xy_heatmap: Tensor, visible: Tensor) -> Tensor:
    """Return the divergence of the spatial softmax from the normalized Gaussian, plus 0.2 x L1 of its mean.

    It is the cross-entropy less the entropy of the target, the Kullback-Leibler divergence: the gradients are
    the same, and a perfect prediction scores 0. `centres_xy_heatmap` (B, K, 2) in cells; NaN if missing. The
    second term is in cells (Nibali et al. 2018 regularize the other way round).
    """
    logits = logits.float()
    distribution = targets.float() / targets.float().sum((-2, -1), keepdim=True).clamp(min=1e-12)
    log_probabilities = logits.flatten(2).log_softmax(-1).view_as(logits)
    divergence = (torch.xlogy(distribution, distribution) - distribution * log_probabilities).sum((-2, -1))
    means = expectation(spatial_softmax(logits))
    centres = torch.where(visible[..., None], centres_xy_heatmap, means.detach())
    distance = (means - centres).abs().sum(-1)
    return _mean_of_visible(divergence + EXPECTATION_WEIGHT * distance, visible)


def _masked_mean(cells: Tensor, visible: Tensor) -> Tensor:
    return _mean_of_visible(cells.mean((-2, -1)), visible)


def _mean_of_visible(per_landmark: Tensor, visible: Tensor) -> Tensor:
    weights = visible.to(per_landmark.dtype)
    return (per_landmark * weights).sum() / weights.sum().clamp(min=1)
