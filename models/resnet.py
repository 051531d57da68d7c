"""ResNet-34 with deconvolutions (SimpleBaseline).

Xiao, Wu, Wei, "Simple baselines for human pose estimation and tracking", ECCV 2018; the trunk is He et al.,
CVPR 2016, under torchvision's names, so that its ImageNet weights load.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from models.blocks import BasicBlock, check_image_size, init_weights
from models.heads import HeatmapHead

TRUNK_PARTS = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")


class ResNet(nn.Module):
    """ResNet-34 to stride 32, three deconvolutions of 256 channels back to stride 4: 25.5 M parameters.

    (B, 3, H, W) -> (B, K, H/output_stride, W/output_stride), raw maps. H and W are multiples of 32.
    """

    def __init__(self, num_landmarks: int, output_stride: int = 4) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _make_layer(64, 64, num_blocks=3, stride=1)
        self.layer2 = _make_layer(64, 128, num_blocks=4, stride=2)
        self.layer3 = _make_layer(128, 256, num_blocks=6, stride=2)
        self.layer4 = _make_layer(256, 512, num_blocks=3, stride=2)
        self.decoder = nn.Sequential(_deconv(512, 256), _deconv(256, 256), _deconv(256, 256))
        init_weights(self)
        self.head = HeatmapHead(256, num_landmarks, trunk_stride=4, output_stride=output_stride)

    def encode(self, images: Tensor) -> Tensor:
        """Return features (B, 512, H/32, W/32) of images (B, 3, H, W)."""
        features = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        features = self.layer2(self.layer1(features))
        features = self.layer4(self.layer3(features))
        assert isinstance(features, Tensor)
        return features

    def forward(self, images: Tensor) -> Tensor:
        check_image_size(images)
        features = self.encode(images)
        maps: Tensor = self.head(self.decoder(features))
        return maps


def _make_layer(in_channels: int, out_channels: int, num_blocks: int, stride: int) -> nn.Sequential:
    blocks = [BasicBlock(in_channels, out_channels, stride)]
    blocks += [BasicBlock(out_channels, out_channels) for _ in range(num_blocks - 1)]
    return nn.Sequential(*blocks)


def _deconv(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def load_pretrained_trunk(
    network: nn.Module, state_dict: Mapping[str, Tensor]
) -> tuple[list[str], list[str]]:
    """Copy into the trunk of a `ResNet` the weights that fit by name and shape.

    `state_dict` has torchvision's resnet34 weights, or any under the same names. Decoder and head stay as
    they are. Returns the keys that were loaded and the keys that do not fit (the classifier `fc.*` among
    them), both in the order of `state_dict`.
    """
    current = network.state_dict()
    loaded: list[str] = []
    not_fitting: list[str] = []
    for key, value in state_dict.items():
        fits = key.split(".")[0] in TRUNK_PARTS and key in current and current[key].shape == value.shape
        (loaded if fits else not_fitting).append(key)
    network.load_state_dict({key: state_dict[key] for key in loaded}, strict=False)
    return loaded, not_fitting
