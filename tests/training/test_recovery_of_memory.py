"""Recovery from steps that run out of memory: back to the last good state, in smaller parts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from backend.data.dataset import Batch
from backend.training.engine import Trainer
from backend.training.loop_state import Ending, Request
from backend.training.micro_batch import MicroBatch
from backend.training.out_of_memory import MemoryShortageError
from tests.training.dots import (
    Cramped,
    Dots,
    InParts,
    Watcher,
    build,
    same,
    shortage,
    task,
    wayward_network,
    weights,
)

pytestmark = pytest.mark.slow  # trains


def in_parts_from(epoch: int, limit: int, **options: Any) -> tuple[Trainer, Watcher]:
    """A training whose steps are computed in parts from the end of an epoch on, though memory never ran
    out."""
    head = Watcher({4 * epoch: Request.STOP})
    first = build(head, network=wayward_network(), **options)
    state = first.state_dict()
    if epoch:
        assert first.fit() is Ending.STOPPED
        state = head.saved[-1]
    state["loop"]["micro_batch"] = {"limit": limit}
    watcher = Watcher()
    trainer = build(watcher, network=wayward_network(), **options)
    trainer.load_state_dict(state)
    assert trainer.fit() is Ending.COMPLETED
    return trainer, watcher


ERRORS: list[Any] = [
    pytest.param(shortage, id="cuda"),
    pytest.param(lambda: RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), id="cudnn"),
    pytest.param(lambda: RuntimeError("DefaultCPUAllocator: can't allocate memory"), id="cpu"),
    pytest.param(MemoryError, id="python"),
]


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize(("call", "epoch", "step"), [(1, 1, 1), (4, 1, 4), (5, 2, 5), (7, 2, 7), (12, 3, 12)])
def test_training_goes_on_in_parts_and_every_sample_is_seen_once_an_epoch(
    call: int, epoch: int, step: int, error: Callable[[], Exception]
) -> None:
    """Three epochs of four batches of 4. Then just as if the parts had been wanted from the epoch's start."""
    cramped = Cramped(training={call: 2}, error=error)
    watcher = InParts(cramped)
    trainer = build(watcher, network=wayward_network(), the_task=cramped, data=Dots(16))
    assert trainer.fit() is Ending.COMPLETED

    (event,) = watcher.events
    assert event.kind == "oom_retry"
    where = f"out of memory in epoch {epoch}, step {step}: "
    assert event.message.startswith(where)
    assert "a step now takes 2 parts of 2 images; the effective batch stays 4 (retry 1 of 3)" in event.message
    assert event.values["epoch"] == epoch and event.values["step"] == step
    assert event.values["back_to_epoch"] == epoch - 1 and event.values["micro_batch"] == 2
    assert trainer.loop.micro_batch == MicroBatch(2, 1) and trainer.loop.global_step == 12
    done = cramped.rows[watcher.rows_before :]
    assert len(done) == 16 * (4 - epoch)
    for first in range(0, len(done), 16):
        assert sorted(done[first : first + 16]) == list(range(16))
    assert len(watcher.epochs) == 3

    expected, same_parts = in_parts_from(epoch - 1, 2, data=Dots(16))
    assert watcher.losses[-len(same_parts.losses) :] == same_parts.losses
    names = ("train/loss", "lr", "val/loss", "val/mre_px")
    ours, theirs = watcher.values(*names), same_parts.values(*names)
    assert ours[epoch - 1 :] == theirs[epoch - 4 :]  # theirs also closes the epoch before
    assert same(weights(trainer.state.network), weights(expected.state.network))
    assert same(weights(trainer.state.ema_network), weights(expected.state.ema_network))


@pytest.mark.parametrize(
    "words", ["GET was unable to find an engine to execute", "CUBLAS_STATUS_NOT_INITIALIZED"]
)
def test_what_may_mean_memory_is_believed_after_a_good_step_alone(words: str) -> None:
    """In the first step it is a GPU that this torch has no kernels for, and no smaller part helps."""
    cramped = Cramped(training={3: 2}, error=lambda: RuntimeError(words))
    watcher = InParts(cramped)
    trainer = build(watcher, network=wayward_network(), the_task=cramped, data=Dots(16))
    assert trainer.fit() is Ending.COMPLETED
    assert [event.kind for event in watcher.events] == ["oom_retry"] and trainer.loop.micro_batch.limit == 2
    cramped = Cramped(training={1: 2}, error=lambda: RuntimeError(words))
    with pytest.raises(RuntimeError, match=words):
        build(Watcher(), network=wayward_network(), the_task=cramped, data=Dots(16)).fit()


@pytest.mark.parametrize("accumulation", [1, 3])
def test_parts_make_the_same_step_as_the_whole_batch_where_no_statistics_are_taken(accumulation: int) -> None:
    """Without batch normalization, and with landmarks missing: gradients weighted by what is marked are those
    of the batch."""
    results = []
    for room in ({}, {1: 3}):
        cramped = Cramped(training=room, the_task=task("adaptive_wing"))
        watcher = Watcher()
        trainer = build(
            watcher,
            the_task=cramped,
            batch_size=5,
            accumulation=accumulation,
            data=Dots(15, missing={0: 1, 1: 0, 2: 0, 9: 1}),
            min_micro_batch=1,
        )
        trainer.fit()
        results.append((watcher, trainer))
    (whole, undisturbed), (parts, trainer) = results
    assert len(parts.events) == 1 and not whole.events
    effective = 5 * accumulation
    words = f"{2 * accumulation} parts of at most 3 images; the effective batch stays {effective}"
    assert words in parts.events[0].message
    assert whole.losses == pytest.approx(parts.losses, rel=1e-4) and whole.steps == parts.steps
    pairs = zip(weights(undisturbed.state.network), weights(trainer.state.network), strict=True)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in pairs)


def test_after_three_retries_memory_is_short_and_the_good_state_is_saved() -> None:
    """One batch of 14 an epoch; from the second one on nothing fits."""
    cramped = Cramped(training={2: 1})
    watcher = Watcher()
    trainer = build(watcher, network=wayward_network(), the_task=cramped, batch_size=14)
    words = "in epoch 2, step 2, with 2 images at once, after 3 retries"
    with pytest.raises(MemoryShortageError, match=words) as raised:
        trainer.fit()
    assert [event.values["largest_part"] for event in watcher.events] == [7, 4, 2]
    assert [event.values["num_parts"] for event in watcher.events] == [2, 4, 7]
    assert {event.values["effective_batch"] for event in watcher.events} == {14}
    assert raised.value.num_images == 2 and "CUDA out of memory" in raised.value.trace
    last = watcher.saved[-1]
    assert (last["loop"]["epoch"], last["loop"]["global_step"]) == (1, 1)
    assert last["loop"]["micro_batch"] == {"limit": 2, "num_retries": 3} and last["last_good"] is None
    again = build(Watcher(), network=wayward_network(), batch_size=14)
    again.load_state_dict(last)
    assert again.fit() is Ending.COMPLETED


def test_two_images_are_not_torn_apart() -> None:
    watcher = Watcher()
    with pytest.raises(MemoryShortageError, match="in epoch 1, step 1, with 2 images at once, after 1 retry"):
        build(watcher, the_task=Cramped(training={1: 1})).fit()
    assert [event.values["largest_part"] for event in watcher.events] == [2]


@pytest.mark.parametrize("place", ["training", "validation"])
def test_asked_to_stop_a_shortage_ends_training_with_all_that_was_done_saved(place: str) -> None:
    watcher = Watcher()
    cramped = Cramped(training={6: 3}) if place == "training" else Cramped(validation={3: 2})
    trainer = build(watcher, network=wayward_network(), the_task=cramped, on_oom="stop")
    where = "epoch 2, step 6, with 4" if place == "training" else "the validation of epoch 2, with 3"
    with pytest.raises(MemoryShortageError, match=f"out of memory in {where} images at once$"):
        trainer.fit()
    assert watcher.events == [] and len(watcher.epochs) == 1 and len(watcher.saved) == 1
    last = watcher.saved[0]
    assert last["loop"]["global_step"] == (4 if place == "training" else 8)
    again, whole = Watcher(), Watcher()
    undisturbed = build(whole, network=wayward_network())
    assert undisturbed.fit() is Ending.COMPLETED
    resumed = build(again, network=wayward_network(seed=9))
    resumed.load_state_dict(last)
    assert resumed.fit() is Ending.COMPLETED
    assert same(weights(resumed.state.network), weights(undisturbed.state.network))
    assert [*watcher.values("val/loss"), *again.values("val/loss")] == whole.values("val/loss")


@pytest.mark.parametrize("stop_at", [5, 6, 8, 10])
def test_run_interrupted_after_a_shortage_goes_on_in_the_same_parts(stop_at: int) -> None:
    whole_task = Cramped(training={6: 3})
    whole = InParts(whole_task)
    undisturbed = build(whole, network=wayward_network(), the_task=whole_task)
    assert undisturbed.fit() is Ending.COMPLETED and len(whole.events) == 1

    first_task = Cramped(training={6: 3})
    first, second = InParts(first_task, {stop_at: Request.STOP}), Watcher()
    assert build(first, network=wayward_network(), the_task=first_task).fit() is Ending.STOPPED
    torch.manual_seed(12345)
    resumed = build(second, network=wayward_network(seed=99), the_task=Cramped(training={1: 3}))
    resumed.load_state_dict(first.saved[-1])
    assert resumed.fit() is Ending.COMPLETED and second.events == []
    assert first.losses + second.losses == whole.losses
    assert same(weights(resumed.state.network), weights(undisturbed.state.network))
    assert resumed.loop == undisturbed.loop


def test_killed_right_after_a_shortage_the_saved_state_knows_of_the_parts() -> None:
    cramped = Cramped(training={6: 3})
    watcher = InParts(cramped, {5: Request.STOP})
    build(watcher, network=wayward_network(), the_task=cramped).fit()
    saved = watcher.saved[0]["loop"]  # when memory ran out; the second is that of the stop
    assert saved["micro_batch"] == {"limit": 2, "num_retries": 1} and saved["global_step"] == 4


def test_a_shortage_within_the_update_leaves_no_half_of_it() -> None:
    """AdamW makes its states in the first step, under a scaler that has unscaled its gradients by then."""
    watcher = Watcher()
    trainer = build(watcher, network=wayward_network(), autocast=torch.float16)
    step = trainer.state.optimizer.step

    def fail_once(*arguments: Any, **keywords: Any) -> Any:
        trainer.state.optimizer.step = step  # type: ignore[method-assign]
        step(*arguments, **keywords)
        raise shortage()

    trainer.state.optimizer.step = fail_once  # type: ignore[method-assign]
    assert trainer.fit() is Ending.COMPLETED
    assert [event.kind for event in watcher.events] == ["oom_retry"]
    expected, same_parts = in_parts_from(0, 2, autocast=torch.float16)
    assert watcher.losses == same_parts.losses
    assert same(weights(trainer.state.network), weights(expected.state.network))


def test_an_unstable_step_and_a_shortage_do_not_forget_each_other() -> None:
    """A bad loss in epoch 2 after memory ran out in it: back again, at a third of the rate and in the same
    parts."""

    class Both(Cramped):
        def compute_loss(self, outputs: Any, batch: Batch) -> Tensor:
            loss = super().compute_loss(outputs, batch)
            return loss * math.nan if self._calls == {True: 12, False: 2} else loss

    both = Both(training={6: 3})
    watcher = Watcher()
    trainer = build(watcher, network=wayward_network(), the_task=both)
    assert trainer.fit() is Ending.COMPLETED
    assert [event.kind for event in watcher.events] == ["oom_retry", "lr_lowered"]
    assert trainer.loop.micro_batch == MicroBatch(2, 1) and trainer.loop.num_recoveries == 1


def test_an_error_that_is_no_shortage_is_not_survived() -> None:
    watcher = Watcher()
    cramped = Cramped(training={6: 0}, error=lambda: RuntimeError("shapes differ"))
    with pytest.raises(RuntimeError, match="shapes differ"):
        build(watcher, the_task=cramped).fit()
    assert watcher.events == [] and watcher.saved == []
