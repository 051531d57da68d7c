"""The second network: from a crop of the full image around each landmark, a map of the landmark's place.

One network serves all landmarks. An embedding at the bottleneck says which landmark a crop shows, and each
landmark's map has readout weights of its own. Shape letters: B images, K landmarks, C channels, h x w crop
pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.blocks import init_weights, interpolate
from models.heads import resize_to_stride
from models.unet import UNetTrunk

WIDTHS = (24, 48, 96, 144, 192)
TRUNK_STRIDE = 2


class CropNetwork(UNetTrunk):
    """A narrow U-Net on crops (B, K, 3, h, w), the k-th one around landmark k -> (B, K, h/stride, w/stride).

    With a `side` it sees each crop shrunk to side x side pixels, a multiple of 32; its maps are enlarged
    again.
    """

    def __init__(self, num_landmarks: int, output_stride: int, side: int | None = None) -> None:
        super().__init__(WIDTHS)
        init_weights(self)
        self.output_stride = output_stride
        self.side = side
        self.embedding = nn.Parameter(torch.randn(num_landmarks, WIDTHS[-1]) * 0.1)
        self.readout = nn.Parameter(torch.randn(num_landmarks, WIDTHS[0]) * 0.001)
        self.bias = nn.Parameter(torch.zeros(num_landmarks))

    def forward(self, crops: Tensor) -> Tensor:
        num_images, num_landmarks = crops.shape[:2]
        pictures = _shrink(crops.flatten(0, 1), self.side)
        levels = self.encode(pictures.contiguous(memory_format=torch.channels_last))
        embedding = self.embedding.repeat(num_images, 1)[:, :, None, None]
        features = self.decode([*levels[:-1], levels[-1] + embedding])
        features = features.view(num_images, num_landmarks, *features.shape[1:])
        # in inference mode, autocast does not cast what goes into an einsum
        readout = self.readout.to(features.dtype)
        maps = torch.einsum("bkchw,kc->bkhw", features, readout) + self.bias[:, None, None]
        maps = resize_to_stride(maps, TRUNK_STRIDE, self.output_stride)
        return _enlarge(maps, crops.shape[-2] // self.output_stride, crops.shape[-1] // self.output_stride)


def _shrink(pictures: Tensor, side: int | None) -> Tensor:
    if side is None or pictures.shape[-2:] == (side, side):
        return pictures
    return interpolate(pictures, size=(side, side), mode="bilinear", align_corners=False, antialias=True)


def _enlarge(maps: Tensor, height: int, width: int) -> Tensor:
    if maps.shape[-2:] == (height, width):
        return maps
    return interpolate(maps, size=(height, width), mode="bilinear", align_corners=False)


class Refiner(nn.Module):
    """Several crop networks, each trained on crops of its own; the prediction is the mean of their maps.

    `forward(crops: (B, K, 3, h, w)) -> (B, K, h/output_stride, w/output_stride)`, raw maps; h and w are
    multiples of 32. In training mode it takes (B, num_members * K, 3, h, w) and returns as many maps: the
    first K crops are the first member's, and so on. Networks that learn from different random crops make less
    similar errors, so that their mean gains more. Members see crops shrunk to `sides` pixels, taken in turn;
    if `sides` is empty, all see the crops as they are.
    """

    def __init__(
        self, num_landmarks: int, num_members: int = 1, output_stride: int = 2, sides: Sequence[int] = ()
    ) -> None:
        super().__init__()
        self.members = nn.ModuleList(
            CropNetwork(num_landmarks, output_stride, sides[number % len(sides)] if sides else None)
            for number in range(num_members)
        )

    def forward(self, crops: Tensor) -> Tensor:
        if not self.training:
            return torch.stack([member(crops) for member in self.members]).mean(0)
        parts = crops.chunk(len(self.members), dim=1)
        return torch.cat([member(part) for member, part in zip(self.members, parts, strict=True)], dim=1)
