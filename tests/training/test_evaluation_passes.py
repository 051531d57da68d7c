"""Validation and prediction: averaged weights, smaller parts where memory runs out, and requests to stop."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from backend.training.engine import Trainer
from backend.training.loop_state import Ending, Request, StopAskedError
from backend.training.micro_batch import WHOLE_BATCHES, MicroBatch
from backend.training.out_of_memory import MemoryShortageError
from tests.training.dots import (
    Cramped,
    Dots,
    InParts,
    Watcher,
    batches,
    build,
    plain_network,
    same,
    shortage,
    wayward_network,
    weights,
)

pytestmark = pytest.mark.slow  # trains


def test_validation_and_prediction_use_the_averaged_weights() -> None:
    trainer = build(Watcher())
    trainer.fit()
    before = {k: v for k, v in trainer.validate().items() if k != "loss"}
    batch = next(batches(Dots(5), 5, shuffle_seed=None).iterate_epoch(0))
    maps = trainer.predict(batch)
    with torch.no_grad():
        for parameter in trainer.state.network.parameters():
            parameter.fill_(0)
    assert {k: v for k, v in trainer.validate().items() if k != "loss"} == before
    assert torch.equal(trainer.predict(batch), maps) and maps.dtype == torch.float32
    with torch.no_grad():
        for parameter in trainer.state.ema_network.parameters():
            parameter.fill_(0)
    assert trainer.validate()["mre_px"] != before["mre_px"]


class AsksInValidation(Watcher):
    """Asks once so many batches were validated on; the task counts them."""

    def __init__(self, request: Request, num_batches: int) -> None:
        super().__init__()
        self.request, self.num_batches = request, num_batches
        self.counting = Cramped()

    def poll(self) -> set[Request]:
        return {self.request} if self.counting._calls[False] >= self.num_batches else set()


@pytest.mark.parametrize("num_batches", [1, 3, 5])
def test_a_stop_during_a_validation_gives_it_up_and_loses_no_step(num_batches: int) -> None:
    """Two validation batches an epoch: after the first one of each, of the last epoch too. What comes after a
    resume is an undisturbed training to the bit."""
    whole, first, second = Watcher(), AsksInValidation(Request.STOP, num_batches), Watcher()
    undisturbed = build(whole, network=wayward_network())
    assert undisturbed.fit() is Ending.COMPLETED
    epoch = num_batches // 2
    stopped = build(first, network=wayward_network(), the_task=first.counting)
    assert stopped.fit() is Ending.STOPPED
    assert first.counting._calls[False] == num_batches and len(first.epochs) == epoch
    (saved,) = first.saved
    assert (saved["loop"]["epoch"], saved["loop"]["batch_index"]) == (epoch, 4)
    assert saved["loop"]["global_step"] == 4 * (epoch + 1)

    torch.manual_seed(12345)
    resumed = build(second, network=wayward_network(seed=99))
    resumed.load_state_dict(saved)
    assert resumed.fit() is Ending.COMPLETED
    names = ("train/loss", "lr", "val/loss", "val/mre_px")
    assert first.losses + second.losses == whole.losses
    assert first.values(*names) + second.values(*names) == whole.values(*names)
    assert second.epochs[0]["images_per_s"] is None  # none of its steps was made here
    assert first.bests + second.bests == whole.bests
    assert same(weights(resumed.state.network), weights(undisturbed.state.network))
    assert resumed.loop == undisturbed.loop


def test_finish_during_a_validation_lets_it_go_on_and_makes_no_further_step() -> None:
    watcher = AsksInValidation(Request.FINISH, 3)
    trainer = build(watcher, the_task=watcher.counting)
    assert trainer.fit() is Ending.FINISHED_EARLY
    assert (
        watcher.steps[-1] == 8 and len(watcher.epochs) == 2 and watcher.epochs[-1]["val/mre_px"] is not None
    )
    assert watcher.saved[-1]["loop"]["epoch"] == 2


def test_a_prediction_is_given_up_where_a_stop_is_asked_for() -> None:
    watcher = Watcher({3: Request.STOP})
    trainer = build(watcher)
    watcher.steps.append(3)
    with pytest.raises(StopAskedError):
        trainer.predict(next(iter(batches(Dots(5), 5, shuffle_seed=None).iterate_epoch(0))))


@pytest.mark.parametrize(("call", "room", "epoch"), [(1, 2, 1), (2, 1, 1), (3, 2, 2), (6, 1, 3)])
def test_a_shortage_in_a_validation_leaves_the_training_as_it_is_to_the_bit(
    call: int, room: int, epoch: int
) -> None:
    """Five validation images in batches of 3 and 2: the validation alone is repeated in parts, then and
    later."""
    whole = Watcher()
    undisturbed = build(whole, network=wayward_network())
    undisturbed.fit()
    cramped = Cramped(validation={call: room})
    watcher = InParts(cramped)
    trainer = build(watcher, network=wayward_network(), the_task=cramped)
    assert trainer.fit() is Ending.COMPLETED
    assert trainer.loop.micro_batch == WHOLE_BATCHES and trainer.loop.pass_micro_batch.limit == room
    assert {event.kind for event in watcher.events} == {"oom_retry"}
    first = watcher.events[0]
    where, size = f"the validation of epoch {epoch}", "at most 2 images"
    assert first.message == (
        f"out of memory in {where}: it is repeated with {size} at once (retry 1 of 3); training steps stay "
        f"as they are"
    )
    assert (first.values["epoch"], first.values["back_to_epoch"], first.values["during"]) == (
        epoch,
        None,
        "validation",
    )
    assert first.values["pass_micro_batch"] == 2 and "micro_batch" not in first.values
    assert watcher.steps == whole.steps and watcher.losses == whole.losses
    assert same(weights(trainer.state.network), weights(undisturbed.state.network))
    assert same(weights(trainer.state.ema_network), weights(undisturbed.state.ema_network))
    assert sorted(cramped.rows) == sorted(3 * list(range(14))) and len(watcher.epochs) == 3
    for name in ("val/loss", "val/mre_px"):
        for (in_parts,), (expected,) in zip(watcher.values(name), whole.values(name), strict=True):
            assert in_parts == pytest.approx(expected, rel=1e-5)


def test_a_shortage_in_a_step_leaves_the_validations_whole() -> None:
    cramped = Cramped(training={6: 3})
    trainer = build(Watcher(), network=wayward_network(), the_task=cramped)
    trainer.fit()
    assert trainer.loop.micro_batch == MicroBatch(2, 1) and trainer.loop.pass_micro_batch == WHOLE_BATCHES


def test_a_validation_and_a_step_have_three_retries_each() -> None:
    """Three in validations of 8 images, which fit at last one by one; then three in steps of 14."""
    cramped = Cramped(validation={1: 1}, training={2: 2})
    watcher = Watcher()
    trainer = build(watcher, network=wayward_network(), the_task=cramped, batch_size=14)
    trainer._valid = batches(Dots(8), 8, shuffle_seed=None)
    assert trainer.fit() is Ending.COMPLETED
    assert trainer.loop.pass_micro_batch == MicroBatch(1, 3)
    assert trainer.loop.micro_batch == MicroBatch(2, 3)
    assert [event.values["during"] for event in watcher.events] == ["validation"] * 3 + ["training"] * 3


def test_a_run_stopped_after_a_shortage_in_a_validation_knows_of_it() -> None:
    first = Watcher({6: Request.STOP})
    build(first, network=wayward_network(), the_task=Cramped(validation={1: 2})).fit()
    second, whole = Watcher(), Watcher()
    resumed = build(second, network=wayward_network(seed=9), the_task=Cramped(validation={1: 2}))
    resumed.load_state_dict(first.saved[-1])
    assert resumed.fit() is Ending.COMPLETED and second.events == []
    assert resumed.loop.pass_micro_batch == MicroBatch(2, 1)
    build(whole, network=wayward_network()).fit()
    assert first.losses + second.losses == whole.losses


@pytest.mark.parametrize("room", [1, 0])
def test_a_shortage_in_a_preview_leaves_the_training_as_it_is(room: int) -> None:
    """Asked for within epoch 2. Where not even one image fits, the run ends with all its steps saved."""

    class Cramping(Watcher):
        def answer(self, trainer: Trainer, requests: set[Request]) -> None:
            trainer.state.ema_network.room = room
            super().answer(trainer, requests)
            trainer.state.ema_network.room = 99

    whole, watcher = Watcher(), Cramping({6: Request.PREVIEW_NOW})
    build(whole, network=NarrowDoor()).fit()
    trainer = build(watcher, network=NarrowDoor())
    if room:
        assert trainer.fit() is Ending.COMPLETED and watcher.losses == whole.losses
        assert trainer.loop.pass_micro_batch == MicroBatch(1, 1)
    else:
        with pytest.raises(
            MemoryShortageError, match="in the prediction after epoch 1, with 1 image at once"
        ):
            trainer.fit()
        assert watcher.saved[-1]["loop"]["global_step"] == 6
    assert trainer.loop.micro_batch == WHOLE_BATCHES


def test_a_prediction_is_repeated_in_parts() -> None:
    watcher = Watcher()
    trainer = build(watcher, network=(network := NarrowDoor()))
    batch = next(batches(Dots(5), 5, shuffle_seed=None).iterate_epoch(0))
    maps = trainer.predict(batch)
    trainer.state.ema_network.room = 2
    assert torch.allclose(trainer.predict(batch), maps, atol=1e-6)
    assert [event.values["pass_micro_batch"] for event in watcher.events] == [3, 2] and network.room == 99
    assert watcher.events[0].message.startswith("out of memory in the prediction after epoch 0: ")


class NarrowDoor(nn.Module):
    """Lets so many images in at once."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.room = plain_network(), 99

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > self.room:
            raise shortage()
        maps: Tensor = self.body(images)
        return maps
