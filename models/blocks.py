"""Building blocks that several networks share, their initialization, and the check of the image size.

Shape letters: B samples, C channels, H x W input pixels, h x w cells.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIZE_MULTIPLE = 32
"""Height and width of an image must be multiples of this many pixels: networks halve them five times."""


def check_image_size(images: Tensor) -> None:
    """Raise ValueError if the height or width of images (B, 3, H, W) is not a multiple of `SIZE_MULTIPLE`.

    The message names each such side, and the nearest sizes that fit.
    """
    height, width = images.shape[-2:]
    problems = []
    for side, size in (("height", height), ("width", width)):
        if size < SIZE_MULTIPLE or size % SIZE_MULTIPLE:
            below = size // SIZE_MULTIPLE * SIZE_MULTIPLE
            nearest = f"{below} or {below + SIZE_MULTIPLE}" if below else f"{SIZE_MULTIPLE}"
            problems.append(f"{side} {size} is not a multiple of {SIZE_MULTIPLE}; use {nearest}")
    if problems:
        raise ValueError(". ".join(problems))


def conv1x1(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """Build a 1x1 convolution without bias, for use before a batch norm."""
    return nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)


def conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """Build a 3x3 convolution without bias, padded so that stride 1 keeps the size."""
    return nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)


def conv_bn_relu(in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Build a convolution with an odd kernel, batch norm and ReLU.

    (B, in_channels, h, w) -> (B, out_channels, h/stride, w/stride).
    """
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def interpolate(maps: Tensor, **kwargs: Any) -> Tensor:
    """Resize maps (B, C, h, w) by `F.interpolate(maps, **kwargs)`, in their own dtype.

    Under CUDA autocast F.interpolate would compute in float32, under the CPU's it would not. In their own
    dtype, a GPU writes half the bytes, and a step takes the memory that a trace on a CPU predicts.
    """
    with _without_autocast(maps.device.type):
        return F.interpolate(maps, **kwargs)


def _without_autocast(device_type: str) -> AbstractContextManager[Any]:
    if not torch.amp.is_autocast_available(device_type):  # meta tensors have no autocast
        return nullcontext()
    return torch.autocast(device_type, enabled=False)


class Upsample(nn.Module):
    """Enlarges maps by a whole factor, bilinear; a cell at x goes to (x + 0.5) * factor - 0.5."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, features: Tensor) -> Tensor:
        return interpolate(features, scale_factor=self.factor, mode="bilinear", align_corners=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: (B, in_channels, h, w) -> (B, out_channels, h/stride, w/stride).

    He et al., "Deep residual learning for image recognition", CVPR 2016. The layers are named as in
    torchvision, whose weights load (see resnet.py), also the shortcut, `downsample`.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, out_channels, stride)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = conv3x3(out_channels, out_channels)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _build_shortcut(in_channels, out_channels, stride)

    def forward(self, features: Tensor) -> Tensor:
        residual = self.relu(self.bn1(self.conv1(features)))
        residual = self.bn2(self.conv2(residual))
        out: Tensor = self.relu(residual + self.downsample(features))
        return out


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut: (B, in_channels, h, w) -> (B, out_channels, h, w).

    He et al., CVPR 2016. `mid_channels` is the width of the 3x3 convolution.
    """

    def __init__(self, in_channels: int, mid_channels: int, out_channels: int) -> None:
        super().__init__()
        self.reduce = conv_bn_relu(in_channels, mid_channels, kernel=1)
        self.conv = conv_bn_relu(mid_channels, mid_channels)
        self.expand = nn.Sequential(conv1x1(mid_channels, out_channels), nn.BatchNorm2d(out_channels))
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _build_shortcut(in_channels, out_channels, stride=1)

    def forward(self, features: Tensor) -> Tensor:
        residual = self.expand(self.conv(self.reduce(features)))
        out: Tensor = self.relu(residual + self.downsample(features))
        return out


def _build_shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Build what brings a block's input to the shape of its result, to be added to it."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(conv1x1(in_channels, out_channels, stride), nn.BatchNorm2d(out_channels))


def init_weights(network: nn.Module) -> None:
    """Give convolutions Kaiming-normal weights and no bias, and batch norms scale 1 and shift 0.

    Heads set their own weights later.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
