"""The training loop: whole trainings, steps, accumulation, and requests between two steps."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from backend.data.dataset import Batch
from backend.training.loop_state import Ending, LoopState, Request
from backend.training.micro_batch import MicroBatch
from backend.training.optim import build_optimizer, build_scheduler
from backend.training.stability import LossWatch
from tests.training.dots import (
    OPTIONS,
    Dots,
    Watcher,
    build,
    plain_network,
    same,
    task,
    wayward_network,
    weights,
)


def test_training_learns_to_find_the_landmarks() -> None:
    watcher = Watcher()
    trainer = build(watcher, epochs=12, lr=5e-2)
    assert trainer.fit() is Ending.COMPLETED
    errors = [mre for (mre,) in watcher.values("val/mre_px")]
    assert errors[-1] < 0.5 * errors[0]
    assert watcher.losses[-1] < 0.7 * watcher.losses[0]


def test_every_epoch_reports_its_loss_rate_and_metrics() -> None:
    watcher = Watcher()
    trainer = build(watcher)
    trainer.fit()
    assert trainer.steps_per_epoch == 4 and watcher.steps == list(range(1, 13))
    for number, metrics in enumerate(watcher.epochs):
        names = {"train/loss", "lr", "images_per_s", "train_s", "epoch_s", "val/loss", "val/mre_px"}
        assert names | {"val/mre_mm", "val/sdr_2mm", "val/mre_px/nose", "val/mre_mm/chin"} <= set(metrics)
        assert metrics["val/mre_mm"] == pytest.approx(0.5 * metrics["val/mre_px"])
        losses = watcher.losses[4 * number : 4 * number + 4]
        sizes = [4, 4, 3, 3]
        mean = sum(loss * size for loss, size in zip(losses, sizes, strict=True)) / 14
        assert metrics["train/loss"] == pytest.approx(mean)
    assert watcher.epochs[-1]["lr"] == pytest.approx(1e-4)
    assert trainer.loop == LoopState(
        epoch=3,
        global_step=12,
        best=trainer.loop.best,
        own_best=trainer.loop.own_best,
        losses=LossWatch(first=watcher.losses[:8], recent=watcher.losses),
    )


def test_training_with_the_same_seed_is_the_same() -> None:
    results = []
    for _ in range(2):
        watcher = Watcher()
        trainer = build(watcher, network=wayward_network())
        trainer.fit()
        results.append((watcher.losses, watcher.values("train/loss", "val/loss", "val/mre_px"), trainer))
    assert results[0][:2] == results[1][:2]
    assert same(weights(results[0][2].state.network), weights(results[1][2].state.network))


def test_another_order_of_the_samples_is_another_training() -> None:
    first, second = Watcher(), Watcher()
    build(first, shuffle_seed=0).fit()
    build(second, shuffle_seed=1).fit()
    assert first.losses != second.losses


@pytest.mark.parametrize("loss", ["kl", "adaptive_wing"])
def test_accumulated_batches_equal_one_big_batch(loss: str) -> None:
    """14 samples, some without a landmark: batches of 5, 5, 4 added up, against one batch of 14."""
    data = Dots(14, missing={0: 0, 3: 1, 4: 0})
    gradients = []
    for batch_size, accumulation in ((14, 1), (5, 3)):
        network = plain_network()
        sums = sum_up_gradients(network)
        trainer = build(
            Watcher(),
            network=network,
            data=data,
            the_task=task(loss),
            batch_size=batch_size,
            accumulation=accumulation,
            epochs=1,
        )
        trainer.fit()
        assert trainer.loop.global_step == 1
        gradients.append((sums, weights(trainer.state.network)))
    (big, big_weights), (small, small_weights) = gradients
    for name, gradient in big.items():
        assert torch.allclose(small[name], gradient, rtol=1e-4, atol=1e-7), name
    if loss != "kl":  # which ignores a map's offset: AdamW makes steps of the rounding errors in its gradient
        pairs = zip(big_weights, small_weights, strict=True)
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in pairs)


def sum_up_gradients(network: nn.Module) -> dict[str, Tensor]:
    """Filled, by backward passes, with the sum of every parameter's gradients."""
    sums: dict[str, Tensor] = {}

    def adder(name: str) -> Callable[[Tensor], None]:
        def add(gradient: Tensor) -> None:
            sums[name] = sums.get(name, torch.zeros_like(gradient)) + gradient.detach()

        return add

    for name, parameter in network.named_parameters():
        parameter.register_hook(adder(name))
    return sums


def test_last_group_of_an_epoch_counts_only_the_samples_it_has() -> None:
    """10 samples in batches of 3, 3, 2, 2 by threes: steps of 8 and 2, against the same steps by hand."""
    data = Dots(10)
    watcher = Watcher()
    trainer = build(
        watcher,
        data=data,
        batch_size=3,
        shuffle_seed=None,
        the_task=task("adaptive_wing"),
        accumulation=3,
        epochs=2,
        clip_norm=0.5,
    )
    trainer.fit()

    network = plain_network()
    optimizer = build_optimizer(network, OPTIONS.lr, OPTIONS.weight_decay)
    scheduler = build_scheduler(optimizer, warmup_steps=2, total_steps=4)
    losses = []
    for epoch in range(2):
        for rows in (range(8), range(8, 10)):
            batch: Batch = torch.utils.data.default_collate([data[(epoch, row)] for row in rows])
            loss = task("adaptive_wing").compute_loss(network(batch.images), batch)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 0.5)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    assert trainer.steps_per_epoch == 2 and trainer.loop.global_step == 4
    assert watcher.losses == pytest.approx(losses, rel=1e-4)
    pairs = zip(weights(trainer.state.network), weights(network), strict=True)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in pairs)


def test_landmark_that_is_never_marked_learns_nothing_and_spoils_nothing() -> None:
    data = Dots(6, missing=dict.fromkeys(range(6), 1))
    network = plain_network()
    before = copy.deepcopy(network)
    watcher = Watcher()
    build(watcher, network=network, data=data, validates=False, weight_decay=0.0).fit()
    head, head_before = network[2], before[2]
    assert torch.equal(head.weight[1], head_before.weight[1]) and head.bias[1] == head_before.bias[1]
    assert not torch.equal(head.weight[0], head_before.weight[0])
    assert all(math.isfinite(loss) for loss in watcher.losses)


def test_a_batch_without_any_landmark_is_trained_through() -> None:
    data = Dots(4, missing={0: 0, 1: 0})
    data.points[:2] = math.nan
    watcher = Watcher()
    build(watcher, data=data, batch_size=2, shuffle_seed=None, epochs=2).fit()
    assert watcher.losses[0] == 0 < watcher.losses[1]


def test_training_goes_on_in_training_mode_after_a_validation() -> None:
    class Spy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = plain_network()
            self.modes: list[bool] = []

        def forward(self, images: Tensor) -> Tensor:
            self.modes.append(self.training)
            maps: Tensor = self.body(images)
            return maps

    trainer = build(Watcher(), network=Spy(), epochs=2)
    trainer.fit()
    assert trainer.state.network.modes == [True] * 8
    assert trainer.state.ema_network.modes == [False] * 4  # two batches, twice


def test_stop_saves_once_and_neither_validates_nor_closes_the_epoch() -> None:
    watcher = Watcher({6: Request.STOP})
    trainer = build(watcher)
    assert trainer.fit() is Ending.STOPPED
    assert len(watcher.saved) == 1 and len(watcher.epochs) == 1
    assert (trainer.loop.epoch, trainer.loop.batch_index, trainer.loop.global_step) == (1, 2, 6)
    assert watcher.saved[0]["loop"]["num_samples"] == 8


def test_finish_ends_the_epoch_with_a_validation_and_a_state_to_go_on_from() -> None:
    watcher = Watcher({6: Request.FINISH})
    trainer = build(watcher)
    assert trainer.fit() is Ending.FINISHED_EARLY
    assert watcher.steps[-1] == 6 and len(watcher.epochs) == 2
    assert watcher.epochs[-1]["val/mre_px"] is not None
    assert watcher.saved[-1]["loop"]["epoch"] == trainer.loop.epoch == 2


def test_finish_within_the_last_epoch_is_a_completed_training() -> None:
    watcher = Watcher({11: Request.FINISH})
    assert build(watcher).fit() is Ending.COMPLETED
    assert len(watcher.epochs) == 3


def test_a_stop_asked_for_before_the_first_step_saves_the_start() -> None:
    class Asks(Watcher):
        def poll(self) -> set[Request]:
            return {Request.STOP}

    first, second, whole = Asks(), Watcher(), Watcher()
    assert build(first, network=wayward_network()).fit() is Ending.STOPPED
    assert first.steps == [] and len(first.saved) == 1
    resumed = build(second, network=wayward_network(seed=9))
    resumed.load_state_dict(first.saved[0])
    assert resumed.fit() is Ending.COMPLETED
    build(whole, network=wayward_network()).fit()
    assert second.losses == whole.losses


def test_save_now_saves_and_changes_nothing() -> None:
    quiet, watcher = Watcher(), Watcher({2: Request.SAVE_NOW, 7: Request.SAVE_NOW})
    build(quiet).fit()
    assert build(watcher).fit() is Ending.COMPLETED
    assert [state["loop"]["global_step"] for state in watcher.saved] == [2, 7]
    assert watcher.losses == quiet.losses and watcher.epochs[-1]["val/loss"] == quiet.epochs[-1]["val/loss"]


def test_preview_now_shows_the_weights_as_they_are_and_changes_nothing() -> None:
    quiet, watcher = Watcher(), Watcher({2: Request.PREVIEW_NOW})
    build(quiet, network=wayward_network()).fit()
    assert build(watcher, network=wayward_network()).fit() is Ending.COMPLETED
    assert watcher.previewed == [2]
    assert watcher.losses == quiet.losses and watcher.epochs[-1]["val/loss"] == quiet.epochs[-1]["val/loss"]


class Reads(TorchFunctionMode):
    """Counts what makes the program wait for a GPU: a value that is read from a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.num = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.item, Tensor.tolist, Tensor.__bool__, Tensor.__float__, Tensor.cpu):
            self.num += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("autocast", [None, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("accumulation", "limit"), [(1, None), (3, 2)])
def test_a_step_waits_for_the_device_once_whatever_its_parts(
    accumulation: int, limit: int | None, autocast: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = build(Watcher(), network=wayward_network(), autocast=autocast, accumulation=accumulation)
    trainer.loop.micro_batch = MicroBatch(limit)
    group = list(trainer._train.iterate_epoch(0))[:accumulation]
    monkeypatch.setattr(trainer.task.__class__, "count_targets", lambda _task, batch: 1)  # main memory's
    for one in (
        trainer.state.optimizer,
        trainer.state.scheduler,
    ):  # the first reads its counters, in the main memory
        monkeypatch.setattr(one, "step", lambda: None)
    with Reads() as reads:
        trainer.train_step(group)
    assert reads.num == 1


def test_gradients_are_clipped_to_the_asked_norm() -> None:
    """With a norm near zero AdamW's epsilon outweighs the gradients: nothing moves."""
    network = plain_network()
    before = weights(network)
    build(Watcher(), network=network, validates=False, clip_norm=1e-14, weight_decay=0.0).fit()
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(weights(network), before, strict=True))


def test_every_stack_of_a_network_is_trained_and_the_last_one_predicts() -> None:
    class TwoStacks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = plain_network(1), plain_network(2)

        def forward(self, images: Tensor) -> Tensor | list[Tensor]:
            stacks = [self.first(images), self.last(images)]
            return stacks if self.training else stacks[-1]

    network = TwoStacks()
    before = weights(network)
    watcher = Watcher()
    build(watcher, network=network, epochs=1).fit()
    assert not any(torch.equal(a, b) for a, b in zip(weights(network), before, strict=True))
    assert watcher.epochs[0]["val/mre_px"] is not None
