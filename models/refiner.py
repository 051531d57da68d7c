"""The second network: it looks at a crop of the full image about each landmark and corrects where it stands.

One network for all landmarks. It is told which one it sees by an embedding at the bottleneck, and reads that
landmark's map out by weights of its own. Shape letters: B images, K landmarks, C channels, h x w crop pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.blocks import init_weights
from models.heads import resize_to_stride
from models.unet import UNetTrunk

WIDTHS = (24, 48, 96, 144, 192)
TRUNK_STRIDE = 2


class CropNetwork(UNetTrunk):
    """A narrow U-Net on crops (B, K, 3, h, w), the k-th one about landmark k -> (B, K, h/stride, w/stride)."""

    def __init__(self, num_landmarks: int, output_stride: int) -> None:
        super().__init__(WIDTHS)
        init_weights(self)
        self.output_stride = output_stride
        self.embedding = nn.Parameter(torch.randn(num_landmarks, WIDTHS[-1]) * 0.1)
        self.readout = nn.Parameter(torch.randn(num_landmarks, WIDTHS[0]) * 0.001)
        self.bias = nn.Parameter(torch.zeros(num_landmarks))

    def forward(self, crops: Tensor) -> Tensor:
        num_images, num_landmarks = crops.shape[:2]
        levels = self.encode(crops.flatten(0, 1).contiguous(memory_format=torch.channels_last))
        which = self.embedding.repeat(num_images, 1)[:, :, None, None]
        features = self.decode([*levels[:-1], levels[-1] + which])
        features = features.view(num_images, num_landmarks, *features.shape[1:])
        readout = self.readout.to(features.dtype)  # autocast does not see into an einsum in inference mode
        maps = torch.einsum("bkchw,kc->bkhw", features, readout) + self.bias[:, None, None]
        return resize_to_stride(maps, TRUNK_STRIDE, self.output_stride)


class Refiner(nn.Module):
    """Several crop networks, each trained for itself on the same crops; together they predict the mean of their maps.

    `forward(crops: (B, K, 3, h, w)) -> (B, K, h/output_stride, w/output_stride)`, raw maps; h and w are multiples
    of 32. In training mode it returns the list of its members' maps.
    """

    def __init__(self, num_landmarks: int, num_members: int = 1, output_stride: int = 2) -> None:
        super().__init__()
        self.members = nn.ModuleList(CropNetwork(num_landmarks, output_stride) for _ in range(num_members))

    def forward(self, crops: Tensor) -> Tensor | list[Tensor]:
        maps = [member(crops) for member in self.members]
        return maps if self.training else torch.stack(maps).mean(0)
