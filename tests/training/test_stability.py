from __future__ import annotations

import math
import random
from collections.abc import Iterable

import pytest
import torch
from torch import nn

from backend.training.stability import (
    MIN_STEPS,
    SPIKE_STEPS,
    WINDOW_STEPS,
    LossWatch,
    UnstableError,
    copy_to_main_memory,
    is_finite,
    is_spike,
    lower_lr,
)


def watch(losses: Iterable[float]) -> int | None:
    """The step (from 1) at which the watch calls the training unstable, if it does."""
    losses_watch = LossWatch()
    for step, loss in enumerate(losses, start=1):
        try:
            losses_watch.note(loss, step)
        except UnstableError as error:
            assert f"at step {step}" in str(error)
            return step
    return None


def falling(num: int) -> list[float]:
    """Twelve at first, one in the end, as a training's loss falls, with noise of half as much again."""
    rng = random.Random(0)
    return [(1 + 11 * math.exp(-step / 40)) * rng.lognormvariate(0, 0.4) for step in range(num)]


# It fires


@pytest.mark.parametrize("factor", [30, 1e6])
def test_a_loss_that_jumps_and_stays_is_unstable_after_eight_steps(factor: float) -> None:
    losses = falling(300)
    assert watch([*losses, *(factor * loss for loss in losses[200:])]) == 300 + SPIKE_STEPS


def test_a_loss_that_explodes_is_unstable_before_it_overflows() -> None:
    assert watch([*falling(300), *(1.5**n for n in range(1, 200))]) is not None


def test_batches_without_a_landmark_do_not_hide_it() -> None:
    spiked = [value for n in range(20) for value in (0.0, 50.0 + n)]
    assert watch([*falling(300), *spiked]) == 300 + 2 * SPIKE_STEPS


def test_a_training_that_went_wrong_in_its_first_steps_is_unstable_in_the_end() -> None:
    rng = random.Random(0)
    assert watch([2.0] * 10 + [2000 * rng.lognormvariate(0, 0.4) for _ in range(300)]) == 10 + WINDOW_STEPS


def test_the_state_is_not_calm_from_the_first_step_that_stands_out_on() -> None:
    losses_watch = LossWatch()
    for step in range(10):
        losses_watch.note(2.0, step)
    assert losses_watch.is_calm
    losses_watch.note(21.0, 10)
    assert not losses_watch.is_calm and losses_watch.spike == []
    for step in range(11, 60):
        losses_watch.note(0.1, step)
    assert losses_watch.is_calm
    losses_watch.note(22.0, 60)
    assert losses_watch.spike == [22.0]


# It stays silent


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.0, 3.0])
def test_noise_however_heavy_its_tails_is_never_unstable(seed: int, sigma: float) -> None:
    """Log-normal: at sigma 3, one loss in a thousand is ten thousand times the median."""
    rng = random.Random(seed)
    assert watch(rng.lognormvariate(0, sigma) for _ in range(20_000)) is None


def test_easy_and_hard_batches_in_any_order_are_never_unstable() -> None:
    """A third of the batches is a hundred times as hard; by the factor over the median alone this would
    fire."""
    rng = random.Random(0)
    losses = [rng.choice([1.0, 1.0, 100.0]) * rng.uniform(0.5, 1.5) for _ in range(20_000)]
    runs = "".join("x" if loss > 10 else "." for loss in losses)
    assert "x" * SPIKE_STEPS in runs
    assert watch(losses) is None


def test_first_steps_are_never_unstable() -> None:
    assert watch(1.3**step for step in range(MIN_STEPS + SPIKE_STEPS - 1)) is None


def test_single_outliers_and_short_runs_of_them_are_not_unstable() -> None:
    losses = falling(600)
    losses[200] *= 1e4
    losses[300:307] = [1e6 * (n + 1) for n in range(SPIKE_STEPS - 1)]
    assert watch(losses) is None


def test_a_data_set_with_hardly_any_landmarks_is_not_unstable() -> None:
    """Nine batches in ten show none (loss 0): the median must not become 0, nor anything else ten times
    it."""
    rng = random.Random(0)
    assert watch(rng.lognormvariate(0, 1) if rng.random() < 0.1 else 0.0 for _ in range(20_000)) is None


def test_a_rough_start_that_calms_down_is_not_unstable() -> None:
    assert watch([2.0] * 8 + [50.0] * (WINDOW_STEPS - 1) + falling(500)) is None


def test_a_falling_and_a_slowly_rising_loss_are_not_unstable() -> None:
    assert watch(falling(2000)) is None
    assert watch(falling(300) + [1 + step / 50 for step in range(5000)]) is None


def test_a_spike_needs_a_filled_window_and_stands_above_all_of_it() -> None:
    assert not is_spike(100.0, [1.0] * (MIN_STEPS - 1)) and is_spike(100.0, [1.0] * MIN_STEPS)
    assert not is_spike(100.0, [*[1.0] * MIN_STEPS, 101.0])
    assert not is_spike(10.0, [1.0] * MIN_STEPS)


def test_the_window_is_bounded_and_a_spike_that_ends_joins_it() -> None:
    losses_watch = LossWatch()
    for step in range(500):
        losses_watch.note(1.0, step)
    losses_watch.note(99.0, 500)
    assert losses_watch.spike == [99.0] and losses_watch.recent == [1.0] * WINDOW_STEPS
    losses_watch.note(1.0, 501)
    assert losses_watch.spike == [] and losses_watch.recent == [*[1.0] * (WINDOW_STEPS - 2), 99.0, 1.0]


# What is done then


def test_the_rate_is_cut_to_a_third_three_times_and_not_below_its_floor() -> None:
    assert lower_lr(3e-4, 0) == pytest.approx(1e-4) and lower_lr(3e-4, 2) == pytest.approx(1e-4)
    assert lower_lr(3e-4, 3) is None
    assert lower_lr(2e-6, 0) == 1e-6
    assert lower_lr(1e-6, 0) is None and lower_lr(5e-7, 0) is None


def test_numbers_in_a_nest_are_finite_or_not() -> None:
    state = {"a": torch.zeros(3), "b": [torch.tensor([1, 2]), {"c": torch.zeros(0), "d": 1.5}]}
    assert is_finite(state)
    for bad in (math.nan, math.inf, -math.inf):
        assert not is_finite({**state, "e": [torch.tensor([0.0, bad])]})


def test_a_copy_has_memory_of_its_own_and_keeps_its_layout() -> None:
    layer = nn.Conv2d(4, 4, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    copied = copy_to_main_memory({"state": layer.state_dict(), "epoch": 3})
    before = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight.fill_(0)
    assert torch.equal(copied["state"]["weight"], before) and copied["epoch"] == 3
    assert copied["state"]["weight"].stride() == layer.weight.stride()
