"""The landmark networks: images in, one raw map per landmark out.

The contract, for all of them, which tests/models/test_models.py checks for every entry of `MODELS`:

- `forward(images: (B, 3, H, W)) -> (B, K, H/output_stride, W/output_stride)`, raw maps without sigmoid or
  softmax. At output stride 2, two 256 x 256 images and 29 landmarks: (2, 3, 256, 256) -> (2, 29, 128, 128).
  In training mode the hourglass returns the list of its stacks' maps instead, the last one final.
- Every output stride in `OUTPUT_STRIDES` is offered; `models.heads.HeatmapHead` goes from a trunk's stride to
  it.
- H and W are multiples of `SIZE_MULTIPLE`; `forward` begins with `models.blocks.check_image_size`, which
  refuses other sizes. `models.blocks.Upsample` and `interpolate` resize maps.
- The first maps are near zero, as `HeatmapHead` makes them: `init_weights(self)` comes before the head is
  built.
- The weights may be in the memory format channels_last, in which they are trained; the result is the same.
- Every parameter gets a gradient, and a shift of the image by 32 pixels shifts the maps.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from models.blocks import SIZE_MULTIPLE
from models.hourglass import StackedHourglass
from models.hrnet import HRNet
from models.resnet import ResNet
from models.unet import UNet

__all__ = ["MODELS", "OUTPUT_STRIDES", "SIZE_MULTIPLE", "build_model"]

MODELS: dict[str, Callable[[int, int], nn.Module]] = {
    "hrnet": HRNet,
    "resnet": ResNet,
    "unet": UNet,
    "hourglass": StackedHourglass,
}
"""Name -> builder, called with (num_landmarks, output_stride); in the order of `backend.config.ModelName`."""

OUTPUT_STRIDES = (1, 2, 4)
"""Input pixels per heatmap cell that every network offers."""


def build_model(name: str, num_landmarks: int, output_stride: int = 4) -> nn.Module:
    """Build the network that `MODELS` has under a name, with random weights.

    `num_landmarks` is K, the number of maps; `output_stride` is one of `OUTPUT_STRIDES`. Raises ValueError
    for an unknown name, another stride, or no landmarks; the message says what fits.
    """
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}: choose one of {', '.join(MODELS)}")
    if num_landmarks < 1:
        raise ValueError(f"num_landmarks must be at least 1, got {num_landmarks}")
    if output_stride not in OUTPUT_STRIDES:
        raise ValueError(
            f"output_stride {output_stride}: choose one of {', '.join(map(str, OUTPUT_STRIDES))}"
        )
    return MODELS[name](num_landmarks, output_stride)
