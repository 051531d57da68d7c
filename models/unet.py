"""U-Net with batch norm and bilinear up-sampling.

Ronneberger, Fischer, Brox, "U-Net: convolutional networks for biomedical image segmentation", MICCAI 2015.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.blocks import check_image_size, conv_bn_relu, init_weights, upsample
from models.heads import HeatmapHead


class UNet(nn.Module):
    """Levels of 64, 128, 256, 512 and 512 channels at strides 2 to 32: 17.3 M parameters.

    The stem is a 5x5 convolution of stride 2, so the finest level costs a quarter of a full-size one.

    (B, 3, H, W) -> (B, K, H/output_stride, W/output_stride), raw maps. H and W are multiples of 32.
    """

    def __init__(self, num_landmarks: int, output_stride: int = 4) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn_relu(3, 64, kernel=5, stride=2), conv_bn_relu(64, 64))
        self.downs = nn.ModuleList([_down(64, 128), _down(128, 256), _down(256, 512), _down(512, 512)])
        self.ups = nn.ModuleList([Up(512, 512, 256), Up(256, 256, 128), Up(128, 128, 64), Up(64, 64, 64)])
        init_weights(self)
        self.head = HeatmapHead(64, num_landmarks, trunk_stride=2, output_stride=output_stride)

    def encode(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> the five levels, (B, 64, H/2, W/2) to (B, 512, H/32, W/32)."""
        levels: list[Tensor] = [self.stem(images)]
        for down in self.downs:
            levels.append(down(levels[-1]))
        return levels

    def decode(self, levels: list[Tensor]) -> Tensor:
        """The five levels -> (B, 64, H/2, W/2)."""
        features = levels[-1]
        for up, skip in zip(self.ups, levels[-2::-1], strict=True):
            features = up(features, skip)
        return features

    def forward(self, images: Tensor) -> Tensor:
        check_image_size(images)
        features = self.decode(self.encode(images))
        maps: Tensor = self.head(features)
        return maps


class Up(nn.Module):
    """Doubles the size, joins the skip, two convolutions.

    Features (B, in_channels, h, w) and skip (B, skip_channels, 2h, 2w) -> (B, out_channels, 2h, 2w).
    """

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        mid_channels = (in_channels + skip_channels) // 2
        self.upsample = upsample(2)
        self.convs = _double_conv(in_channels + skip_channels, mid_channels, out_channels)

    def forward(self, features: Tensor, skip: Tensor) -> Tensor:
        out: Tensor = self.convs(torch.cat([skip, self.upsample(features)], dim=1))
        return out


def _double_conv(in_channels: int, mid_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(conv_bn_relu(in_channels, mid_channels), conv_bn_relu(mid_channels, out_channels))


def _down(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(nn.MaxPool2d(2), _double_conv(in_channels, out_channels, out_channels))
