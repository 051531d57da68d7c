from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.data import Dataset

from backend.data.dataset import Batch, Batches, EpochBatches
from backend.run.best import MeanError
from backend.training.engine import Metrics, Trainer
from backend.training.events import Event
from backend.training.loop_state import Best, Ending, LoopState, Request, StopAskedError, TrainerOptions
from backend.training.micro_batch import WHOLE_BATCHES, MicroBatch
from backend.training.optim import build_optimizer, build_scheduler
from backend.training.out_of_memory import ShortOfMemoryError
from backend.training.stability import DivergedError, LossWatch
from backend.training.task import LandmarkTask

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
    autocast=None,
    patience=0,
    on_divergence="retry",
    on_oom="retry",
    least_part=2,
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
        self.events: list[Event] = []
        self.previewed: list[int] = []

    def poll(self) -> set[Request]:
        request = self.ask_at.get(self.steps[-1]) if self.steps else None
        return {request} if request else set()

    def on_step(self, loop: LoopState, num_steps: int, loss: float, images_per_s: float) -> None:
        self.steps.append(loop.global_step)
        self.losses.append(loss)

    def on_epoch(self, trainer: Trainer, metrics: Metrics, is_best: bool) -> None:
        self.epochs.append(metrics)
        self.bests.append(is_best)
        self.best_after.append(trainer.loop.best.epoch)

    def on_event(self, event: Event) -> None:
        self.events.append(event)

    def save_last(self, trainer: Trainer) -> None:
        buffer = io.BytesIO()
        torch.save(trainer.state_dict(), buffer)
        self.saved.append(torch.load(io.BytesIO(buffer.getvalue()), weights_only=True))

    def answer(self, trainer: Trainer, requests: set[Request]) -> None:
        if Request.SAVE_NOW in requests:
            self.save_last(trainer)
        if Request.PREVIEW_NOW in requests:
            assert_finite(trainer.state_dict())
            self.previewed.append(trainer.loop.global_step)
            trainer.predict(next(iter(batches(Dots(2), 2, shuffle_seed=None).of_epoch(0))))

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
    valid = batches(Dots(5, missing={0: 1}), 3, shuffle_seed=None) if validates else None
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
    assert same(weights(results[0][2].network), weights(results[1][2].network))


def test_another_order_of_the_samples_is_another_training() -> None:
    first, second = Watcher(), Watcher()
    build(first, shuffle_seed=0).fit()
    build(second, shuffle_seed=1).fit()
    assert first.losses != second.losses


# Accumulation


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
    """Two validation batches an epoch: after the first one of each, of the last epoch too. What comes after a resume is
    an undisturbed training to the bit."""
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
    assert same(weights(resumed.network), weights(undisturbed.network))
    assert resumed.loop == undisturbed.loop


def test_finish_during_a_validation_lets_it_go_on_and_makes_no_further_step() -> None:
    watcher = AsksInValidation(Request.FINISH, 3)
    trainer = build(watcher, the_task=watcher.counting)
    assert trainer.fit() is Ending.FINISHED_EARLY
    assert (
        watcher.steps[-1] == 8 and len(watcher.epochs) == 2 and watcher.epochs[-1]["val/mre_px"] is not None
    )
    assert watcher.saved[-1]["loop"]["epoch"] == 2


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


def test_a_prediction_is_given_up_where_a_stop_is_asked_for() -> None:
    watcher = Watcher({3: Request.STOP})
    trainer = build(watcher)
    watcher.steps.append(3)
    with pytest.raises(StopAskedError):
        trainer.predict(next(iter(batches(Dots(5), 5, shuffle_seed=None).of_epoch(0))))


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


# What goes wrong


class Spoiled:
    """A task whose training loss goes wrong at some calls, counted from 1 (without accumulation: steps, and their
    repetitions after a recovery)."""

    def __init__(self, calls: Collection[int], spoil: Callable[[Tensor], Tensor]) -> None:
        self._task, self._calls, self._spoil = task(), calls, spoil
        self.num_calls = 0

    def compute_loss(self, outputs: Any, batch: Batch) -> Tensor:
        loss = self._task.compute_loss(outputs, batch)
        if not torch.is_grad_enabled():
            return loss
        self.num_calls += 1
        return self._spoil(loss) if self.num_calls in self._calls else loss

    def count_targets(self, batch: Batch) -> int:
        return self._task.count_targets(batch)

    def new_scorer(self) -> Any:
        return self._task.new_scorer()


def times_nan(loss: Tensor) -> Tensor:
    return loss * math.nan


BAD = [
    pytest.param(times_nan, "loss became nan", id="nan"),
    pytest.param(lambda loss: loss * math.inf, "loss became inf", id="infinite"),
    pytest.param(lambda loss: loss + torch.sqrt(loss - loss), "gradient became", id="gradient"),
]


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
    """Bad at calls 7 (step 7, epoch 2), and at 12 (then step 10, epoch 3). Stopped at a step of the repeated epoch, at
    its end and in the next one, where the second recovery must go back just as far as undisturbed."""
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
    assert same(weights(resumed.ema_network), weights(undisturbed.ema_network))
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
    """14 epochs of 4 steps. Ten times as large and more from step 43 on: noticed at step 50, in epoch 13. The epochs
    11 and 12, which end under the spike, are no good states: back to the end of the tenth."""
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


def assert_finite(state: dict[str, Any]) -> None:
    states = [*state["optimizer_state_dict"]["state"].values()]
    for tensors in (state["model_state_dict"], state["raw_model_state_dict"], *states):
        assert all(torch.isfinite(tensor).all() for tensor in tensors.values())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda trainer: trainer.network[0].weight,
        lambda trainer: trainer.ema_network[1].running_var,
        lambda trainer: next(iter(trainer._optimizer.state.values()))["exp_avg_sq"],
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
    assert "no finite numbers after step 8" in event.message
    assert watcher.steps[:9] == [*range(1, 9), *([] if ask is Request.STOP else [5])]


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
    update, seen = trainer._average.update, []

    def watched(decay: float) -> None:
        seen.append(all(torch.isfinite(tensor).all() for tensor in weights(trainer.network)))
        update(decay)

    monkeypatch.setattr(trainer._average, "update", watched)
    assert trainer.fit() is Ending.COMPLETED
    assert len(seen) >= 8 and all(seen)
    assert all(torch.isfinite(tensor).all() for tensor in weights(trainer.ema_network))


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
    group = list(trainer._train.of_epoch(0))[:accumulation]
    monkeypatch.setattr(trainer.task.__class__, "count_targets", lambda _task, batch: 1)  # main memory's
    for one in (trainer._optimizer, trainer._scheduler):  # the first reads its counters, in the main memory
        monkeypatch.setattr(one, "step", lambda: None)
    with Reads() as reads:
        trainer._train_step(group)
    assert reads.num == 1


def test_weights_that_are_no_numbers_at_the_start_are_said_to_be() -> None:
    network = plain_network()
    with torch.no_grad():
        network[0].weight[0] = math.nan
    with pytest.raises(DivergedError, match="to start from"):
        build(Watcher(), network=network).fit()


def test_overflow_under_the_scaler_skips_a_step_and_is_no_divergence() -> None:
    """The scaler of a CPU in float16: an infinite gradient halves its scale, and the weights stay."""
    watcher = Watcher()
    spoiled = Spoiled({2}, lambda loss: loss + torch.sqrt(loss - loss))
    trainer = build(watcher, the_task=spoiled, autocast=torch.float16, epochs=1)
    assert trainer.fit() is Ending.COMPLETED
    assert watcher.events == [] and watcher.steps == [1, 2, 3, 4]
    assert trainer._scaler.get_scale() == 2.0**15


def test_a_first_step_that_overflows_moves_neither_weights_nor_schedule() -> None:
    """Torch warns where a schedule is moved on before its optimizer made a step, and warnings are errors here."""
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
    assert trainer.fit() is Ending.COMPLETED and not trainer._scaler.is_enabled()
    assert half.losses == pytest.approx(full.losses, rel=0.05) and half.losses != full.losses


def test_gradients_that_overflow_at_every_scale_are_a_divergence() -> None:
    watcher = Watcher()
    spoiled = Spoiled(range(2, 1000), lambda loss: loss + torch.sqrt(loss - loss))
    trainer = build(watcher, the_task=spoiled, autocast=torch.float16, epochs=30)
    with pytest.raises(DivergedError, match="whatever their scale"):
        trainer.fit()
    assert len(watcher.events) == 3 and 1 <= trainer._scaler.get_scale() < 2.0**4


# Out of memory


def shortage() -> Exception:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


class Cramped:
    """A task on a device that has room for so many samples at once, in training and in validation, from a call on.

    Calls count from 1, in each of the two. `rows` are those that were trained on, in their order.
    """

    def __init__(
        self,
        *,
        training: Mapping[int, int] | None = None,
        validation: Mapping[int, int] | None = None,
        error: Callable[[], Exception] = shortage,
        the_task: LandmarkTask | None = None,
    ) -> None:
        self._task, self._error = the_task or task(), error
        self._room = {True: training or {}, False: validation or {}}
        self._calls = {True: 0, False: 0}
        self.rows: list[int] = []

    def compute_loss(self, outputs: Any, batch: Batch) -> Tensor:
        is_training = torch.is_grad_enabled()
        self._calls[is_training] += 1
        rooms = [room for call, room in self._room[is_training].items() if self._calls[is_training] >= call]
        if rooms and len(batch.rows) > rooms[-1]:
            raise self._error()
        self.rows += batch.rows.tolist() if is_training else []
        return self._task.compute_loss(outputs, batch)

    def count_targets(self, batch: Batch) -> int:
        return self._task.count_targets(batch)

    def new_scorer(self) -> Any:
        return self._task.new_scorer()


class InParts(Watcher):
    """Notes also what was trained on up to the last time that memory ran out."""

    def __init__(self, cramped: Cramped, ask_at: Mapping[int, Request] | None = None) -> None:
        super().__init__(ask_at)
        self._cramped = cramped
        self.rows_before = 0

    def on_event(self, event: Event) -> None:
        super().on_event(event)
        self.rows_before = len(self._cramped.rows)

    def poll(self) -> set[Request]:
        return super().poll() if self.events else set()


def in_parts_from(epoch: int, limit: int, **options: Any) -> tuple[Trainer, Watcher]:
    """A training whose steps are computed in parts from the end of an epoch on, though memory never ran out."""
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
    assert same(weights(trainer.network), weights(expected.network))
    assert same(weights(trainer.ema_network), weights(expected.ema_network))


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
    """Without batch normalisation, and with landmarks missing: gradients weighted by what is marked are those of the
    batch."""
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
            least_part=1,
        )
        trainer.fit()
        results.append((watcher, trainer))
    (whole, undisturbed), (parts, trainer) = results
    assert len(parts.events) == 1 and not whole.events
    effective = 5 * accumulation
    words = f"{2 * accumulation} parts of at most 3 images; the effective batch stays {effective}"
    assert words in parts.events[0].message
    assert whole.losses == pytest.approx(parts.losses, rel=1e-4) and whole.steps == parts.steps
    pairs = zip(weights(undisturbed.network), weights(trainer.network), strict=True)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in pairs)


@pytest.mark.parametrize(("call", "room", "epoch"), [(1, 2, 1), (2, 1, 1), (3, 2, 2), (6, 1, 3)])
def test_a_shortage_in_a_validation_leaves_the_training_as_it_is_to_the_bit(
    call: int, room: int, epoch: int
) -> None:
    """Five validation images in batches of 3 and 2: the validation alone is repeated in parts, then and later."""
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
        f"out of memory in {where}: it is repeated with {size} at once (retry 1 of 3); training steps stay as they are"
    )
    assert (first.values["epoch"], first.values["back_to_epoch"], first.values["during"]) == (
        epoch,
        None,
        "validation",
    )
    assert first.values["pass_micro_batch"] == 2 and "micro_batch" not in first.values
    assert watcher.steps == whole.steps and watcher.losses == whole.losses
    assert same(weights(trainer.network), weights(undisturbed.network))
    assert same(weights(trainer.ema_network), weights(undisturbed.ema_network))
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


@pytest.mark.parametrize("room", [1, 0])
def test_a_shortage_in_a_preview_leaves_the_training_as_it_is(room: int) -> None:
    """Asked for within epoch 2. Where not even one image fits, the run ends with all its steps saved."""

    class Cramping(Watcher):
        def answer(self, trainer: Trainer, requests: set[Request]) -> None:
            trainer.ema_network.room = room
            super().answer(trainer, requests)
            trainer.ema_network.room = 99

    whole, watcher = Watcher(), Cramping({6: Request.PREVIEW_NOW})
    build(whole, network=NarrowDoor()).fit()
    trainer = build(watcher, network=NarrowDoor())
    if room:
        assert trainer.fit() is Ending.COMPLETED and watcher.losses == whole.losses
        assert trainer.loop.pass_micro_batch == MicroBatch(1, 1)
    else:
        with pytest.raises(ShortOfMemoryError, match="in the prediction after epoch 1, with 1 image at once"):
            trainer.fit()
        assert watcher.saved[-1]["loop"]["global_step"] == 6
    assert trainer.loop.micro_batch == WHOLE_BATCHES


def test_a_prediction_is_repeated_in_parts() -> None:
    watcher = Watcher()
    trainer = build(watcher, network=(network := NarrowDoor()))
    batch = next(batches(Dots(5), 5, shuffle_seed=None).of_epoch(0))
    maps = trainer.predict(batch)
    trainer.ema_network.room = 2
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


def test_after_three_retries_memory_is_short_and_the_good_state_is_saved() -> None:
    """One batch of 14 an epoch; from the second one on nothing fits."""
    cramped = Cramped(training={2: 1})
    watcher = Watcher()
    trainer = build(watcher, network=wayward_network(), the_task=cramped, batch_size=14)
    words = "in epoch 2, step 2, with 2 images at once, after 3 retries"
    with pytest.raises(ShortOfMemoryError, match=words) as raised:
        trainer.fit()
    assert [event.values["largest_part"] for event in watcher.events] == [7, 4, 2]
    assert [event.values["num_parts"] for event in watcher.events] == [2, 4, 7]
    assert {event.values["effective_batch"] for event in watcher.events} == {14}
    assert raised.value.num_images == 2 and "CUDA out of memory" in raised.value.shortage.trace
    last = watcher.saved[-1]
    assert (last["loop"]["epoch"], last["loop"]["global_step"]) == (1, 1)
    assert last["loop"]["micro_batch"] == {"limit": 2, "num_retries": 3} and last["last_good"] is None
    again = build(Watcher(), network=wayward_network(), batch_size=14)
    again.load_state_dict(last)
    assert again.fit() is Ending.COMPLETED


def test_two_images_are_not_torn_apart() -> None:
    watcher = Watcher()
    with pytest.raises(ShortOfMemoryError, match="in epoch 1, step 1, with 2 images at once, after 1 retry"):
        build(watcher, the_task=Cramped(training={1: 1})).fit()
    assert [event.values["largest_part"] for event in watcher.events] == [2]


@pytest.mark.parametrize("place", ["training", "validation"])
def test_asked_to_stop_a_shortage_ends_training_with_all_that_was_done_saved(place: str) -> None:
    watcher = Watcher()
    cramped = Cramped(training={6: 3}) if place == "training" else Cramped(validation={3: 2})
    trainer = build(watcher, network=wayward_network(), the_task=cramped, on_oom="stop")
    where = "epoch 2, step 6, with 4" if place == "training" else "the validation of epoch 2, with 3"
    with pytest.raises(ShortOfMemoryError, match=f"out of memory in {where} images at once$"):
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
    assert same(weights(resumed.network), weights(undisturbed.network))
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
    assert same(weights(resumed.network), weights(undisturbed.network))
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
    step = trainer._optimizer.step

    def fail_once(*arguments: Any, **keywords: Any) -> Any:
        trainer._optimizer.step = step  # type: ignore[method-assign]
        step(*arguments, **keywords)
        raise shortage()

    trainer._optimizer.step = fail_once  # type: ignore[method-assign]
    assert trainer.fit() is Ending.COMPLETED
    assert [event.kind for event in watcher.events] == ["oom_retry"]
    expected, same_parts = in_parts_from(0, 2, autocast=torch.float16)
    assert watcher.losses == same_parts.losses
    assert same(weights(trainer.network), weights(expected.network))


def test_an_unstable_step_and_a_shortage_do_not_forget_each_other() -> None:
    """A bad loss in epoch 2 after memory ran out in it: back again, at a third of the rate and in the same parts."""

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


# Early stopping


def test_training_ends_once_patience_is_over() -> None:
    watcher = Watcher()
    scripted = ScriptedErrors([5.0, 3.0, 4.0, 3.5, 3.0, 2.0, 1.0])
    trainer = build(watcher, epochs=7, patience=3, the_task=scripted)
    assert trainer.fit() is Ending.EARLY_STOPPED
    assert len(watcher.epochs) == 5 and trainer.loop.best.epoch == 2
    (event,) = watcher.events
    assert event.kind == "early_stop" and event.values == {"epoch": 5, "step": 20, "best_epoch": 2}
    assert "3 epochs" in event.message and watcher.saved[-1]["loop"]["epoch"] == 5


def test_a_run_that_has_stopped_early_has_nothing_to_go_on_with() -> None:
    first, second = Watcher(), Watcher()
    build(first, epochs=7, patience=1, the_task=ScriptedErrors([5.0, 6.0])).fit()
    again = build(second, epochs=7, patience=1)
    again.load_state_dict(first.saved[-1])
    assert again.fit() is Ending.EARLY_STOPPED
    assert second.steps == [] and second.events == []


@pytest.mark.parametrize(
    ("patience", "errors"), [(0, [1.0, 2.0, 3.0, 4.0]), (2, [4.0, 5.0, 3.0, 3.0]), (3, [1.0, 2.0, 2.0, 2.0])]
)
def test_without_patience_or_before_it_is_over_training_completes(patience: int, errors: list[float]) -> None:
    """The third case runs out of patience and of epochs at once: completed."""
    watcher = Watcher()
    trainer = build(watcher, epochs=4, patience=patience, the_task=ScriptedErrors(errors))
    assert trainer.fit() is Ending.COMPLETED
    assert watcher.events == [] and len(watcher.epochs) == 4


def test_patience_survives_a_resume() -> None:
    options: dict[str, Any] = {"epochs": 9, "patience": 3}
    errors = [5.0, 3.0, 4.0, 4.0, 4.0]
    first, second = Watcher({14: Request.STOP}), Watcher()
    scripted = ScriptedErrors(errors)
    assert build(first, the_task=scripted, **options).fit() is Ending.STOPPED
    resumed = build(second, the_task=scripted, **options)
    resumed.load_state_dict(first.saved[-1])
    assert resumed.fit() is Ending.EARLY_STOPPED
    assert resumed.loop.epoch == 5 and [event.kind for event in second.events] == ["early_stop"]


def test_patience_waits_for_the_end_of_the_warm_up() -> None:
    """2.5 epochs of it: the best one is the first, but what follows counts from the third on."""
    watcher = Watcher()
    scripted = ScriptedErrors([1.0, 2.0, 2.0, 2.0, 2.0, 2.0])
    trainer = build(watcher, epochs=6, patience=2, warmup_epochs=2.5, the_task=scripted)
    assert trainer.fit() is Ending.EARLY_STOPPED
    assert trainer.loop.epoch == 5
    (event,) = watcher.events
    assert event.values["best_epoch"] == 1 and "no better validation error for 4 epochs" in event.message


def after_a_first_network(watcher: Watcher, errors: Sequence[float | None], **options: Any) -> Trainer:
    """A trainer as the refinement has it: to be kept, its weights must beat an error of 2 px."""
    trainer = build(watcher, the_task=ScriptedErrors(errors), **options)
    trainer.loop.best = Best(error=MeanError(2.0, 0.2))
    return trainer


def test_patience_goes_on_with_a_second_network_that_is_still_overtaking_the_first() -> None:
    watcher = Watcher()
    trainer = after_a_first_network(watcher, [5.0, 4.0, 4.5, 3.0, 1.5, 1.6, 1.7], epochs=8, patience=2)
    assert trainer.fit() is Ending.EARLY_STOPPED
    assert watcher.bests == [False, False, False, False, True, False, False]
    assert trainer.loop.best == trainer.loop.own_best == Best(5, MeanError(1.5, 0.15))
    assert watcher.events[-1].values["best_epoch"] == 5


def test_patience_ends_a_second_network_that_gets_no_better_and_names_its_own_best() -> None:
    watcher = Watcher()
    trainer = after_a_first_network(watcher, [5.0, 4.0, 4.5, 4.5, 4.5], epochs=8, patience=3)
    assert trainer.fit() is Ending.EARLY_STOPPED
    assert not any(watcher.bests) and trainer.loop.best == Best(error=MeanError(2.0, 0.2))
    (event,) = watcher.events
    assert event.values == {"epoch": 5, "step": 20, "best_epoch": 2}
    assert event.message.startswith("no better validation error for 3 epochs: ")
    assert event.message.endswith("its best was epoch 2")


def test_patience_of_a_second_network_survives_a_resume() -> None:
    errors = [5.0, 4.0, 4.5, 4.5, 4.5]
    first, second = Watcher({14: Request.STOP}), Watcher()
    after_a_first_network(first, errors, epochs=8, patience=3).fit()
    resumed = build(second, epochs=8, patience=3, the_task=ScriptedErrors(errors[3:]))
    resumed.load_state_dict(first.saved[-1])
    assert resumed.loop.own_best == Best(2, MeanError(4.0, 0.4))
    assert resumed.fit() is Ending.EARLY_STOPPED and resumed.loop.epoch == 5


def test_a_second_network_that_patience_ended_too_early_before_goes_on_when_it_is_resumed() -> None:
    """Its state knows no best of its own: patience counts from where it goes on."""
    first, second = Watcher({8: Request.STOP}), Watcher()
    after_a_first_network(first, [5.0], epochs=9).fit()
    state = first.saved[-1]
    del state["loop"]["own_best"]
    state["loop"] |= {"epoch": 2, "batch_index": 0}
    resumed = build(second, epochs=9, patience=2, the_task=ScriptedErrors([4.0, 4.5, 4.5, 4.5]))
    resumed.load_state_dict(state)
    assert resumed.fit() is Ending.EARLY_STOPPED
    assert resumed.loop.epoch == 5 and second.events[-1].values["best_epoch"] == 3


def test_where_no_epoch_had_an_error_patience_names_no_best() -> None:
    class Nan(ScriptedErrors):
        def compute_loss(self, outputs: Any, batch: Batch) -> Tensor:
            loss = super().compute_loss(outputs, batch)
            return loss * math.nan if torch.is_inference_mode_enabled() else loss

    watcher = Watcher()
    trainer = build(watcher, epochs=9, patience=2, the_task=Nan([1.0] * 9))
    assert trainer.fit() is Ending.EARLY_STOPPED
    (event,) = watcher.events
    assert event.values["best_epoch"] is None and "best was" not in event.message


# Clipping


def test_gradients_are_clipped_to_the_asked_norm() -> None:
    """With a norm near zero AdamW's epsilon outweighs the gradients: nothing moves."""
    network = plain_network()
    before = weights(network)
    build(Watcher(), network=network, validates=False, clip_norm=1e-14, weight_decay=0.0).fit()
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(weights(network), before, strict=True))


# Which weights are the best


class ScriptedErrors:
    """A task whose validation gives the errors that a test wants, in mm a tenth of them unless given too."""

    def __init__(self, errors: Sequence[float | None], in_mm: Sequence[float | None] | None = None) -> None:
        self._task, self._errors = task(), list(errors)
        self._in_mm = [error and error / 10 for error in errors] if in_mm is None else list(in_mm)

    def compute_loss(self, outputs: Any, batch: Batch) -> Tensor:
        return self._task.compute_loss(outputs, batch)

    def count_targets(self, batch: Batch) -> int:
        return self._task.count_targets(batch)

    def new_scorer(self) -> ScriptedErrors:
        return self

    def add(self, outputs: Tensor, batch: Batch) -> None:
        pass

    def metrics(self) -> Metrics:
        return {"mre_px": self._errors.pop(0), "mre_mm": self._in_mm.pop(0)}


def test_best_is_the_epoch_with_the_lowest_error_and_a_tie_changes_nothing() -> None:
    watcher = Watcher()
    trainer = build(watcher, epochs=5, the_task=ScriptedErrors([5.0, 3.0, 4.0, 3.0, 2.0]))
    trainer.fit()
    assert watcher.bests == [True, True, False, False, True]
    assert watcher.best_after == [1, 2, 2, 2, 5]
    assert trainer.loop.best.error == MeanError(2.0, 0.2)


def test_best_is_chosen_in_mm_where_every_image_has_a_pixel_size() -> None:
    """Images of several pixel sizes: what is better in px may be worse in mm, which is what is reported."""
    watcher = Watcher()
    scripted = ScriptedErrors([5.0, 4.0, 6.0, 6.5], in_mm=[0.5, 0.6, 0.4, 0.4])
    trainer = build(watcher, epochs=4, the_task=scripted)
    trainer.fit()
    assert watcher.bests == [True, False, True, False]
    assert trainer.loop.best == Best(3, MeanError(6.0, 0.4))


def test_best_is_chosen_in_px_where_an_image_has_no_pixel_size() -> None:
    watcher = Watcher()
    trainer = build(watcher, epochs=3, the_task=ScriptedErrors([5.0, 4.0, 6.0], in_mm=[None] * 3))
    trainer.fit()
    assert watcher.bests == [True, True, False]
    assert trainer.loop.best == Best(2, MeanError(4.0))


@pytest.mark.parametrize(("in_mm", "is_best"), [(None, [False, True]), (0.42, [True, False])])
def test_a_run_from_before_the_rule_goes_on_by_it(in_mm: float | None, is_best: list[bool]) -> None:
    """Its bar was kept flat: in px alone, which is what then decides once more, or in both."""
    first, second = Watcher({4: Request.STOP}), Watcher()
    build(first, the_task=ScriptedErrors([])).fit()
    state = first.saved[-1]
    del state["loop"]["best"]
    state["loop"] |= {"epoch": 1, "batch_index": 0, "best_mre_px": 4.0, "best_mre_mm": in_mm, "best_epoch": 1}
    resumed = build(second, the_task=ScriptedErrors([5.0, 3.0], in_mm=[0.4, 0.41]))
    resumed.load_state_dict(state)
    assert resumed.loop.best == Best(1, MeanError(4.0, in_mm))
    assert resumed.fit() is Ending.COMPLETED
    assert second.bests == is_best


def test_an_epoch_without_an_error_never_replaces_a_best_that_had_one() -> None:
    """Predictions that are not numbers give no error at all: the good weights must survive them."""
    watcher = Watcher()
    trainer = build(watcher, epochs=3, the_task=ScriptedErrors([5.0, None, 6.0]))
    trainer.fit()
    assert watcher.bests == [True, False, False]
    assert trainer.loop.best == Best(1, MeanError(5.0, 0.5))


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
    assert trainer.loop.best == Best(2, MeanError(6.0, 0.6))


def test_without_validation_the_last_weights_are_the_best() -> None:
    watcher = Watcher()
    trainer = build(watcher, validates=False)
    trainer.fit()
    assert watcher.bests == [True, True, True]
    assert trainer.loop.best == Best(3)
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
