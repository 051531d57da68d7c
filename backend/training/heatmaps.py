"""Encode points as heatmaps, and decode heatmaps to points.

Shapes: B samples, K landmarks, h x w cells. The center of cell c lies at (c + 0.5) * stride - 0.5 input
pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from backend.geometry import Size

EXPECTATION_RADIUS_CELLS = 7
LEAST_SPREAD_CELLS = 1 / 6  # standard deviation: the least uncertainty of a map
DARK_BLUR_CELLS = 1.0
LEAST_HEIGHT = 1e-37  # of a map, before its logarithm
DECODERS = ("dark", "expectation", "argmax")


def points_to_cells(points_xy_input: Tensor, stride: int) -> Tensor:
    """Convert points from input pixels to heatmap cells, in the same shape."""
    return (points_xy_input + 0.5) / stride - 0.5


def cells_to_points(points_xy_heatmap: Tensor, stride: int) -> Tensor:
    """Convert points from heatmap cells to input pixels, in the same shape."""
    return (points_xy_heatmap + 0.5) * stride - 0.5


def inside_heatmap(points_xy_input: Tensor, size_hw: Size) -> Tensor:
    """Whether points (B, K, 2) are annotated and lie within the input of `size_hw` pixels: (B, K) bool."""
    x, y = points_xy_input.unbind(-1)
    return (x >= -0.5) & (x <= size_hw[1] - 0.5) & (y >= -0.5) & (y <= size_hw[0] - 0.5)


def encode_heatmaps(points_xy_input: Tensor, size_hw: Size, stride: int, sigma_px: float) -> Tensor:
    """Draw a Gaussian of peak 1 about each point (B, K, 2); centers lie between cells, too.

    `size_hw` is the input's size and `sigma_px` is in input pixels. Returns (B, K, h, w) float32 on the
    points' device. A NaN point gives a map of zeros: mask it by `inside_heatmap`.
    """
    centers = points_to_cells(points_xy_input.float(), stride)
    sigma_cells = sigma_px / stride
    height, width = size_hw[0] // stride, size_hw[1] // stride
    columns = torch.arange(width, device=centers.device)
    rows = torch.arange(height, device=centers.device)
    gauss_x = torch.exp(-0.5 * ((columns - centers[..., 0:1]) / sigma_cells) ** 2)
    gauss_y = torch.exp(-0.5 * ((rows - centers[..., 1:2]) / sigma_cells) ** 2)
    return torch.nan_to_num(gauss_y[..., :, None] * gauss_x[..., None, :], nan=0.0)


def decode_heatmaps(heatmaps: Tensor, stride: int, decoder: str) -> tuple[Tensor, Tensor]:
    """Find points (B, K, 2) in input pixels, and their confidence (B, K) in 0..1, in heatmaps (B, K, h, w).

    `dark` and `argmax` read maps of peak 1 (adaptive wing, mse): confidence is the height of the peak.
    `expectation` reads logits (kl): confidence is the probability within 7 cells of the peak.
    """
    heatmaps = heatmaps.float()
    if decoder == "expectation":
        cells, confidence = _local_expectation(heatmaps)
    elif decoder == "dark":
        cells, confidence = _dark(heatmaps)
    elif decoder == "argmax":
        cells, confidence = _peak(heatmaps)
    else:
        raise ValueError(f"decoder {decoder!r}: known are {', '.join(DECODERS)}")
    return cells_to_points(cells, stride), confidence


def as_logits(heatmaps: Tensor) -> Tensor:
    """Convert maps of peak 1 to logits, whose softmax is proportional to them."""
    return heatmaps.float().clamp(min=LEAST_HEIGHT).log()


def spatial_softmax(logits: Tensor) -> Tensor:
    """Convert logits (B, K, h, w) to probabilities that sum to 1 over the cells of each map."""
    return logits.flatten(2).softmax(-1).view_as(logits)


def expectation(probabilities: Tensor) -> Tensor:
    """Return the mean position (B, K, 2), in cells, of maps (B, K, h, w) that sum to 1."""
    columns = torch.arange(probabilities.shape[-1], device=probabilities.device, dtype=probabilities.dtype)
    rows = torch.arange(probabilities.shape[-2], device=probabilities.device, dtype=probabilities.dtype)
    return torch.stack(
        [(probabilities.sum(-2) * columns).sum(-1), (probabilities.sum(-1) * rows).sum(-1)], dim=-1
    )


def measure_spread(logits: Tensor, stride: int, sigma_px: float) -> Tensor:
    """Return the uncertainty of maps of `kl` (B, K, h, w): covariances (B, K, 2, 2), square input pixels.

    Such a map learns the probability that the landmark is in a cell, blurred by the target's Gaussian, whose
    variance is subtracted.
    """
    window, _ = _window_about_peak(logits.float())
    mean = expectation(window)
    from_x = torch.arange(window.shape[-1], device=window.device) - mean[..., 0:1]
    from_y = torch.arange(window.shape[-2], device=window.device) - mean[..., 1:2]
    xx = (window.sum(-2) * from_x**2).sum(-1)
    yy = (window.sum(-1) * from_y**2).sum(-1)
    xy = (window * (from_y[..., :, None] * from_x[..., None, :])).sum((-2, -1))
    covariance = torch.stack([xx, xy, xy, yy], dim=-1).view(*xx.shape, 2, 2).double().cpu()
    target = (sigma_px / stride) ** 2
    variances, axes = torch.linalg.eigh(covariance)
    variances = (variances - target).clamp(min=LEAST_SPREAD_CELLS**2)
    spread: Tensor = (axes * variances[..., None, :]) @ axes.mT * stride**2
    return spread


def _argmax_cells(heatmaps: Tensor) -> Tensor:
    """Return column and row of each map's largest cell: (B, K, 2) long."""
    width = heatmaps.shape[-1]
    flat = heatmaps.flatten(2).argmax(-1)
    return torch.stack([flat % width, flat // width], dim=-1)


def _peak(heatmaps: Tensor) -> tuple[Tensor, Tensor]:
    return _argmax_cells(heatmaps).float(), heatmaps.flatten(2).amax(-1).clamp(0, 1)


def _local_expectation(logits: Tensor) -> tuple[Tensor, Tensor]:
    window, mass = _window_about_peak(logits)
    return expectation(window), mass.clamp(0, 1)


def _window_about_peak(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the probabilities (B, K, h, w) near each map's peak, and their share (B, K) of the whole map.

    The probabilities are scaled to sum to 1.
    """
    probabilities = spatial_softmax(logits)
    peak = _argmax_cells(logits)
    columns = torch.arange(logits.shape[-1], device=logits.device)
    rows = torch.arange(logits.shape[-2], device=logits.device)
    near_x = (columns - peak[..., 0:1]).abs() <= EXPECTATION_RADIUS_CELLS
    near_y = (rows - peak[..., 1:2]).abs() <= EXPECTATION_RADIUS_CELLS
    window = probabilities * (near_y[..., :, None] & near_x[..., None, :])
    mass = window.sum((-2, -1))
    return window / mass[..., None, None], mass


def _dark(heatmaps: Tensor) -> tuple[Tensor, Tensor]:
    """Find each peak by blur, logarithm and one Newton step; return cells (B, K, 2) and confidence (B, K).

    The logarithm of a Gaussian is a parabola, so central differences and one step find its center exactly;
    blurring only widens it, and reduces the noise that the logarithm would amplify (Zhang et al. 2020,
    "Distribution-aware coordinate representation").
    """
    confidence = heatmaps.flatten(2).amax(-1).clamp(0, 1)
    log_maps = _blur(heatmaps.clamp(min=0)).clamp(min=1e-10).log()
    height, width = log_maps.shape[-2:]
    peak = _argmax_cells(log_maps)
    x = peak[..., 0].clamp(1, width - 2)
    y = peak[..., 1].clamp(1, height - 2)
    flat = log_maps.flatten(2)

    def at(dx: int, dy: int) -> Tensor:
        return flat.gather(-1, ((y + dy) * width + x + dx)[..., None])[..., 0]

    gradient = torch.stack([(at(1, 0) - at(-1, 0)) / 2, (at(0, 1) - at(0, -1)) / 2], dim=-1)
    d_xx = at(1, 0) - 2 * at(0, 0) + at(-1, 0)
    d_yy = at(0, 1) - 2 * at(0, 0) + at(0, -1)
    d_xy = (at(1, 1) - at(1, -1) - at(-1, 1) + at(-1, -1)) / 4
    determinant = d_xx * d_yy - d_xy**2
    is_peak = (determinant > 1e-6) & (d_xx < 0)
    safe = torch.where(is_peak, determinant, torch.ones_like(determinant))
    step = torch.stack(
        [
            -(d_yy * gradient[..., 0] - d_xy * gradient[..., 1]) / safe,
            -(d_xx * gradient[..., 1] - d_xy * gradient[..., 0]) / safe,
        ],
        dim=-1,
    )
    center = torch.stack([x, y], dim=-1).float()
    refined = center + step.clamp(-1.5, 1.5)
    return torch.where(is_peak[..., None], refined, peak.float()), confidence


def _blur(heatmaps: Tensor) -> Tensor:
    radius = int(3 * DARK_BLUR_CELLS)
    offsets = torch.arange(-radius, radius + 1, device=heatmaps.device, dtype=heatmaps.dtype)
    kernel = torch.exp(-0.5 * (offsets / DARK_BLUR_CELLS) ** 2)
    kernel = kernel / kernel.sum()
    maps = heatmaps.flatten(0, 1)[:, None]
    maps = F.conv2d(maps, kernel.view(1, 1, 1, -1), padding=(0, radius))
    maps = F.conv2d(maps, kernel.view(1, 1, -1, 1), padding=(radius, 0))
    return maps[:, 0].view_as(heatmaps)
