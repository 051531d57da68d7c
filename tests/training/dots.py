"""Tiny trainings: networks that learn to find bright dots, tasks that go wrong, and an observer that takes
notes."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from backend.data.dataset import Batch, Batches, EpochBatches
from backend.training.engine import Metrics, Trainer
from backend.training.events import Event
from backend.training.loop_state import LoopState, Request, TrainerOptions
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
    min_micro_batch=2,
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
            trainer.predict(next(iter(batches(Dots(2), 2, shuffle_seed=None).iterate_epoch(0))))

    def values(self, *names: str) -> list[tuple[Any, ...]]:
        return [tuple(metrics.get(name) for name in names) for metrics in self.epochs]


def assert_finite(state: dict[str, Any]) -> None:
    states = [*state["optimizer_state_dict"]["state"].values()]
    for tensors in (state["model_state_dict"], state["raw_model_state_dict"], *states):
        assert all(torch.isfinite(tensor).all() for tensor in tensors.values())


def plain_network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, len(LANDMARKS), 1))


def wayward_network(seed: int = 0) -> nn.Module:
    """With batch normalization and dropout: what an inexact resume would betray."""
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


class Spoiled:
    """A task whose training loss goes wrong at some calls, counted from 1 (without accumulation: steps, and
    their repetitions after a recovery)."""

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


def shortage() -> Exception:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")


class Cramped:
    """A task on a device that has room for so many samples at once, in training and in validation, from a
    call on.

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
