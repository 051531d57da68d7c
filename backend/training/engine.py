"""The training loop: epochs of steps, each epoch followed by a validation, and recovery from errors.

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
from backend.training.out_of_memory import MemoryRanOutError, MemoryShortageError, free_on_shortage
from backend.training.precision import autocast
from backend.training.protocols import Metrics, Observer, Scorer, Task
from backend.training.recovery import Recovery
from backend.training.stability import UnstableError, is_finite
from backend.training.training_state import TrainingState


class Trainer:
    """Trains one network. Build it, `load_state_dict` to resume, then `fit`, which returns how it ended."""

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

    @property
    def loop(self) -> LoopState:
        """The place in the run, which a recovery or a resume replaces."""
        return self.state.loop

    @property
    def last_scorer(self) -> Scorer | None:
        """The predictions of the last validation."""
        return self.passes.last_scorer

    def fit(self) -> Ending:
        """Train to the last epoch, or until patience is over or the observer requests an end.

        Raises DivergedError, and MemoryShortageError once the state is saved.
        """
        self._recovery.start()
        try:
            return self._run_epochs()
        except StopAskedError:
            self._save()
            return Ending.STOPPED
        except MemoryShortageError:
            self._save()
            raise

    def _run_epochs(self) -> Ending:
        """Run epochs until one ends the training.

        An unstable epoch is repeated at a lower learning rate; one that runs out of memory is repeated in
        smaller parts. Raises StopAskedError with a state that can be saved.
        """
        while self.loop.epoch < self.options.epochs:
            if self.loop.is_patience_over(self.options):
                return Ending.EARLY_STOPPED
            if Request.STOP in self._observer.poll():
                raise StopAskedError
            try:
                free_on_shortage(self._train_epoch, self.device, lambda: self.state.has_stepped)
            except UnstableError as error:
                self._recovery.lower_lr(str(error))
                continue
            except MemoryRanOutError as error:
                batches_per_step = min(self.options.accumulation, len(self._train))
                self._recovery.use_smaller_parts(error, self._train.largest_batch, batches_per_step)
                continue
            self._validate_and_report()
            if self.loop.epoch == self.options.epochs:
                break
            if Request.FINISH in self._observer.poll():  # since before the validation, or during it
                self._save()
                return Ending.FINISHED_EARLY
            if self.loop.is_patience_over(self.options):
                self._observer.on_event(early_stop(self.loop))
                self._save()
        return Ending.COMPLETED

    def _train_epoch(self) -> None:
        """Take the steps that are left of the current epoch; fewer if the observer requests to finish.

        Raises StopAskedError, and UnstableError.
        """
        self.state.network.train()
        self._clock.start(self.loop)
        batches = self._train.iterate_epoch(self.loop.epoch, self.loop.batch_index)
        for group in in_groups(batches, self.options.accumulation):
            loss = self.train_step(group)
            self.loop.losses.note(loss, self.loop.global_step)
            images_per_s = self._clock.images_per_s(self.loop)
            self._observer.on_step(self.loop, self.steps_per_epoch, loss, images_per_s)
            if self._answer_requests():
                break
        self._check_weights()

    def train_step(self, group: list[Batch]) -> float:
        """Update the weights once, from a group of batches; return their mean loss.

        The batches are computed in parts if memory is short.
        """
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
            outputs = self.state.network(batch.images)
        return self.task.compute_loss(outputs, batch)

    def _answer_requests(self) -> bool:
        """Carry out what is requested between two steps. Return whether to finish with this epoch.

        Raises StopAskedError, and UnstableError if the weights cannot be saved.
        """
        requests = self._observer.poll()
        if requests:
            self._check_weights()
            self._observer.answer(self, requests)
        if Request.STOP in requests:
            raise StopAskedError
        return Request.FINISH in requests

    def _check_weights(self) -> None:
        """Raise UnstableError if any weight is not finite.

        A finite loss and gradient may still give an infinite update; such a state is never saved.
        """
        if not is_finite(self.state.state_dict()):
            raise UnstableError(f"the weights are not finite numbers after step {self.loop.global_step}")

    def _validate_and_report(self) -> None:
        """Close the epoch: validate, compare with the best, take a snapshot, and report the metrics."""
        metrics: Metrics = {
            "train/loss": self.loop.loss_sum / self.loop.num_samples,
            "lr": self.state.lr,
            # None if a run that was stopped in the validation is resumed: no step is left to time
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
        """Return loss and metrics of the averaged weights on the validation batches; empty without any.

        Raises MemoryShortageError and StopAskedError.
        """
        return {} if self._valid is None else self.passes.validate(self._valid)

    def predict(self, batch: Batch) -> Tensor:
        """Return maps (B, K, h, w) float32 of the averaged weights.

        Raises MemoryShortageError and StopAskedError.
        """
        return self.passes.predict(batch)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that decides how training goes on, as tensors and plain values.

        `last_good` is the state that a recovery goes back to; None if that is this one, as at the start of an
        epoch.
        """
        return {**self.state.state_dict(), "last_good": self._recovery.snapshot_if_older()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what `state_dict` returned.

        If it has no `last_good`, as in older files, a recovery goes back to this state.
        """
        self.state.load_state_dict(state)
        self._recovery.snapshot = state.get("last_good")
