from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from backend.training.optim import (
    MovingAverage,
    build_optimizer,
    build_scheduler,
    ema_decay_at,
    lr_factor,
    set_peak_lr,
)


def test_warm_up_is_linear_and_reaches_the_peak() -> None:
    assert [lr_factor(step, 4, 100) for step in range(5)] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])


def test_after_the_peak_a_cosine_falls_to_a_hundredth() -> None:
    factors = [lr_factor(step, 10, 110) for step in range(10, 111)]
    assert factors[50] == pytest.approx((1 + 0.01) / 2)
    assert factors[25] == pytest.approx(0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi / 4)))
    assert factors[-1] == pytest.approx(0.01)
    assert factors == sorted(factors, reverse=True)


def test_without_a_warm_up_the_run_starts_at_the_peak() -> None:
    assert lr_factor(0, 0, 10) == 1
    assert lr_factor(10, 0, 10) == lr_factor(50, 0, 10) == pytest.approx(0.01)


def test_warm_up_longer_than_the_run_only_rises() -> None:
    factors = [lr_factor(step, 50, 10) for step in range(10)]
    assert factors == pytest.approx([(step + 1) / 50 for step in range(10)])
    assert all(0.01 <= lr_factor(step, 50, 10) <= 1 for step in range(49, 60))


def test_scheduler_gives_every_optimizer_step_its_rate() -> None:
    network = nn.Linear(2, 2)
    optimizer = build_optimizer(network, lr=0.5, weight_decay=0.0)
    scheduler = build_scheduler(optimizer, warmup_steps=2, total_steps=6)
    rates = []
    for _ in range(6):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    assert rates == [[pytest.approx(0.5 * lr_factor(step, 2, 6))] * 2 for step in range(6)]


def test_another_peak_holds_from_the_present_step_on_and_survives_a_state_dict() -> None:
    network = nn.Linear(2, 2)
    optimizer = build_optimizer(network, lr=0.6, weight_decay=0.0)
    scheduler = build_scheduler(optimizer, warmup_steps=2, total_steps=6)
    rates = []
    for step in range(6):
        if step == 3:
            set_peak_lr(scheduler, 0.2)
            assert scheduler.get_last_lr() == [pytest.approx(0.2 * lr_factor(3, 2, 6))] * 2
            states = copy.deepcopy((optimizer.state_dict(), scheduler.state_dict()))
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    peaks = [0.6, 0.6, 0.6, 0.2, 0.2, 0.2]
    assert rates == pytest.approx([peak * lr_factor(step, 2, 6) for step, peak in enumerate(peaks)])

    resumed = build_optimizer(network, lr=0.6, weight_decay=0.0)
    again = build_scheduler(resumed, warmup_steps=2, total_steps=6)
    resumed.load_state_dict(states[0])
    again.load_state_dict(states[1])
    for rate in rates[3:]:
        assert [group["lr"] for group in resumed.param_groups] == [rate] * 2
        resumed.step()
        again.step()


def test_biases_and_normalisation_are_not_decayed_and_all_else_is() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    network[2].weight.requires_grad_(False)
    optimizer = build_optimizer(network, lr=1.0, weight_decay=0.25)
    decay_of = {
        id(parameter): group["weight_decay"]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    named = {name: decay_of.get(id(p)) for name, p in network.named_parameters()}
    assert named == {
        "0.weight": 0.25,
        "0.bias": 0.0,
        "1.weight": 0.0,
        "1.bias": 0.0,
        "2.weight": None,
        "2.bias": 0.0,
    }


def test_average_forgets_the_random_start_and_then_decays_as_asked() -> None:
    assert [ema_decay_at(step, 0.998) for step in (1, 20, 180)] == pytest.approx([1 / 21, 0.5, 0.9])
    assert ema_decay_at(10**6, 0.998) == 0.998
    assert ema_decay_at(500, 0.0) == 0


def test_average_of_weights_and_running_statistics_by_hand() -> None:
    def network(value: float, count: int) -> nn.BatchNorm2d:
        layer = nn.BatchNorm2d(2)
        with torch.no_grad():
            for tensor in layer.state_dict().values():
                tensor.fill_(value if tensor.is_floating_point() else count)
        return layer

    average, current = network(1.0, 3), network(5.0, 8)
    moving = MovingAverage(average, current)
    moving.update(decay=0.75)
    for name, tensor in average.state_dict().items():
        expected = 2.0 if tensor.is_floating_point() else 8
        assert (tensor == expected).all(), name
    moving.update(decay=0.75)
    assert average.weight.tolist() == pytest.approx([2.75, 2.75])
    assert (current.weight == 5).all() and (current.running_mean == 5).all()


def test_decay_of_zero_copies_the_network() -> None:
    average, current = nn.Linear(3, 3), nn.Linear(3, 3)
    MovingAverage(average, current).update(decay=0.0)
    assert all(torch.allclose(a, b) for a, b in zip(average.parameters(), current.parameters(), strict=True))


def test_average_follows_what_either_network_loads() -> None:
    """Its lists of tensors are made once; a resume and a recovery load into them."""
    average, current = nn.BatchNorm2d(2), nn.BatchNorm2d(2)
    moving = MovingAverage(average, current)
    for network, value in ((average, 1.0), (current, 3.0)):
        state = {name: torch.full_like(tensor, value) for name, tensor in network.state_dict().items()}
        network.load_state_dict(state)
    moving.update(decay=0.5)
    assert average.weight.tolist() == [2, 2] and average.running_mean.tolist() == [2, 2]
    assert average.num_batches_tracked == 3
