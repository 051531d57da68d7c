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
"""Height and width of an image must be multiples of this: the coarsest stride inside a network, in pixels."""


def check_image_size(images: Tensor) -> None:
    """Refuse images (B, 3, H, W) whose height or width is not a multiple of `SIZE_MULTIPLE`.

    Raises:
        ValueError: names each side that does not fit, and the nearest sizes that do.
    """
    height, width = images.shape[-2:]
    problems = []
    for side, size in (("height", height), ("width", width)):
        if size < SIZE_MULTIPLE or size % SIZE_MULTIPLE:
            below = size // SIZE_MULTIPLE * SIZE_MULTIPLE
            nearest = f"{below} and {below + SIZE_MULTIPLE}" if below else f"{SIZE_MULTIPLE}"
            problems.append(f"{side} {size}: multiples of {SIZE_MULTIPLE}, nearest {nearest}")
    if problems:
        raise ValueError("; ".join(problems))


def conv1x1(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """1x1 convolution without bias, for use before a batch norm."""
    return nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)


def conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """3x3 convolution without bias, padded so that stride 1 keeps the size."""
    return nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)


def conv_bn_relu(in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution with an odd kernel, batch norm, ReLU: (B, C, h, w) -> (B, out_channels, h/stride, ...)."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def interpolate(maps: Tensor, **how: Any) -> Tensor:
    """`F.interpolate` of maps (B, C, h, w) in their own dtype, also under autocast. Every network resizes
    with this.

    CUDA's autocast would compute it in float32, the CPU's would not. In one dtype, a step takes the memory
    that a trace on a CPU predicts, and a GPU writes half the bytes.
    """
    with _without_autocast(maps.device.type):
        return F.interpolate(maps, **how)


def _without_autocast(device_type: str) -> AbstractContextManager[Any]:
    if not torch.amp.is_autocast_available(device_type):  # meta tensors have no autocast
        return nullcontext()
    return torch.autocast(device_type, enabled=False)


class Upsample(nn.Module):
    """Bilinear enlargement by a whole factor; a cell at x goes to (x + 0.5) * factor - 0.5."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, features: Tensor) -> Tensor:
        return interpolate(features, scale_factor=self.factor, mode="bilinear", align_corners=False)


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    """What a residual block adds to its result where the shapes differ; None: the input itself."""
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(conv1x1(in_channels, out_channels, stride), nn.BatchNorm2d(out_channels))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: (B, C, h, w) -> (B, out_channels, h/stride, w/stride).

    He et al., "Deep residual learning for image recognition", CVPR 2016. Names as in torchvision.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, out_channels, stride)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = conv3x3(out_channels, out_channels)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(in_channels, out_channels, stride)

    def forward(self, features: Tensor) -> Tensor:
        residual = self.relu(self.bn1(self.conv1(features)))
        residual = self.bn2(self.conv2(residual))
        shortcut = features if self.downsample is None else self.downsample(features)
        out: Tensor = self.relu(residual + shortcut)
        return out


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut: (B, C, h, w) -> (B, out_channels, h, w).

    He et al., CVPR 2016. `mid_channels` is the width of the 3x3 convolution.
    """

    def __init__(self, in_channels: int, mid_channels: int, out_channels: int) -> None:
        super().__init__()
        self.reduce = conv_bn_relu(in_channels, mid_channels, kernel=1)
        self.conv = conv_bn_relu(mid_channels, mid_channels)
        self.expand = nn.Sequential(conv1x1(mid_channels, out_channels), nn.BatchNorm2d(out_channels))
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(in_channels, out_channels, stride=1)

    def forward(self, features: Tensor) -> Tensor:
        residual = self.expand(self.conv(self.reduce(features)))
        shortcut = features if self.downsample is None else self.downsample(features)
        out: Tensor = self.relu(residual + shortcut)
        return out


def init_weights(network: nn.Module) -> None:
    """Kaiming-normal convolutions with zero bias, batch norms at 1 and 0. Heads set their own weights
    later.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
