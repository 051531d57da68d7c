"""The last layers: from a trunk's features to one raw map per landmark, at the output stride.

A change of stride moves a cell at x to x' = (x + 0.5) * s - 0.5, so that cell centers stay where they are
in the image. Shape letters: B samples, C channels, K landmarks, h x w cells.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from models.blocks import interpolate


def map_conv(in_channels: int, num_landmarks: int, bias: bool = True) -> nn.Conv2d:
    """Build a 1x1 convolution to one map per landmark."""
    return nn.Conv2d(in_channels, num_landmarks, 1, bias=bias)


def init_map_conv(conv: nn.Conv2d) -> None:
    """Set weights near zero, so that the first maps are flat."""
    nn.init.normal_(conv.weight, std=0.001)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


def resize_to_stride(maps: Tensor, stride: int, output_stride: int) -> Tensor:
    """Bring maps (B, C, h, w) from one stride to another: bilinear to a finer, averages to a coarser one."""
    if output_stride < stride:
        factor = stride // output_stride
        return interpolate(maps, scale_factor=factor, mode="bilinear", align_corners=False)
    if output_stride > stride:
        return F.avg_pool2d(maps, output_stride // stride)
    return maps


class HeatmapHead(nn.Module):
    """A 1x1 convolution and a change of stride.

    (B, C, h, w) at `trunk_stride` -> (B, K, ...) at `output_stride`. The order of the two does not matter, so
    the convolution runs on the smaller maps.
    """

    def __init__(self, in_channels: int, num_landmarks: int, trunk_stride: int, output_stride: int) -> None:
        super().__init__()
        self.trunk_stride = trunk_stride
        self.output_stride = output_stride
        self.conv = map_conv(in_channels, num_landmarks)
        init_map_conv(self.conv)

    def forward(self, features: Tensor) -> Tensor:
        if self.output_stride > self.trunk_stride:
            features = resize_to_stride(features, self.trunk_stride, self.output_stride)
            maps: Tensor = self.conv(features)
            return maps
        return resize_to_stride(self.conv(features), self.trunk_stride, self.output_stride)


class MultiScaleHead(nn.Module):
    """One linear readout of several resolutions.

    Takes [(B, C0, h, w), (B, C1, h/2, w/2), ...] with h, w at `trunk_stride`; returns (B, K, ...) at
    `output_stride`. HRNetV2 (Sun et al. 2019) enlarges all resolutions and convolves them side by side. Here
    each is convolved before it is enlarged, which gives the same maps and needs no wide one: from the
    coarsest resolution up, K maps are doubled in size and added to the next K.
    """

    def __init__(
        self, in_channels: tuple[int, ...], num_landmarks: int, trunk_stride: int, output_stride: int
    ) -> None:
        super().__init__()
        self.trunk_stride = trunk_stride
        self.output_stride = output_stride
        # one bias is enough: those of the coarser maps would only be added to it
        self.convs = nn.ModuleList(
            map_conv(channels, num_landmarks, bias=level == 0) for level, channels in enumerate(in_channels)
        )
        for conv in self.convs:
            assert isinstance(conv, nn.Conv2d)
            init_map_conv(conv)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        maps: Tensor = self.convs[-1](features[-1])
        for conv, finer in zip(self.convs[-2::-1], features[-2::-1], strict=True):
            maps = resize_to_stride(maps, 2, 1) + conv(finer)
        return resize_to_stride(maps, self.trunk_stride, self.output_stride)
