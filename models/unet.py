"""U-Net with batch norm and bilinear up-sampling.

Ronneberger, Fischer, Brox, "U-Net: convolutional networks for biomedical image segmentation", MICCAI 2015.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from models.blocks import Upsample, check_image_size, conv_bn_relu, init_weights
from models.heads import HeatmapHead


class UNetTrunk(nn.Module):
    """Levels of the given widths at strides 2, 4, 8 ..., and the way back to stride 2.

    The stem is a 5x5 convolution of stride 2, so the finest level costs a quarter of a full-size one.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        finest = widths[0]
        self.stem = nn.Sequential(conv_bn_relu(3, finest, kernel=5, stride=2), conv_bn_relu(finest, finest))
        self.downs = nn.ModuleList(_down(finer, coarser) for finer, coarser in pairwise(widths))
        # each step up ends at the width of the level that it joins next; the last one at that of the finest
        skips = widths[-2::-1]
        channels = [widths[-1], *skips[1:], finest]
        self.ups = nn.ModuleList(
            Up(in_channels, skip, out_channels)
            for (in_channels, out_channels), skip in zip(pairwise(channels), skips, strict=True)
        )

    def encode(self, images: Tensor) -> list[Tensor]:
        """Return the levels, (B, widths[0], H/2, W/2) and on to the coarsest, of images (B, 3, H, W)."""
        levels: list[Tensor] = [self.stem(images)]
        for down in self.downs:
            levels.append(down(levels[-1]))
        return levels

    def decode(self, levels: Sequence[Tensor]) -> Tensor:
        """Return features (B, widths[0], H/2, W/2) from the levels."""
        features = levels[-1]
        for up, skip in zip(self.ups, levels[-2::-1], strict=True):
            features = up(features, skip)
        return features


class UNet(UNetTrunk):
    """Levels of 64, 128, 256, 512 and 512 channels at strides 2 to 32: 17.3 M parameters.

    (B, 3, H, W) -> (B, K, H/output_stride, W/output_stride), raw maps. H and W are multiples of 32.
    """

    def __init__(self, num_landmarks: int, output_stride: int = 4) -> None:
        super().__init__((64, 128, 256, 512, 512))
        init_weights(self)
        self.head = HeatmapHead(64, num_landmarks, trunk_stride=2, output_stride=output_stride)

    def forward(self, images: Tensor) -> Tensor:
        check_image_size(images)
        features = self.decode(self.encode(images))
        maps: Tensor = self.head(features)
        return maps


class Up(nn.Module):
    """A step up: doubles the size, joins the skip, and convolves twice.

    Features (B, in_channels, h, w) and skip (B, skip_channels, 2h, 2w) -> (B, out_channels, 2h, 2w).
    """

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        mid_channels = (in_channels + skip_channels) // 2
        self.upsample = Upsample(2)
        self.convs = _double_conv(in_channels + skip_channels, mid_channels, out_channels)

    def forward(self, features: Tensor, skip: Tensor) -> Tensor:
        out: Tensor = self.convs(torch.cat([skip, self.upsample(features)], dim=1))
        return out


def _double_conv(in_channels: int, mid_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(conv_bn_relu(in_channels, mid_channels), conv_bn_relu(mid_channels, out_channels))


def _down(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(nn.MaxPool2d(2), _double_conv(in_channels, out_channels, out_channels))
