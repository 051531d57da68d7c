"""Stacked hourglasses, each supervised.

Newell, Yang, Deng, "Stacked hourglass networks for human pose estimation", ECCV 2016.
Shape letters: B samples, K landmarks, H x W input pixels, h x w cells at stride 4.
"""

from __future__ import annotations

from torch import Tensor, nn

from models.blocks import check_image_size, init_weights, interpolate
from models.heads import init_map_conv, map_conv, resize_to_stride

TRUNK_STRIDE = 4


class StackedHourglass(nn.Module):
    """Three hourglasses of 256 channels and depth 4, one residual per level: 9.7 M parameters.

    (B, 3, H, W) -> (B, K, H/output_stride, W/output_stride), raw maps. H and W are multiples of 32. In
    training mode the result is the list of all stacks' maps, the last one final; each is supervised.
    """

    def __init__(self, num_landmarks: int, output_stride: int = 4) -> None:
        super().__init__()
        self.output_stride = output_stride
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(inplace=True),
            Residual(64, 128),
            nn.MaxPool2d(2),
            Residual(128, 128),
            Residual(128, 256),
        )
        self.stacks = nn.ModuleList(Stack(256, num_landmarks, last=index == 2) for index in range(3))
        init_weights(self)
        for stack in self.stacks:
            assert isinstance(stack, Stack)
            init_map_conv(stack.to_maps)

    def forward(self, images: Tensor) -> Tensor | list[Tensor]:
        check_image_size(images)
        features = self.stem(images)
        all_maps: list[Tensor] = []
        for stack in self.stacks:
            features, maps = stack(features)
            all_maps.append(maps)
        if not self.training:
            return resize_to_stride(all_maps[-1], TRUNK_STRIDE, self.output_stride)
        return [resize_to_stride(maps, TRUNK_STRIDE, self.output_stride) for maps in all_maps]


class Stack(nn.Module):
    """One hourglass and its readout: (B, channels, h, w) -> features of the same shape, maps (B, K, h, w).

    The features for the next stack are the sum of the input, of what is read out, and of the maps, brought
    back to `channels`. After the last stack there is none: its features are its input.
    """

    def __init__(self, channels: int, num_landmarks: int, last: bool) -> None:
        super().__init__()
        self.hourglass = Hourglass(channels, depth=4)
        self.read_out = nn.Sequential(
            Residual(channels, channels),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        )
        self.to_maps = map_conv(channels, num_landmarks)
        self.from_features = None if last else nn.Conv2d(channels, channels, 1)
        self.from_maps = None if last else nn.Conv2d(num_landmarks, channels, 1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        readout = self.read_out(self.hourglass(features))
        maps = self.to_maps(readout)
        if self.from_features is not None and self.from_maps is not None:
            features = features + self.from_features(readout) + self.from_maps(maps)
        return features, maps


class Hourglass(nn.Module):
    """`depth` levels down and up again, with a skip at each: (B, channels, h, w) -> the same shape."""

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        self.skip = Residual(channels, channels)
        # an odd size is rounded up, so that no row is lost and a single cell stays one
        self.pool = nn.MaxPool2d(2, ceil_mode=True)
        self.down = Residual(channels, channels)
        self.inner = Hourglass(channels, depth - 1) if depth > 1 else Residual(channels, channels)
        self.up = Residual(channels, channels)

    def forward(self, features: Tensor) -> Tensor:
        skip: Tensor = self.skip(features)
        lower = self.up(self.inner(self.down(self.pool(features))))
        height, width = skip.shape[-2:]
        # doubled exactly, then cut to the skip's size: stretching to an odd size would shift the cells
        return skip + interpolate(lower, scale_factor=2, mode="nearest")[..., :height, :width]


class Residual(nn.Module):
    """A pre-activation bottleneck: (B, in_channels, h, w) -> (B, out_channels, h, w).

    He et al., "Identity mappings in deep residual networks", ECCV 2016.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        mid_channels = out_channels // 2
        self.convs = nn.Sequential(
            # the input is also the shortcut: the norm makes its own copy, so the ReLU may work in place
            nn.BatchNorm2d(in_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(in_channels, mid_channels, 1, bias=False),
            nn.BatchNorm2d(mid_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(mid_channels, mid_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(mid_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(mid_channels, out_channels, 1),
        )
        same_shape = in_channels == out_channels
        self.shortcut = nn.Identity() if same_shape else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        out: Tensor = self.convs(features) + self.shortcut(features)
        return out
