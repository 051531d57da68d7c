"""The interfaces between the training loop, its task and its observer."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from backend.data.dataset import Batch
from backend.training.events import Event
from backend.training.loop_state import LoopState, Request

Outputs = Tensor | list[Tensor]
Metrics = dict[str, float | int | None]


class Scorer(Protocol):
    """Collects final outputs and computes metrics, of which `mre_px` and `mre_mm` choose the best weights."""

    def add(self, outputs: Tensor, batch: Batch) -> None: ...
    def metrics(self) -> Metrics: ...


class Task(Protocol):
    """Defines what is learned.

    The loss is a scalar, the mean over the targets of a batch; 0 without any.
    """

    def compute_loss(self, outputs: Outputs, batch: Batch) -> Tensor: ...
    def count_targets(self, batch: Batch) -> int: ...
    def new_scorer(self) -> Scorer: ...


class Training(Protocol):
    """A training as its observer sees it."""

    @property
    def device(self) -> torch.device: ...
    @property
    def loop(self) -> LoopState: ...
    @property
    def steps_per_epoch(self) -> int: ...
    @property
    def last_scorer(self) -> Scorer | None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def predict(self, batch: Batch) -> Tensor: ...


class Observer(Protocol):
    """Follows a training: hears of every step, epoch and event, returns requests, and saves the state.

    `poll` only looks, also between the batches of a validation. `answer` saves or previews, if requested, and
    clears these requests; one to stop or to finish stays until the training has ended.
    """

    def poll(self) -> set[Request]: ...
    def on_step(self, loop: LoopState, num_steps: int, loss: float, images_per_s: float) -> None: ...
    def on_epoch(self, training: Training, metrics: Metrics, is_best: bool) -> None: ...
    def on_event(self, event: Event) -> None: ...
    def save_last(self, training: Training) -> None: ...
    def answer(self, training: Training, requests: set[Request]) -> None: ...
