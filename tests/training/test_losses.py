from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from backend.training.heatmaps import encode_heatmaps, points_to_cells
from backend.training.losses import adaptive_wing, kl, mse

ALPHA, OMEGA, THETA = 2.1, 14.0, 0.5  # epsilon is 1

# One peak at row 1, column 3 with a slope to its left; the 3 x 3 dilation of the cells above 0.2 is rows 0-2,
# columns 1-4.
TARGET = torch.zeros(5, 5)
TARGET[1, 3], TARGET[1, 2], TARGET[3, 0] = 1.0, 0.6, 0.1
FOREGROUND = {(row, column) for row in (0, 1, 2) for column in (1, 2, 3, 4)}

# Errors below and above theta, over and under the target, in the foreground and in the background.
PREDICTED = torch.zeros(5, 5)
for cell, value in {
    (1, 3): 0.7,
    (1, 2): -0.4,
    (0, 1): 0.3,
    (2, 4): 0.9,
    (3, 0): 0.45,
    (4, 4): -1.5,
    (4, 2): 0.2,
}.items():
    PREDICTED[cell] = value


def wing_by_hand(error: float, target: float) -> float:
    power = ALPHA - target
    if abs(error) < THETA:
        return OMEGA * math.log(1 + abs(error) ** power)
    slope = OMEGA / (1 + THETA**power) * power * THETA ** (power - 1)
    return slope * abs(error) - (THETA * slope - OMEGA * math.log(1 + THETA**power))


def wing_slope_by_hand(error: float, target: float) -> float:
    """The derivative with respect to the prediction; `error` is prediction minus target."""
    power = ALPHA - target
    size = min(abs(error), THETA)
    return math.copysign(1, error) * OMEGA * power * size ** (power - 1) / (1 + size**power) if error else 0.0


def cells() -> list[tuple[int, int]]:
    return [(row, column) for row in range(5) for column in range(5)]


def weight(cell: tuple[int, int]) -> float:
    return 11.0 if cell in FOREGROUND else 1.0


def as_map(values: Tensor) -> Tensor:
    return values.clone()[None, None]


ONE = torch.ones(1, 1, dtype=torch.bool)


def test_adaptive_wing_equals_the_sum_by_hand() -> None:
    expected = 0.0
    for cell in cells():
        target = TARGET[cell].item()
        expected += weight(cell) * wing_by_hand(PREDICTED[cell].item() - target, target) / 25
    loss = adaptive_wing(as_map(PREDICTED), as_map(TARGET), ONE)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_adaptive_wing_gradient_equals_the_one_by_hand_in_every_cell() -> None:
    heatmaps = as_map(PREDICTED).requires_grad_()
    adaptive_wing(heatmaps, as_map(TARGET), ONE).backward()
    assert heatmaps.grad is not None
    for cell in cells():
        target = TARGET[cell].item()
        expected = weight(cell) * wing_slope_by_hand(PREDICTED[cell].item() - target, target) / 25
        assert heatmaps.grad[0, 0][cell].item() == pytest.approx(expected, rel=1e-4, abs=1e-7), cell


def test_foreground_is_what_lies_beside_a_target_above_the_threshold() -> None:
    """The same error weighs eleven times as much within the dilated peak."""
    for cell in cells():
        heatmaps = as_map(TARGET)
        heatmaps[0, 0][cell] += 0.25
        by_hand = weight(cell) * wing_by_hand(0.25, TARGET[cell].item()) / 25
        assert adaptive_wing(heatmaps, as_map(TARGET), ONE).item() == pytest.approx(by_hand, rel=1e-4), cell


@pytest.mark.parametrize("target", [0.0, 0.3, 1.0])
def test_adaptive_wing_is_continuous_at_theta_in_value_and_slope(target: float) -> None:
    def at(error: float) -> tuple[float, float]:
        heatmaps = torch.full((1, 1, 5, 5), target + error, requires_grad=True)
        loss = adaptive_wing(heatmaps, torch.full((1, 1, 5, 5), target), ONE)
        loss.backward()
        assert heatmaps.grad is not None
        return loss.item(), heatmaps.grad.sum().item()

    (below, slope_below), (above, slope_above) = at(THETA - 1e-4), at(THETA + 1e-4)
    assert below < above
    assert above - below == pytest.approx(2e-4 * slope_below, rel=0.05)
    assert slope_above == pytest.approx(slope_below, rel=1e-3)


def test_perfect_prediction_costs_nothing_and_has_a_finite_gradient() -> None:
    for loss_of in (adaptive_wing, mse):
        heatmaps = as_map(TARGET).requires_grad_()
        loss = loss_of(heatmaps, as_map(TARGET), ONE)
        loss.backward()
        assert loss.item() == 0
        assert heatmaps.grad is not None and torch.equal(heatmaps.grad, torch.zeros(1, 1, 5, 5))


def test_mse_by_hand() -> None:
    weight = 25 / (1.0 + 0.6 + 0.1)  # the Gaussian as a whole weighs as much as the map
    by_hand = (
        sum(
            (1 + weight * TARGET[cell].item()) * (PREDICTED[cell] - TARGET[cell]).item() ** 2
            for cell in cells()
        )
        / 25
    )
    assert mse(as_map(PREDICTED), as_map(TARGET), ONE).item() == pytest.approx(by_hand, rel=1e-6)


# Masks: two samples of three landmarks, some of which are missing.

SIZE_HW, STRIDE, SIGMA_PX = (32, 48), 2, 4.0
POINTS = torch.tensor(
    [[[10.0, 12.0], [math.nan, math.nan], [31.3, 20.7]], [[20.0, 9.0], [40.0, 25.0], [3, 3]]]
)
VISIBLE = torch.isfinite(POINTS).all(-1)

Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
LOSSES: dict[str, Loss] = {
    "adaptive_wing": lambda maps, targets, centres, visible: adaptive_wing(maps, targets, visible),
    "mse": lambda maps, targets, centres, visible: mse(maps, targets, visible),
    "kl": kl,
}


def loss_of_points(name: str, heatmaps: Tensor, points: Tensor, visible: Tensor) -> Tensor:
    targets = encode_heatmaps(points, SIZE_HW, STRIDE, SIGMA_PX)
    return LOSSES[name](heatmaps, targets, points_to_cells(points, STRIDE), visible)


def random_maps(seed: int = 0) -> Tensor:
    return torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", LOSSES)
def test_missing_landmark_adds_neither_value_nor_gradient(name: str) -> None:
    heatmaps = random_maps().requires_grad_()
    loss = loss_of_points(name, heatmaps, POINTS, VISIBLE)
    loss.backward()
    changed = heatmaps.detach().clone()
    changed[0, 1] = random_maps(1)[0, 1] * 9
    assert loss_of_points(name, changed, POINTS, VISIBLE).item() == loss.item()
    assert heatmaps.grad is not None and torch.isfinite(heatmaps.grad).all()
    assert torch.equal(heatmaps.grad[0, 1], torch.zeros(16, 24))
    assert all(heatmaps.grad[b, k].abs().sum() > 0 for b, k in VISIBLE.nonzero().tolist())


@pytest.mark.parametrize("name", LOSSES)
def test_landmark_that_is_known_but_masked_does_not_count_either(name: str) -> None:
    """A point outside the input leaves a part of its Gaussian in the map; the mask alone decides."""
    points = POINTS.clone()
    points[0, 1] = torch.tensor([-2.0, 10.0])
    heatmaps = random_maps()
    assert loss_of_points(name, heatmaps, points, VISIBLE).item() == pytest.approx(
        loss_of_points(name, heatmaps, POINTS, VISIBLE).item()
    )


@pytest.mark.parametrize("name", LOSSES)
def test_loss_is_the_mean_over_the_visible_landmarks(name: str) -> None:
    heatmaps = random_maps()
    single = []
    for b, k in VISIBLE.nonzero().tolist():
        only = torch.zeros_like(VISIBLE)
        only[b, k] = True
        single.append(loss_of_points(name, heatmaps, POINTS, only).item())
    assert loss_of_points(name, heatmaps, POINTS, VISIBLE).item() == pytest.approx(sum(single) / 5, rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_visible_is_a_zero_with_zero_gradients(name: str) -> None:
    heatmaps = random_maps().requires_grad_()
    loss = loss_of_points(name, heatmaps, torch.full_like(POINTS, math.nan), torch.zeros_like(VISIBLE))
    loss.backward()
    assert loss.item() == 0
    assert heatmaps.grad is not None and torch.equal(heatmaps.grad, torch.zeros_like(heatmaps))


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_maps_are_scored_in_float32(name: str, dtype: torch.dtype) -> None:
    half = random_maps().to(dtype).requires_grad_()
    loss = loss_of_points(name, half, POINTS, VISIBLE)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == loss_of_points(name, half.detach().float(), POINTS, VISIBLE).item()
    assert half.grad is not None and half.grad.dtype == dtype and torch.isfinite(half.grad).all()


@pytest.mark.parametrize("name", LOSSES)
def test_half_precision_maps_may_be_as_large_as_they_get(name: str) -> None:
    half = torch.full((2, 3, 16, 24), 6e4, dtype=torch.float16)
    half[..., 3:9] = -6e4
    assert torch.isfinite(loss_of_points(name, half, POINTS, VISIBLE))


# kl


def perfect_logits(points: Tensor) -> Tensor:
    return encode_heatmaps(points, SIZE_HW, STRIDE, SIGMA_PX).clamp(min=1e-30).log()


def test_kl_of_the_targets_logarithm_is_only_its_expectations_distance() -> None:
    """Far from the border a Gaussian's mean is its centre, so that nothing is left."""
    middle = torch.tensor([[[23.5, 15.5], [24.0, 16.25]]])
    visible = torch.ones(1, 2, dtype=torch.bool)
    assert loss_of_points("kl", perfect_logits(middle), middle, visible).item() < 1e-3
    # near the border the cut-off Gaussian's mean lies inwards: by hand, with its cells
    near = torch.tensor([[[1.5, 15.5]]])
    weights = [math.exp(-0.5 * ((column - 0.5) / 2) ** 2) for column in range(24)]
    mean = sum(column * value for column, value in enumerate(weights)) / sum(weights)
    loss = loss_of_points("kl", perfect_logits(near), near, visible[:, :1])
    assert loss.item() == pytest.approx(0.2 * (mean - 0.5), rel=1e-3)


def test_kl_of_flat_logits_by_hand() -> None:
    """log(number of cells) minus the target's entropy, plus 0.2 x the way to the middle."""
    points = torch.tensor([[[10.0, 20.0]]])
    target = encode_heatmaps(points, SIZE_HW, STRIDE, SIGMA_PX).double()
    target = target / target.sum()
    entropy = -torch.xlogy(target, target).sum().item()
    way = abs(11.5 - 4.75) + abs(7.5 - 9.75)
    loss = loss_of_points("kl", torch.zeros(1, 1, 16, 24), points, torch.ones(1, 1, dtype=torch.bool))
    assert loss.item() == pytest.approx(math.log(16 * 24) - entropy + 0.2 * way, rel=1e-5)


def test_kl_does_not_change_when_a_constant_is_added_to_the_logits() -> None:
    heatmaps = random_maps()
    loss = loss_of_points("kl", heatmaps, POINTS, VISIBLE).item()
    assert loss_of_points("kl", heatmaps + 7, POINTS, VISIBLE).item() == pytest.approx(loss, rel=1e-5)


def test_kl_grows_with_the_distance_of_a_wrong_peak() -> None:
    truth, visible = torch.tensor([[[10.0, 16.0]]]), torch.ones(1, 1, dtype=torch.bool)
    losses = [
        loss_of_points("kl", perfect_logits(truth + torch.tensor([shift, 0.0])), truth, visible).item()
        for shift in (0, 2, 5, 10, 20)
    ]
    assert losses == sorted(losses) and losses[0] < losses[-1] / 10


def test_kl_gradient_agrees_with_finite_differences() -> None:
    heatmaps = random_maps().requires_grad_()
    loss_of_points("kl", heatmaps, POINTS, VISIBLE).backward()
    assert heatmaps.grad is not None
    generator = torch.Generator().manual_seed(5)
    for _ in range(8):
        direction = torch.randn(heatmaps.shape, generator=generator)
        step = 1e-2
        with torch.no_grad():
            up = loss_of_points("kl", heatmaps + step * direction, POINTS, VISIBLE).double()
            down = loss_of_points("kl", heatmaps - step * direction, POINTS, VISIBLE).double()
        by_difference = ((up - down) / (2 * step)).item()
        assert (heatmaps.grad * direction).sum().item() == pytest.approx(by_difference, rel=2e-3, abs=2e-4)
