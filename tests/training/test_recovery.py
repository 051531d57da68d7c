"""Recovery from unstable steps: back to the last good state, at a lower learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from backend.data.dataset import Batch
from backend.training.engine import Metrics, Trainer
from backend.training.loop_state import Ending, Request
from backend.training.micro_batch import MicroBatch
from backend.training.stability import DivergedError
from tests.training.dots import (
    BAD,
    Cramped,
    Spoiled,
    Watcher,
    assert_finite,
    build,
    plain_network,
    same,
    times_nan,
    wayward_network,
    weights,
)

pytestmark = pytest.mark.slow  # trains


@pytest.mark.parametrize(("spoil", "word"), BAD)
def test_asked_to_stop_training_ends_at_the_last_good_state_and_saves_it(
    spoil: Callable[[Tensor], Tensor], word: str
) -> None:
    """At step 7, in the second epoch of four steps: back to the end of the first."""
    watcher, healthy = Watcher(), Watcher({4: Request.STOP})
    trainer = build(watcher, the_task=Spoiled({7}, spoil), on_divergence="stop")
    with pytest.raises(DivergedError, match=f"{word}.* at step 7 in epoch 2"):
        trainer.fit()
    assert watcher.steps == [1, 2, 3, 4, 5, 6] and trainer.loop.global_step == 4
    assert watcher.events == [] and trainer.loop.lr_scale == 1
    build(healthy).fit()
    for name in ("raw_model_state_dict", "model_state_dict"):
        assert same(list(watcher.saved[-1][name].values()), list(healthy.saved[0][name].values()))
    assert watcher.saved[-1]["last_good"] is None


@pytest.mark.parametrize(("spoil", "word"), BAD)
def test_after_a_bad_step_the_epoch_is_repeated_at_a_third_of_the_rate(
    spoil: Callable[[Tensor], Tensor], word: str
) -> None:
    watcher, undisturbed = Watcher(), Watcher()
    trainer = build(watcher, network=wayward_network(), the_task=Spoiled({7}, spoil))
    assert trainer.fit() is Ending.COMPLETED
    build(undisturbed, network=wayward_network()).fit()
    assert watcher.steps == [1, 2, 3, 4, 5, 6, *range(5, 13)]
    assert watcher.losses[6] == watcher.losses[4]  # the same weights, batch and random numbers again
    assert watcher.losses[:6] == undisturbed.losses[:6] and watcher.losses[6:] != undisturbed.losses[4:]
    rates = [
        (before["lr"], after["lr"]) for before, after in zip(undisturbed.epochs, watcher.epochs, strict=True)
    ]
    assert rates[0][0] == rates[0][1]
    assert all(after == pytest.approx(before / 3) for before, after in rates[1:])
    (event,) = watcher.events
    assert event.kind == "lr_lowered" and word in event.message and "1 of 3" in event.message
    assert event.values["epoch"] == 2 and event.values["step"] == 6 and event.values["back_to_epoch"] == 1
    assert event.values["old_lr"] == 1e-2 and event.values["new_lr"] == pytest.approx(1e-2 / 3)
    assert word in event.values["why"]
    assert trainer.loop.num_recoveries == 1 and trainer.loop.lr_scale == pytest.approx(1 / 3)


def test_after_three_recoveries_the_training_has_diverged_and_the_good_state_is_saved() -> None:
    watcher = Watcher()
    trainer = build(watcher, the_task=Spoiled(range(6, 1000), times_nan))
    with pytest.raises(DivergedError, match=r"loss became nan at step 5 in epoch 2 \(after 3 retries"):
        trainer.fit()
    rates = [(event.values["old_lr"], event.values["new_lr"]) for event in watcher.events]
    assert rates == [pytest.approx((1e-2 / 3**n, 1e-2 / 3 ** (n + 1))) for n in range(3)]
    last = watcher.saved[-1]
    assert (last["loop"]["epoch"], last["loop"]["global_step"], last["loop"]["num_recoveries"]) == (1, 4, 3)
    again = build(Watcher())
    again.load_state_dict(last)
    assert again.fit() is Ending.COMPLETED


def test_the_good_state_is_not_touched_by_what_is_trained_after_it() -> None:
    """Three recoveries to one state, each after steps from it: all begin with the same loss."""
    watcher = Watcher()
    with pytest.raises(DivergedError):
        build(watcher, network=wayward_network(), the_task=Spoiled({8, 12, 16, 20}, times_nan)).fit()
    fifth = [loss for step, loss in zip(watcher.steps, watcher.losses, strict=True) if step == 5]
    assert len(fifth) == 4 and len(set(fifth)) == 1
    sixth = [loss for step, loss in zip(watcher.steps, watcher.losses, strict=True) if step == 6]
    assert len(set(sixth)) == 4


def test_a_rate_at_its_floor_is_not_tried_again() -> None:
    watcher = Watcher()
    with pytest.raises(DivergedError):
        build(watcher, lr=2e-6, the_task=Spoiled(range(2, 1000), times_nan)).fit()
    assert [event.values["new_lr"] for event in watcher.events] == [pytest.approx(1e-6)]


@pytest.mark.parametrize("stop_at", [5, 7, 8, 9])
def test_run_interrupted_after_a_recovery_goes_on_exactly(stop_at: int) -> None:
    """Bad at calls 7 (step 7, epoch 2), and at 12 (then step 10, epoch 3). Stopped at a step of the repeated
    epoch, at its end and in the next one, where the second recovery must go back just as far as
    undisturbed."""
    options: dict[str, Any] = {"epochs": 4}
    calls = {7, 13}
    whole = Watcher()
    undisturbed = build(whole, network=wayward_network(), the_task=Spoiled(calls, times_nan), **options)
    assert undisturbed.fit() is Ending.COMPLETED and undisturbed.loop.num_recoveries == 2

    class StopLate(Watcher):
        """Stops at a step only after the first recovery."""

        def poll(self) -> set[Request]:
            return super().poll() if self.events else set()

    first = StopLate({stop_at: Request.STOP})
    spoiled = Spoiled(calls, times_nan)
    assert build(first, network=wayward_network(), the_task=spoiled, **options).fit() is Ending.STOPPED
    torch.manual_seed(12345)
    second = Watcher()
    resumed = build(second, network=wayward_network(seed=99), the_task=spoiled, **options)
    resumed.load_state_dict(first.saved[-1])
    assert resumed.fit() is Ending.COMPLETED

    assert first.steps + second.steps == whole.steps and first.losses + second.losses == whole.losses
    names = ("train/loss", "lr", "val/loss", "val/mre_px")
    assert first.values(*names) + second.values(*names) == whole.values(*names)
    assert first.events + second.events == whole.events
    assert same(weights(resumed.state.ema_network), weights(undisturbed.state.ema_network))
    assert resumed.loop == undisturbed.loop


def test_a_state_saved_before_there_were_recoveries_can_be_gone_on_from() -> None:
    first, second, whole = Watcher({6: Request.STOP}), Watcher(), Watcher()
    build(first, network=wayward_network()).fit()
    state = first.saved[0]
    del state["last_good"]
    for name in ("lr_scale", "num_recoveries", "losses"):
        del state["loop"][name]
    resumed = build(second, network=wayward_network(seed=9))
    resumed.load_state_dict(state)
    assert resumed.fit() is Ending.COMPLETED
    build(whole, network=wayward_network()).fit()
    assert first.losses + second.losses == whole.losses


def test_a_loss_that_jumps_for_good_is_gone_back_from_across_the_epochs() -> None:
    """14 epochs of 4 steps. Ten times as large and more from step 43 on: noticed at step 50, in epoch 13. The
    epochs 11 and 12, which end under the spike, are no good states: back to the end of the tenth."""
    watcher = Watcher()
    jump = Spoiled(range(43, 51), lambda loss: 100 * loss)
    trainer = build(watcher, epochs=14, the_task=jump)
    assert trainer.fit() is Ending.COMPLETED
    (event,) = watcher.events
    assert event.values["step"] == 50 and event.values["epoch"] == 13 and event.values["back_to_epoch"] == 10
    assert watcher.steps == [*range(1, 50), *range(41, 57)]
    assert "10 times its median" in event.message
    assert trainer.loop.losses.spike == []


def test_a_spike_under_way_is_resumed_with_the_state_to_go_back_to() -> None:
    """As above, stopped at the end of epoch 11, whose own state is suspect."""
    options: dict[str, Any] = {"epochs": 14}
    whole, first, second = Watcher(), Watcher({44: Request.STOP}), Watcher()
    build(whole, the_task=Spoiled(range(43, 51), lambda loss: 100 * loss), **options).fit()
    jump = Spoiled(range(43, 51), lambda loss: 100 * loss)
    build(first, the_task=jump, **options).fit()
    assert first.saved[0]["last_good"]["loop"]["global_step"] == 40
    resumed = build(second, network=plain_network(seed=5), the_task=jump, **options)
    resumed.load_state_dict(first.saved[0])
    assert resumed.fit() is Ending.COMPLETED
    assert first.losses + second.losses == whole.losses and second.events == whole.events


class Overflowing(Watcher):
    """Spoils a tensor of the trainer after a step, as an infinite update would."""

    def __init__(self, step: int, spoil: Callable[[Trainer], Tensor], ask: Request | None) -> None:
        super().__init__({step: ask} if ask else None)
        self.step, self.spoil = step, spoil
        self.trainer: Trainer | None = None
        self.num_spoiled = 0

    def poll(self) -> set[Request]:
        assert self.trainer is not None
        if self.steps and self.steps[-1] == self.step and not self.num_spoiled:
            self.num_spoiled += 1
            with torch.no_grad():
                self.spoil(self.trainer)[0] = math.nan
        return super().poll()

    def on_epoch(self, trainer: Trainer, metrics: Metrics, is_best: bool) -> None:
        assert_finite(trainer.state_dict())
        super().on_epoch(trainer, metrics, is_best)

    def save_last(self, trainer: Trainer) -> None:
        assert_finite(trainer.state_dict())
        super().save_last(trainer)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda trainer: trainer.state.network[0].weight,
        lambda trainer: trainer.state.ema_network[1].running_var,
        lambda trainer: next(iter(trainer.state.optimizer.state.values()))["exp_avg_sq"],
    ],
    ids=["weights", "average", "optimizer"],
)
@pytest.mark.parametrize("ask", [None, Request.STOP, Request.SAVE_NOW, Request.PREVIEW_NOW, Request.FINISH])
def test_a_state_with_a_nan_in_it_is_never_shown_or_saved(
    spoil: Callable[[Trainer], Tensor], ask: Request | None
) -> None:
    """After the last step of epoch 2, where no later loss would betray it."""
    watcher = Overflowing(8, spoil, ask)
    watcher.trainer = build(watcher, network=wayward_network())
    watcher.trainer.fit()
    (event,) = watcher.events
    assert "not finite numbers after step 8" in event.message
    assert watcher.steps[:9] == [*range(1, 9), *([] if ask is Request.STOP else [5])]


def test_weights_that_are_no_numbers_at_the_start_are_said_to_be() -> None:
    network = plain_network()
    with torch.no_grad():
        network[0].weight[0] = math.nan
    with pytest.raises(DivergedError, match="initial weights"):
        build(Watcher(), network=network).fit()


def test_gradients_that_overflow_at_every_scale_are_a_divergence() -> None:
    watcher = Watcher()
    spoiled = Spoiled(range(2, 1000), lambda loss: loss + torch.sqrt(loss - loss))
    trainer = build(watcher, the_task=spoiled, autocast=torch.float16, epochs=30)
    with pytest.raises(DivergedError, match="at every scale"):
        trainer.fit()
    assert len(watcher.events) == 3 and 1 <= trainer.state.scaler.get_scale() < 2.0**4


def test_going_back_after_an_unstable_step_keeps_what_is_known_of_validations() -> None:
    class Both(Cramped):
        def compute_loss(self, outputs: Any, batch: Batch) -> Tensor:
            loss = super().compute_loss(outputs, batch)
            return loss * math.nan if self._calls[True] == 7 else loss

    watcher = Watcher()
    trainer = build(watcher, network=wayward_network(), the_task=Both(validation={1: 2}))
    assert trainer.fit() is Ending.COMPLETED
    assert [event.kind for event in watcher.events] == ["oom_retry", "lr_lowered"]
    assert trainer.loop.pass_micro_batch == MicroBatch(2, 1)
