"""What the training loop asks of its task and its observer, and what it shows to an observer."""

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
    """Collects final outputs and computes metrics, among them `mre_px` and `mre_mm`, which choose the best
    weights."""

    def add(self, outputs: Tensor, batch: Batch) -> None: ...
    def metrics(self) -> Metrics: ...


class Task(Protocol):
    """What is learned: a scalar loss, the mean over the targets of a batch (0 without any), and a way to
    score."""

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
    def last_scorer(self) -> Scorer | None: ...  # of the last validation
    def state_dict(self) -> dict[str, Any]: ...
    def predict(self, batch: Batch) -> Tensor: ...


class Observer(Protocol):
    """Follows a training: hears of every step, epoch and event, returns requests, and saves the state.

    `poll` only looks, also between the batches of a validation; `answer` carries out requests and clears
    them.
    """

    def poll(self) -> set[Request]: ...
    def on_step(self, loop: LoopState, num_steps: int, loss: float, images_per_s: float) -> None: ...
    def on_epoch(self, training: Training, metrics: Metrics, is_best: bool) -> None: ...
    def on_event(self, event: Event) -> None: ...
    def save_last(self, training: Training) -> None: ...
    def answer(self, training: Training, requests: set[Request]) -> None: ...
