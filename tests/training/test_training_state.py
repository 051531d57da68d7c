"""The state of a training: its average, and resuming from it on the same or another device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from backend.training.loop_state import Ending, Request
from tests.training.dots import (
    BAD,
    Spoiled,
    Watcher,
    build,
    plain_network,
    same,
    wayward_network,
    weights,
)


def test_average_lags_behind_and_without_decay_it_is_the_network() -> None:
    for decay, is_same in ((0.9, False), (0.0, True)):
        trainer = build(Watcher(), network=wayward_network(), ema_decay=decay)
        trainer.fit()
        pairs = zip(weights(trainer.state.network), weights(trainer.state.ema_network), strict=True)
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in pairs) is is_same


@pytest.mark.parametrize(("stop_at", "accumulation"), [(1, 1), (4, 1), (6, 1), (11, 1), (3, 2)])
def test_resumed_training_has_exactly_the_losses_of_an_undisturbed_one(
    stop_at: int, accumulation: int
) -> None:
    """Stopped within an epoch and at its last step; 3 epochs of 4 or 2 steps."""
    options: dict[str, Any] = {"epochs": 3, "accumulation": accumulation}
    whole = Watcher()
    undisturbed = build(whole, network=wayward_network(), **options)
    assert undisturbed.fit() is Ending.COMPLETED

    first = Watcher({stop_at: Request.STOP})
    assert build(first, network=wayward_network(), **options).fit() is Ending.STOPPED
    assert first.steps[-1] == stop_at and len(first.saved) == 1

    torch.manual_seed(12345)  # a new process has other random numbers
    second = Watcher()
    resumed = build(second, network=wayward_network(seed=99), **options)
    resumed.load_state_dict(first.saved[0])
    assert resumed.fit() is Ending.COMPLETED

    assert first.losses + second.losses == whole.losses
    assert first.steps + second.steps == whole.steps
    names = ("train/loss", "lr", "val/loss", "val/mre_px")
    assert first.values(*names) + second.values(*names) == whole.values(*names)
    assert first.bests + second.bests == whole.bests
    assert same(weights(resumed.state.network), weights(undisturbed.state.network))
    assert same(weights(resumed.state.ema_network), weights(undisturbed.state.ema_network))
    assert resumed.loop == undisturbed.loop


def test_resuming_a_finished_run_trains_no_more() -> None:
    trainer = build(Watcher())
    trainer.fit()
    watcher = Watcher()
    again = build(watcher, network=plain_network(seed=1))
    again.load_state_dict(trainer.state_dict())
    assert again.fit() is Ending.COMPLETED
    assert watcher.steps == [] and watcher.epochs == []


@pytest.mark.parametrize("autocast", [None, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("spoil", "word"), BAD)
def test_what_is_no_number_never_reaches_the_average(
    spoil: Callable[[Tensor], Tensor],
    word: str,
    autocast: torch.dtype | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The loss is read after the update, which a bad one spoils; the average follows only then."""
    trainer = build(
        Watcher(), network=wayward_network(), the_task=Spoiled({7}, spoil), autocast=autocast, epochs=2
    )
    update, seen = trainer.state.average.update, []

    def watched(decay: float) -> None:
        seen.append(all(torch.isfinite(tensor).all() for tensor in weights(trainer.state.network)))
        update(decay)

    monkeypatch.setattr(trainer.state.average, "update", watched)
    assert trainer.fit() is Ending.COMPLETED
    assert len(seen) >= 8 and all(seen)
    assert all(torch.isfinite(tensor).all() for tensor in weights(trainer.state.ema_network))


def test_overflow_under_the_scaler_skips_a_step_and_is_no_divergence() -> None:
    """The scaler of a CPU in float16: an infinite gradient halves its scale, and the weights stay."""
    watcher = Watcher()
    spoiled = Spoiled({2}, lambda loss: loss + torch.sqrt(loss - loss))
    trainer = build(watcher, the_task=spoiled, autocast=torch.float16, epochs=1)
    assert trainer.fit() is Ending.COMPLETED
    assert watcher.events == [] and watcher.steps == [1, 2, 3, 4]
    assert trainer.state.scaler.get_scale() == 2.0**15


def test_a_first_step_that_overflows_moves_neither_weights_nor_schedule() -> None:
    """Torch warns where a schedule is moved on before its optimizer made a step, and warnings are errors
    here."""
    watcher, undisturbed = Watcher(), Watcher()
    spoiled = Spoiled({1}, lambda loss: loss + torch.sqrt(loss - loss))
    build(watcher, the_task=spoiled, autocast=torch.float16, epochs=2, warmup_epochs=2).fit()
    build(undisturbed, autocast=torch.float16, epochs=2, warmup_epochs=2).fit()
    rates = [[metrics["lr"] for metrics in one.epochs] for one in (watcher, undisturbed)]
    assert rates[0] == [pytest.approx(1e-2 * 4 / 8), pytest.approx(1e-2 * 8 / 8)]
    assert rates[1][0] == pytest.approx(1e-2 * 5 / 8)


@pytest.mark.parametrize(("before", "after"), [(None, torch.float16), (torch.float16, None)])
def test_a_run_goes_on_on_a_device_that_computes_in_another_precision(
    before: torch.dtype | None, after: torch.dtype | None
) -> None:
    watcher = Watcher({3: Request.STOP})
    build(watcher, autocast=before).fit()
    trainer = build(Watcher(), autocast=after)
    trainer.load_state_dict(watcher.saved[-1])
    assert trainer.fit() is Ending.COMPLETED
    assert (
        trainer.state_dict()["scaler"].keys()
        == build(Watcher(), autocast=after).state_dict()["scaler"].keys()
    )


def test_bfloat16_needs_no_scaler_and_learns_as_float32_does() -> None:
    """It is as wide in range as float32, with 8 bits of precision: losses agree to a few per cent."""
    full, half = Watcher(), Watcher()
    build(full).fit()
    trainer = build(half, autocast=torch.bfloat16)
    assert trainer.fit() is Ending.COMPLETED and not trainer.state.scaler.is_enabled()
    assert half.losses == pytest.approx(full.losses, rel=0.05) and half.losses != full.losses
