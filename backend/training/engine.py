"""The training loop: epochs of steps, each epoch followed by a validation, with recovery from what goes
wrong.

It gets a network, a task, batches and an observer, and knows neither models by name nor files nor whether its
images are whole images or crops. A step is one update of the weights, from one or more batches (gradient
accumulation).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from backend.data.dataset import Batch, Batches
from backend.training.evaluation_passes import EvaluationPasses
from backend.training.events import early_stop
from backend.training.loop_state import (
    Ending,
    EpochClock,
    LoopState,
    Request,
    StopAskedError,
    TrainerOptions,
)
from backend.training.micro_batch import in_groups
from backend.training.out_of_memory import MemoryShortage, MemoryShortageError, catch_shortage
from backend.training.precision import autocast
from backend.training.protocols import Metrics, Observer, Scorer, Task
from backend.training.recovery import Recovery
from backend.training.stability import UnstableError, is_finite
from backend.training.training_state import TrainingState


class Trainer:
    """Trains one network. Build it, `load_state_dict` to resume, then `fit`."""

    def __init__(
        self,
        network: nn.Module,
        task: Task,
        train: Batches,
        valid: Batches | None,
        *,
        device: torch.device,
        options: TrainerOptions,
        observer: Observer,
    ) -> None:
        self.task = task
        self.device = device
        self.options = options
        self.steps_per_epoch = math.ceil(len(train) / options.accumulation)
        self.state = TrainingState(network, device, options, self.steps_per_epoch)
        self.passes = EvaluationPasses(self.state, task, device=device, options=options, observer=observer)
        self._train, self._valid = train, valid
        self._observer = observer
        self._recovery = Recovery(self.state, options, report=observer.on_event, save=self._save)
        self._clock = EpochClock()

    def fit(self) -> Ending:
        """Train to the last epoch, or until patience is over or the observer requests an end.

        Raises DivergedError, and MemoryShortageError once the state is saved.
        """
        self._recovery.start()
        try:
            return self._run_epochs()
        except StopAskedError:  # in a validation, when all steps are done: resume closes the epoch
            self._save()
            return Ending.STOPPED
        except MemoryShortageError:  # also of a validation or a preview, which change no weights
            self._save()
            raise

    def _run_epochs(self) -> Ending:
        while self.loop.epoch < self.options.epochs:
            if self.loop.is_patience_over(self.options):
                return Ending.EARLY_STOPPED
            if Request.STOP in self._observer.poll():
                self._save()
                return Ending.STOPPED
            try:
                request = catch_shortage(self._train_epoch, self.device, lambda: self.state.has_stepped)
            except UnstableError as error:
                self._recovery.lower_lr(str(error))
                continue
            if isinstance(request, MemoryShortage):
                batches_per_step = min(self.options.accumulation, len(self._train))
                self._recovery.use_smaller_parts(request, self._train.largest_batch, batches_per_step)
                continue
            ending = self._end_epoch(request)
            if ending is not None:
                return ending
        return Ending.COMPLETED

    def _train_epoch(self) -> Request | None:
        """The rest of the epoch under way; returns the request that ended it. Raises UnstableError."""
        self.network.train()
        self._clock.start(self.loop)
        request = None
        batches = self._train.iterate_epoch(self.loop.epoch, self.loop.batch_index)
        for group in in_groups(batches, self.options.accumulation):
            loss = self.train_step(group)
            self.loop.losses.note(loss, self.loop.global_step)
            images_per_s = self._clock.images_per_s(self.loop)
            self._observer.on_step(self.loop, self.steps_per_epoch, loss, images_per_s)
            request = self._answer_requests()
            if request is not None:
                break
        self._check_weights()
        return request

    def train_step(self, group: list[Batch]) -> float:
        """One update from a group of batches, in parts where memory is short. Returns their mean loss."""
        micro_batch, least = self.loop.micro_batch, self.options.min_micro_batch
        parts = [part for batch in group for part in micro_batch.split(batch, least)]
        counts = [self.task.count_targets(part) for part in parts]
        num_targets = max(1, sum(counts))
        losses: list[Tensor] = []
        for part, count in zip(parts, counts, strict=True):
            loss = self._compute_loss(part) * (count / num_targets)
            self.state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        total = self.state.update(losses)
        self.loop.add_step(len(group), sum(len(batch.rows) for batch in group), total)
        return total

    def _compute_loss(self, part: Batch) -> Tensor:
        batch = part.to(self.device)
        with autocast(self.device, self.options.autocast):
            outputs = self.network(batch.images)
        return self.task.compute_loss(outputs, batch)

    def _answer_requests(self) -> Request | None:
        """Answer what is requested between two steps; returns a request to end the epoch here."""
        requests = self._observer.poll()
        if requests & {Request.SAVE_NOW, Request.PREVIEW_NOW}:
            self._check_weights()
            self._observer.answer(self, requests)
        return next((request for request in (Request.STOP, Request.FINISH) if request in requests), None)

    def _check_weights(self) -> None:
        """A finite loss and gradient may still give an infinite update; such a state is never saved."""
        if not is_finite(self.state.state_dict()):
            raise UnstableError(f"the weights are not finite numbers after step {self.loop.global_step}")

    def _end_epoch(self, request: Request | None) -> Ending | None:
        if request is Request.STOP:
            self._save()
            return Ending.STOPPED
        self._close_epoch()
        if self.loop.epoch == self.options.epochs:
            return None
        if Request.FINISH in {request, *self._observer.poll()}:  # perhaps requested during the validation
            self._save()
            return Ending.FINISHED_EARLY
        if self.loop.is_patience_over(self.options):
            self._observer.on_event(early_stop(self.loop))
            self._save()
        return None

    def _close_epoch(self) -> None:
        """Validate, compare with the best, keep a snapshot, and report."""
        metrics: Metrics = {
            "train/loss": self.loop.loss_sum / self.loop.num_samples,
            "lr": self.state.lr,
            # null where a run stopped in the validation is resumed: no step is left to time
            "images_per_s": self._clock.images_per_s(self.loop) or None,
            "train_s": self._clock.seconds,
        }
        metrics |= {f"val/{name}": value for name, value in self.validate().items()}
        metrics["epoch_s"] = self._clock.seconds
        is_best = self.loop.close_epoch(metrics)
        if self.state.is_calm:
            self._recovery.save_snapshot()
        self._observer.on_epoch(self, metrics, is_best)

    def _save(self) -> None:
        self._observer.save_last(self)

    def validate(self) -> Metrics:
        """Loss and metrics of the averaged weights on the validation batches; empty without any.

        Raises MemoryShortageError and StopAskedError.
        """
        return {} if self._valid is None else self.passes.validate(self._valid)

    def predict(self, batch: Batch) -> Tensor:
        """Maps (B, K, h, w) float32 of the averaged weights. Raises MemoryShortageError and
        StopAskedError."""
        return self.passes.predict(batch)

    @property
    def network(self) -> nn.Module:
        """The network in training."""
        return self.state.network

    @property
    def ema_network(self) -> nn.Module:
        """The network with the averaged weights, which validates and predicts."""
        return self.state.ema_network

    @property
    def loop(self) -> LoopState:
        """The place in the loop."""
        return self.state.loop

    @property
    def last_scorer(self) -> Scorer | None:
        """Of the last validation."""
        return self.passes.last_scorer

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides how training goes on, as tensors and plain values.

        `last_good`, the state to go back to, is None where it is this one (at the start of an epoch).
        """
        return {**self.state.state_dict(), "last_good": self._recovery.snapshot_if_older()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`; a state from before `last_good` was kept counts as good itself."""
        self.state.load_state_dict(state)
        self._recovery.snapshot = state.get("last_good")
