"""One battery over all networks: the shape contract, the sizes they promise, and where their cells lie."""

from __future__ import annotations

import re
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from backend import config, geometry
from models import MODELS, OUTPUT_STRIDES, SIZE_MULTIPLE, build_model
from models.heads import HeatmapHead, MultiScaleHead, resize_to_stride
from models.resnet import load_pretrained_trunk

NAMES = tuple(MODELS)
PROMISED_MILLIONS = {"resnet": 25.0, "hrnet": 6.35, "unet": 17.0, "hourglass": 10.0}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def millions_of_parameters(name: str) -> float:
    with torch.device("meta"):
        network = build_model(name, num_landmarks=29)
    return sum(p.numel() for p in network.parameters() if p.requires_grad) / 1e6


def test_the_settings_offer_the_networks_that_there_are() -> None:
    assert get_args(config.ModelName) == NAMES
    assert {*PROMISED_MILLIONS} <= {*NAMES}
    assert config.SIZE_MULTIPLE == SIZE_MULTIPLE == 32
    assert geometry.OUTPUT_STRIDES == OUTPUT_STRIDES


@pytest.mark.parametrize("name", PROMISED_MILLIONS)
def test_number_of_parameters(name: str) -> None:
    assert millions_of_parameters(name) == pytest.approx(PROMISED_MILLIONS[name], rel=0.03)


@pytest.mark.parametrize("name", NAMES)
def test_a_size_in_a_docstring_is_the_counted_one(name: str) -> None:
    for stated in re.findall(r"([0-9.]+) M parameters", MODELS[name].__doc__ or ""):
        assert stated == f"{millions_of_parameters(name):.1f}"


@pytest.mark.parametrize("size_hw", [(64, 96), (128, 128)])
@pytest.mark.parametrize("stride", OUTPUT_STRIDES)
@pytest.mark.parametrize("name", NAMES)
def test_output_shape(name: str, stride: int, size_hw: tuple[int, int]) -> None:
    network = build_model(name, num_landmarks=5, output_stride=stride).eval()
    with torch.no_grad():
        maps = network(torch.randn(1, 3, *size_hw))
    assert isinstance(maps, Tensor)
    assert maps.shape == (1, 5, size_hw[0] // stride, size_hw[1] // stride)


@pytest.mark.parametrize("name", NAMES)
def test_smallest_image_and_channels_last(name: str) -> None:
    network = build_model(name, num_landmarks=2).eval()
    images = torch.randn(2, 3, 32, 96)
    with torch.no_grad():
        maps = network(images)
        network.to(memory_format=torch.channels_last)
        maps_channels_last = network(images.to(memory_format=torch.channels_last))
    assert maps.shape == (2, 2, 8, 24)
    torch.testing.assert_close(maps_channels_last, maps, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_training_reaches_every_parameter(name: str) -> None:
    network = (
        build_model(name, num_landmarks=3, output_stride=2).to(memory_format=torch.channels_last).train()
    )
    out = network(torch.randn(2, 3, 64, 96))
    assert isinstance(out, list) == (name == "hourglass")
    all_maps = out if isinstance(out, list) else [out]
    assert len(all_maps) == (3 if name == "hourglass" else 1)
    assert all(maps.shape == (2, 3, 32, 48) for maps in all_maps)
    sum((maps - 1).square().mean() for maps in all_maps).backward()
    for parameter_name, parameter in network.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.any(), parameter_name


@pytest.mark.parametrize("name", NAMES)
def test_first_maps_are_near_zero(name: str) -> None:
    network = build_model(name, num_landmarks=3).train()
    with torch.no_grad():
        out = network(torch.randn(2, 3, 64, 64))
    for maps in out if isinstance(out, list) else [out]:
        assert maps.abs().max() < 0.5


@pytest.mark.parametrize("name", NAMES)
def test_size_that_does_not_fit(name: str) -> None:
    network = build_model(name, num_landmarks=1)
    with pytest.raises(ValueError, match="height 250 is not a multiple of 32; use 224 or 256"):
        network(torch.zeros(1, 3, 250, 256))
    with pytest.raises(ValueError, match=r"height 20 .*; use 32\. width 100 .*; use 96 or 128"):
        network(torch.zeros(1, 3, 20, 100))


def test_wrong_arguments_name_what_fits() -> None:
    with pytest.raises(ValueError, match=f"'vgg': choose one of {', '.join(get_args(config.ModelName))}$"):
        build_model("vgg", num_landmarks=1)
    with pytest.raises(ValueError, match="output_stride 3: choose one of 1, 2, 4"):
        build_model("unet", num_landmarks=1, output_stride=3)
    with pytest.raises(ValueError, match="num_landmarks must be at least 1, got 0"):
        build_model("unet", num_landmarks=0)


def _ramp(num_cells: int, stride: int) -> Tensor:
    """(1, 1, n, n) maps whose value is the input-pixel x of the cell's centre."""
    x_input = (torch.arange(num_cells) + 0.5) * stride - 0.5
    return x_input.expand(1, 1, num_cells, num_cells).contiguous()


@pytest.mark.parametrize("stride", [2, 4])
@pytest.mark.parametrize("output_stride", OUTPUT_STRIDES)
def test_resize_keeps_cell_centres(stride: int, output_stride: int) -> None:
    resized = resize_to_stride(_ramp(32 // stride, stride), stride, output_stride)
    expected = _ramp(32 // output_stride, output_stride)
    assert resized.shape == expected.shape
    inside = slice(4 // output_stride, -4 // output_stride)  # bilinear maps are flat beyond the last centre
    torch.testing.assert_close(resized[..., inside], expected[..., inside])


def test_heads_keep_cell_centres() -> None:
    plain = HeatmapHead(1, 1, trunk_stride=2, output_stride=4)
    nn.init.ones_(plain.conv.weight)
    torch.testing.assert_close(plain(_ramp(16, 2)), _ramp(8, 4))
    multi_scale = MultiScaleHead((1, 1, 1), 1, trunk_stride=4, output_stride=2)
    for conv in multi_scale.convs:
        nn.init.constant_(conv.weight, 1 / 3)
    maps = multi_scale([_ramp(16, 4), _ramp(8, 8), _ramp(4, 16)])
    torch.testing.assert_close(maps[..., 8:-8], _ramp(32, 2)[..., 8:-8])


@pytest.mark.parametrize("name", NAMES)
def test_a_shifted_image_shifts_the_maps(name: str) -> None:
    """A shift by the coarsest stride moves the maps by as many cells, but for what the border adds."""
    network = build_model(name, num_landmarks=1, output_stride=4).eval()
    images = torch.zeros(1, 3, 640, 32)
    images[:, :, 300:308] = 1
    shift = 64 if name == "hourglass" else 32  # the hourglass pools down to stride 64
    with torch.no_grad():
        maps = network(images)
        shifted = network(images.roll(shift, dims=2))
    expected = maps.roll(shift // 4, dims=2)
    inside = slice(60, 100)
    tolerance = 0.01 * float(maps[:, :, inside].std())
    torch.testing.assert_close(shifted[:, :, inside], expected[:, :, inside], atol=tolerance, rtol=0)


def test_resnet_has_torchvisions_names() -> None:
    state_dict = build_model("resnet", num_landmarks=2).state_dict()
    for key, shape in {
        "conv1.weight": (64, 3, 7, 7),
        "bn1.running_var": (64,),
        "layer1.0.conv1.weight": (64, 64, 3, 3),
        "layer2.0.downsample.0.weight": (128, 64, 1, 1),
        "layer2.0.downsample.1.num_batches_tracked": (),
        "layer3.5.bn1.bias": (256,),
        "layer4.2.bn2.running_mean": (512,),
    }.items():
        assert tuple(state_dict[key].shape) == shape, key
    assert "layer1.0.downsample.0.weight" not in state_dict


def test_load_pretrained_trunk_reports_keys() -> None:
    network = build_model("resnet", num_landmarks=2)
    head_before = network.state_dict()["head.conv.weight"].clone()
    weights = {
        "conv1.weight": torch.full((64, 3, 7, 7), 0.5),
        "layer4.2.bn2.running_mean": torch.full((512,), 2.0),
        "layer1.0.conv1.weight": torch.zeros(64, 64, 1, 1),
        "head.conv.weight": torch.full((2, 256, 1, 1), 3.0),
        "fc.weight": torch.zeros(1000, 512),
        "fc.bias": torch.zeros(1000),
    }
    loaded, not_fitting = load_pretrained_trunk(network, weights)
    assert loaded == ["conv1.weight", "layer4.2.bn2.running_mean"]
    assert not_fitting == ["layer1.0.conv1.weight", "head.conv.weight", "fc.weight", "fc.bias"]
    after = network.state_dict()
    assert (after["conv1.weight"] == 0.5).all()
    assert (after["layer4.2.bn2.running_mean"] == 2).all()
    assert torch.equal(after["head.conv.weight"], head_before)
