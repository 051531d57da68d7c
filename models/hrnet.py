"""HRNet: parallel resolutions that exchange their features, again and again.

Sun, Xiao, Liu, Wang, "Deep high-resolution representation learning for human pose estimation", CVPR 2019; the
read-out of all resolutions is HRNetV2's (Sun et al., "High-resolution representations for labeling pixels and
regions", 2019). Shape letters: B samples, K landmarks, H x W input pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from models.blocks import (
    BasicBlock,
    Bottleneck,
    Upsample,
    check_image_size,
    conv1x1,
    conv3x3,
    conv_bn_relu,
    init_weights,
)
from models.heads import MultiScaleHead


class HRNet(nn.Module):
    """Branches of 32, 64, 128 and 256 channels at strides 4, 8, 16 and 32: 6.5 M parameters.

    Stages 2, 3 and 4 have 1, 2 and 2 modules with one basic block per branch, stage 1 has one bottleneck of
    128 channels: shallower than HRNet-W32, with its full exchange between resolutions.

    (B, 3, H, W) -> (B, K, H/output_stride, W/output_stride), raw maps. H and W are multiples of 32.
    """

    def __init__(self, num_landmarks: int, output_stride: int = 4) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn_relu(3, 64, stride=2), conv_bn_relu(64, 64, stride=2))
        self.stage1 = nn.Sequential(Bottleneck(64, 64, 128))
        self.first = conv_bn_relu(128, 32)
        self.second = conv_bn_relu(128, 64, stride=2)
        self.stage2 = _make_stage((32, 64), num_modules=1)
        self.third = conv_bn_relu(64, 128, stride=2)
        self.stage3 = _make_stage((32, 64, 128), num_modules=2)
        self.fourth = conv_bn_relu(128, 256, stride=2)
        self.stage4 = _make_stage((32, 64, 128, 256), num_modules=2)
        init_weights(self)
        self.head = MultiScaleHead((32, 64, 128, 256), num_landmarks, 4, output_stride)

    def encode(self, images: Tensor) -> list[Tensor]:
        """Return the four branches, (B, 32, H/4, W/4) to (B, 256, H/32, W/32), of images (B, 3, H, W)."""
        features = self.stage1(self.stem(images))
        branches: list[Tensor] = self.stage2([self.first(features), self.second(features)])
        branches = self.stage3([*branches, self.third(branches[-1])])
        return self.stage4([*branches, self.fourth(branches[-1])])  # type: ignore[no-any-return]

    def forward(self, images: Tensor) -> Tensor:
        check_image_size(images)
        branches = self.encode(images)
        maps: Tensor = self.head(branches)
        return maps


class ExchangeModule(nn.Module):
    """A basic block on every branch, then every branch receives the sum of all of them.

    Takes and returns the branches, finest first, each half the size of the one before.
    """

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(BasicBlock(width, width) for width in channels)
        self.paths = nn.ModuleList(
            nn.ModuleList(_build_path(channels, source, target) for source in range(len(channels)))
            for target in range(len(channels))
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, branches: Sequence[Tensor]) -> list[Tensor]:
        branches = [block(branch) for block, branch in zip(self.branches, branches, strict=True)]
        return [self.relu(_sum_paths(paths, branches)) for paths in self.paths]


def _make_stage(channels: tuple[int, ...], num_modules: int) -> nn.Sequential:
    return nn.Sequential(*(ExchangeModule(channels) for _ in range(num_modules)))


def _build_path(channels: tuple[int, ...], source: int, target: int) -> nn.Module:
    """Build the layers that bring one branch to the channels and the size of another.

    Up, a 1x1 convolution and an enlargement; down, a 3x3 convolution of stride 2 for each level.
    """
    if source == target:
        return nn.Identity()
    if source > target:
        return nn.Sequential(
            conv1x1(channels[source], channels[target]),
            nn.BatchNorm2d(channels[target]),
            Upsample(2 ** (source - target)),
        )
    width = channels[source]
    steps: list[nn.Module] = [conv_bn_relu(width, width, stride=2) for _ in range(target - source - 1)]
    return nn.Sequential(*steps, conv3x3(width, channels[target], stride=2), nn.BatchNorm2d(channels[target]))


def _sum_paths(paths: nn.Module, branches: Sequence[Tensor]) -> Tensor:
    assert isinstance(paths, nn.ModuleList)
    terms = [path(branch) for path, branch in zip(paths, branches, strict=True)]
    total: Tensor = terms[0]
    for term in terms[1:]:
        total = total + term
    return total
