from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from backend.data.dataset import Batch, Batches, EpochBatches
from backend.training.engine import (
    DivergedError,
    Ending,
    LoopState,
    Metrics,
    Request,
    Trainer,
    TrainerOptions,
    in_groups,
)
from backend.training.optim import build_optimizer, build_scheduler
from backend.training.task import LandmarkTask

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = 32
LANDMARKS = ("nose", "chin")
OPTIONS = TrainerOptions(
    epochs=3,
    lr=1e-2,
    warmup_epochs=1,
    weight_decay=1e-3,
    clip_norm=5.0,
    ema_decay=0.9,
    accumulation=1,
    mixed_precision=False,
)


class Dots(Dataset[Batch]):
    """Images with one bright pixel per landmark; the epoch adds its own noise, as an augmentation would."""

    def __init__(self, num: int, missing: Mapping[int, int] | None = None) -> None:
        generator = torch.Generator().manual_seed(0)
        self.points = torch.randint(4, SIZE - 4, (num, len(LANDMARKS), 2), generator=generator).float()
        for row, landmark in (missing or {}).items():
            self.points[row, landmark] = math.nan

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, key: tuple[int, int]) -> Batch:
        epoch, index = key
        generator = torch.Generator().manual_seed(1000 * epoch + index)
        images = 0.1 * torch.randn(3, SIZE, SIZE, generator=generator)
        for channel, (x, y) in enumerate(self.points[index].tolist()):
            if not math.isnan(x):
                images[channel, int(y), int(x)] += 3
        return Batch(
            images=images,
            points_xy_input=self.points[index],
            points_xy_image=self.points[index].double(),
            affine_input_to_image=torch.eye(3, dtype=torch.float64)[None, :2],
            mm_per_px_xy=torch.full((2,), 0.5, dtype=torch.float64),
            rows=torch.tensor(index),
        )


class Watcher:
    """Notes everything and asks for what a test wants after a given step."""

    def __init__(self, ask_at: Mapping[int, Request] | None = None) -> None:
        self.ask_at = ask_at or {}
        self.steps: list[int] = []
        self.losses: list[float] = []
        self.epochs: list[Metrics] = []
        self.bests: list[bool] = []
        self.saved: list[dict[str, Any]] = []
        self.best_after: list[int] = []

    def poll(self) -> set[Request]:
        request = self.ask_at.get(self.steps[-1])
        return {request} if request else set()

    def on_step(self, loop: LoopState, num_steps: int, loss: float, images_per_s: float) -> None:
        self.steps.append(loop.global_step)
        self.losses.append(loss)

    def on_epoch(self, trainer: Trainer, metrics: Metrics, is_best: bool) -> None:
        self.epochs.append(metrics)
        self.bests.append(is_best)
        self.best_after.append(trainer.loop.best_epoch)

    def save_last(self, trainer: Trainer) -> None:
        buffer = io.BytesIO()
        torch.save(trainer.state_dict(), buffer)
        self.saved.append(torch.load(io.BytesIO(buffer.getvalue()), weights_only=True))

    def values(self, *names: str) -> list[tuple[Any, ...]]:
        return [tuple(metrics.get(name) for name in names) for metrics in self.epochs]


def plain_network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, len(LANDMARKS), 1))


def wayward_network(seed: int = 0) -> nn.Module:
    """With batch normalisation and dropout: what an inexact resume would betray."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Conv2d(8, len(LANDMARKS), 1),
    )


def task(loss: str = "kl") -> LandmarkTask:
    decoder = "expectation" if loss == "kl" else "dark"
    return LandmarkTask(LANDMARKS, (SIZE, SIZE), 1, 2.0, loss, decoder)


def batches(data: Dots, batch_size: int, *, shuffle_seed: int | None = 0) -> Batches:
    sampler = EpochBatches(len(data), batch_size, shuffle_seed=shuffle_seed)
    return Batches(data, sampler, num_workers=0, pin_memory=False)


def build(
    watcher: Watcher,
    *,
    network: nn.Module | None = None,
    data: Dots | None = None,
    batch_size: int = 4,
    shuffle_seed: int | None = 0,
    validates: bool = True,
    the_task: Any = None,
    **options: Any,
) -> Trainer:
    valid = batches(Dots(5), 3, shuffle_seed=None) if validates else None
    return Trainer(
        plain_network() if network is None else network,
        the_task or task(),
        batches(data or Dots(14), batch_size, shuffle_seed=shuffle_seed),
        valid,
        device=torch.device("cpu"),
        options=TrainerOptions(**{**OPTIONS.__dict__, **options}),
        observer=watcher,
    )


def weights(network: nn.Module) -> list[Tensor]:
    return [tensor.clone() for tensor in network.state_dict().values()]


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# A whole training


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
        best_mre_px=trainer.loop.best_mre_px,
        best_mre_mm=trainer.loop.best_mre_mm,
        best_epoch=trainer.loop.best_epoch,
    )


def test_training_with_the_same_seed_is_the_same() -> None:
    results = []
    for _ in range(2):
        watcher = Watcher()
        trainer = build(watcher, network=wayward_network())
        trainer.fit()
        results.append((watcher.losses, watcher.values("train/loss", "val/loss", "val/mre_px"), trainer))
    assert results[0][:2] == results[1][:2]
    assert same(weights(results[0][2].network), weights(results[1][2].network))


def test_another_order_of_the_samples_is_another_training() -> None:
    first, second = Watcher(), Watcher()
    build(first, shuffle_seed=0).fit()
    build(second, shuffle_seed=1).fit()
    assert first.losses != second.losses


# Accumulation


@pytest.mark.parametrize("loss", ["kl", "adaptive_wing"])
def test_accumulated_batches_equal_one_big_batch(loss: str) -> None:
    """14 samples: batches of 5, 5, 4 added up, against one batch of 14."""
    gradients = []
    for batch_size, accumulation in ((14, 1), (5, 3)):
        network = plain_network()
        sums = sum_up_gradients(network)
        trainer = build(
            Watcher(),
            network=network,
            the_task=task(loss),
            batch_size=batch_size,
            accumulation=accumulation,
            epochs=1,
        )
        trainer.fit()
        assert trainer.loop.global_step == 1
        gradients.append((sums, weights(trainer.network)))
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
    pairs = zip(weights(trainer.network), weights(network), strict=True)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in pairs)


def test_groups_are_of_the_asked_size_and_the_last_may_be_shorter() -> None:
    assert list(in_groups(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(in_groups([], 3)) == []


# Missing landmarks


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


# Averaged weights


def test_validation_and_prediction_use_the_averaged_weights() -> None:
    trainer = build(Watcher())
    trainer.fit()
    before = {k: v for k, v in trainer.validate().items() if k != "loss"}
    batch = next(batches(Dots(5), 5, shuffle_seed=None).of_epoch(0))
    maps = trainer.predict(batch)
    with torch.no_grad():
        for parameter in trainer.network.parameters():
            parameter.fill_(0)
    assert {k: v for k, v in trainer.validate().items() if k != "loss"} == before
    assert torch.equal(trainer.predict(batch), maps) and maps.dtype == torch.float32
    with torch.no_grad():
        for parameter in trainer.ema_network.parameters():
            parameter.fill_(0)
    assert trainer.validate()["mre_px"] != before["mre_px"]


def test_average_lags_behind_and_without_decay_it_is_the_network() -> None:
    for decay, is_same in ((0.9, False), (0.0, True)):
        trainer = build(Watcher(), network=wayward_network(), ema_decay=decay)
        trainer.fit()
        pairs = zip(weights(trainer.network), weights(trainer.ema_network), strict=True)
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in pairs) is is_same


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
    assert trainer.network.modes == [True] * 8
    assert trainer.ema_network.modes == [False] * 4  # two batches, twice


# Resuming


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
    assert same(weights(resumed.network), weights(undisturbed.network))
    assert same(weights(resumed.ema_network), weights(undisturbed.ema_network))
    assert resumed.loop == undisturbed.loop


def test_resuming_a_finished_run_trains_no_more() -> None:
    trainer = build(Watcher())
    trainer.fit()
    watcher = Watcher()
    again = build(watcher, network=plain_network(seed=1))
    again.load_state_dict(trainer.state_dict())
    assert again.fit() is Ending.COMPLETED
    assert watcher.steps == [] and watcher.epochs == []


# Requests


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


def test_save_now_saves_and_changes_nothing() -> None:
    quiet, watcher = Watcher(), Watcher({2: Request.SAVE_NOW, 7: Request.SAVE_NOW})
    build(quiet).fit()
    assert build(watcher).fit() is Ending.COMPLETED
    assert [state["loop"]["global_step"] for state in watcher.saved] == [2, 7]
    assert watcher.losses == quiet.losses and watcher.epochs[-1]["val/loss"] == quiet.epochs[-1]["val/loss"]


# What goes wrong


class Spoiled:
    """A task whose loss, or whose gradient, is not a number from a step on."""

    def __init__(self, step: int, spoil: Callable[[Tensor], Tensor]) -> None:
        self._task, self._left, self._spoil = task(), step, spoil

    def compute_loss(self, outputs: Any, batch: Batch) -> Tensor:
        self._left -= torch.is_grad_enabled()
        loss = self._task.compute_loss(outputs, batch)
        return self._spoil(loss) if self._left <= 0 and torch.is_grad_enabled() else loss

    def new_scorer(self) -> Any:
        return self._task.new_scorer()


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda loss: loss * math.nan, "loss became nan"),
        (lambda loss: loss * math.inf, "loss became inf"),
        (lambda loss: loss + torch.sqrt(loss - loss), "gradient became"),
    ],
    ids=["nan", "infinite", "gradient"],
)
def test_loss_or_gradient_that_is_no_number_ends_the_training_before_it_touches_the_weights(
    spoil: Callable[[Tensor], Tensor], word: str
) -> None:
    watcher, healthy = Watcher(), Watcher({2: Request.STOP})
    trainer = build(watcher, the_task=Spoiled(3, spoil))
    with pytest.raises(DivergedError, match=f"{word}.* at step 3"):
        trainer.fit()
    assert watcher.steps == [1, 2] and trainer.loop.global_step == 2
    build(healthy).fit()
    raw = healthy.saved[0]["raw_model_state_dict"]
    assert same(weights(trainer.network), list(raw.values()))


def test_gradients_are_clipped_to_the_asked_norm() -> None:
    """With a norm near zero AdamW's epsilon outweighs the gradients: nothing moves."""
    network = plain_network()
    before = weights(network)
    build(Watcher(), network=network, validates=False, clip_norm=1e-14, weight_decay=0.0).fit()
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(weights(network), before, strict=True))


# Which weights are the best


class ScriptedErrors:
    """A task whose validation gives the errors that a test wants, in mm ten times as small."""

    def __init__(self, errors: list[float | None]) -> None:
        self._task, self._errors = task(), list(errors)

    def compute_loss(self, outputs: Any, batch: Batch) -> Tensor:
        return self._task.compute_loss(outputs, batch)

    def new_scorer(self) -> ScriptedErrors:
        return self

    def add(self, outputs: Tensor, batch: Batch) -> None:
        pass

    def metrics(self) -> Metrics:
        error = self._errors.pop(0)
        return {"mre_px": error, "mre_mm": None if error is None else error / 10}


def test_best_is_the_epoch_with_the_lowest_error_and_a_tie_changes_nothing() -> None:
    watcher = Watcher()
    trainer = build(watcher, epochs=5, the_task=ScriptedErrors([5.0, 3.0, 4.0, 3.0, 2.0]))
    trainer.fit()
    assert watcher.bests == [True, True, False, False, True]
    assert watcher.best_after == [1, 2, 2, 2, 5]
    assert (trainer.loop.best_mre_px, trainer.loop.best_mre_mm) == (2.0, 0.2)


def test_an_epoch_without_an_error_never_replaces_a_best_that_had_one() -> None:
    """Predictions that are not numbers give no error at all: the good weights must survive them."""
    watcher = Watcher()
    trainer = build(watcher, epochs=3, the_task=ScriptedErrors([5.0, None, 6.0]))
    trainer.fit()
    assert watcher.bests == [True, False, False]
    assert (trainer.loop.best_mre_px, trainer.loop.best_epoch) == (5.0, 1)


def test_an_epoch_whose_validation_loss_is_no_number_is_never_the_best() -> None:
    """Maps of NaN still have an argmax, and so an error that looks like any other."""

    class NanAtFirst(ScriptedErrors):
        num_validations = 0

        def new_scorer(self) -> ScriptedErrors:
            self.num_validations += 1
            return self

        def compute_loss(self, outputs: Any, batch: Batch) -> Tensor:
            loss = super().compute_loss(outputs, batch)
            return (
                loss * math.nan if self.num_validations == 1 and torch.is_inference_mode_enabled() else loss
            )

    watcher = Watcher()
    trainer = build(watcher, epochs=2, the_task=NanAtFirst([1.0, 6.0]))
    trainer.fit()
    assert watcher.bests == [False, True]
    assert (trainer.loop.best_mre_px, trainer.loop.best_epoch) == (6.0, 2)


def test_without_validation_the_last_weights_are_the_best() -> None:
    watcher = Watcher()
    trainer = build(watcher, validates=False)
    trainer.fit()
    assert watcher.bests == [True, True, True]
    assert (trainer.loop.best_epoch, trainer.loop.best_mre_px) == (3, None)
    assert not [name for name in watcher.epochs[0] if name.startswith("val/")]


# Networks with several outputs


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
