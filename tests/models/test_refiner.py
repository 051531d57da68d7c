"""The second network: what comes in and out, and whose weights read whose map."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models.refiner import CropNetwork, Refiner

K = 5


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def noise(num_images: int = 2, side: int = 32) -> Tensor:
    return torch.randn(num_images, K, 3, side, side)


@pytest.mark.parametrize("side", [32, 64, 96])
@pytest.mark.parametrize("stride", [1, 2, 4])
def test_shape_contract(side: int, stride: int) -> None:
    refiner = Refiner(K, 2, output_stride=stride)
    with torch.no_grad():
        maps = refiner.eval()(noise(side=side))
        each = refiner.train()(torch.cat([noise(side=side), noise(side=side)], dim=1))
    assert maps.shape == (2, K, side // stride, side // stride)
    assert each.shape == (2, 2 * K, side // stride, side // stride)


@pytest.mark.parametrize("num_members", [1, 3])
def test_members_are_trained_apart_and_predict_their_mean(num_members: int) -> None:
    refiner = Refiner(K, num_members).eval()
    crops = noise()
    with torch.no_grad():
        each = [member(crops) for member in refiner.members]
        torch.testing.assert_close(refiner(crops), torch.stack(each).mean(0))
    assert all(not torch.equal(a, b) for a, b in pairwise(each))


def test_each_member_learns_from_crops_of_its_own() -> None:
    refiner = Refiner(K, 3).train()
    own = [noise() for _ in range(3)]
    maps = refiner(torch.cat(own, dim=1))
    torch.testing.assert_close(
        maps, torch.cat([m(c) for m, c in zip(refiner.members, own, strict=True)], dim=1)
    )
    maps[:, K : 2 * K].square().sum().backward()  # the second one's alone
    has_learned = [any(p.grad.any() for p in member.parameters()) for member in refiner.members]
    assert has_learned == [False, True, False]


def test_members_of_different_sides_answer_on_one_grid() -> None:
    refiner, crops = Refiner(K, 3, sides=(96, 64)).eval(), noise(side=96)
    assert [member.side for member in refiner.members] == [96, 64, 96]
    with torch.no_grad():
        assert refiner(crops).shape == (2, K, 48, 48)
        assert refiner.train()(crops.repeat(1, 3, 1, 1, 1)).shape == (2, 3 * K, 48, 48)


def test_a_smaller_side_shows_the_whole_crop_without_a_shift() -> None:
    # a trunk that hands the picture through: a spot at a place of the crop stays there on the map
    network = CropNetwork(1, output_stride=2, side=64)
    network.encode = lambda pictures: [F.avg_pool2d(pictures[:, :1], 2)]
    network.decode = lambda levels: levels[-1].expand(-1, 24, -1, -1)
    network.embedding.data = torch.zeros(1, 1)
    network.readout.data.fill_(1 / 24)
    y, x = torch.meshgrid(torch.arange(128.0), torch.arange(128.0), indexing="ij")
    spot = torch.exp(-((x - 41) ** 2 + (y - 87) ** 2) / (2 * 6**2))
    with torch.no_grad():
        maps = network(spot.expand(1, 1, 3, 128, 128))[0, 0]
    cells = torch.arange(64.0) * 2 + 0.5  # centres of cells in crop pixels
    assert float((maps.sum(0) * cells).sum() / maps.sum()) == pytest.approx(41, abs=0.05)
    assert float((maps.sum(1) * cells).sum() / maps.sum()) == pytest.approx(87, abs=0.05)


def test_number_of_parameters() -> None:
    # 1.99 M at 19 landmarks: what a landmark adds is its embedding, its readout and its bias
    counts = [sum(p.numel() for p in Refiner(num).parameters()) for num in (19, 20)]
    assert 1.9e6 < counts[0] < 2.1e6
    assert counts[1] - counts[0] == 192 + 24 + 1
    assert sum(p.numel() for p in Refiner(19, 2).parameters()) == 2 * counts[0]


def test_training_reaches_every_parameter() -> None:
    refiner = Refiner(K, 2).to(memory_format=torch.channels_last).train()
    (refiner(noise().repeat(1, 2, 1, 1, 1)) - 1).square().mean().backward()
    for name, parameter in refiner.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all() and parameter.grad.any(), name


def test_first_maps_are_near_zero() -> None:
    with torch.no_grad():
        maps = Refiner(K).train()(noise())
    assert maps.abs().max() < 0.5


@pytest.mark.parametrize("name", ["embedding", "readout", "bias"])
@pytest.mark.parametrize("k", [0, 3])
def test_a_landmarks_own_weights_change_its_map_alone(name: str, k: int) -> None:
    network, crops = CropNetwork(K, output_stride=2).eval(), noise()
    with torch.no_grad():
        before = network(crops)
        getattr(network, name)[k] += 1.0
        after = network(crops)
    changed = (after - before).abs().amax((0, 2, 3)) > 0
    assert changed.tolist() == [number == k for number in range(K)]


def test_a_crop_is_read_as_its_landmark_and_by_no_other_crop() -> None:
    network, crops = CropNetwork(K, output_stride=2).eval(), noise()
    with torch.no_grad():
        before = network(crops)
        other = crops.clone()
        other[1, 2] += torch.randn(3, 32, 32)
        changed = (network(other) - before).abs().amax((2, 3)) > 1e-6
        assert changed.nonzero().tolist() == [[1, 2]]
        # the same picture for each landmark gives different maps
        same = network(crops[:, :1].expand(-1, K, -1, -1, -1))
    assert all(not torch.allclose(same[:, 0], same[:, k]) for k in range(1, K))


def test_channels_last_is_the_same_network() -> None:
    refiner, crops = Refiner(K).eval(), noise()
    with torch.no_grad():
        maps = refiner(crops)
        moved = refiner.to(memory_format=torch.channels_last)(crops)
    torch.testing.assert_close(moved, maps, atol=1e-5, rtol=1e-3)


def test_mixed_precision_gives_about_the_same_maps() -> None:
    refiner, crops = Refiner(K).eval(), noise()
    with torch.inference_mode():
        maps = refiner(crops)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = refiner(crops)
    torch.testing.assert_close(half.float(), maps, atol=0.05 * float(maps.abs().max()), rtol=0)
