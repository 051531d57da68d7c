"""Forward passes of the averaged weights: validation and prediction, in smaller parts if memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from backend.data.dataset import Batch, Batches
from backend.training.events import Place, pass_retry
from backend.training.loop_state import Request, StopAskedError, TrainerOptions
from backend.training.out_of_memory import MemoryRanOutError, MemoryShortageError, free_on_shortage
from backend.training.precision import autocast
from backend.training.protocols import Metrics, Observer, Scorer, Task
from backend.training.training_state import TrainingState

T = TypeVar("T")


class EvaluationPasses:
    """Validates and predicts with the averaged weights of a state, which passes leave unchanged.

    Every pass raises MemoryShortageError if smaller parts do not help, and StopAskedError if a stop is
    requested between two parts.
    """

    def __init__(
        self,
        state: TrainingState,
        task: Task,
        *,
        device: torch.device,
        options: TrainerOptions,
        observer: Observer,
    ) -> None:
        self._state = state
        self._task = task
        self._device = device
        self._options = options
        self._observer = observer
        self.last_scorer: Scorer | None = None  # of the last validation

    def validate(self, batches: Batches) -> Metrics:
        """Return loss and metrics on validation batches."""
        place = Place("validation", self._state.loop.epoch + 1, self._state.loop.global_step)
        return self._retry(partial(self._validate, batches), place, batches.largest_batch)

    def predict(self, batch: Batch) -> Tensor:
        """Return maps (B, K, h, w) float32."""
        place = Place("prediction", self._state.loop.epoch, self._state.loop.global_step)
        return self._retry(partial(self._predict, batch), place, len(batch.rows))

    def _retry(self, run: Callable[[], T], place: Place, num_samples: int) -> T:
        """Return what `run` returns; repeat it in smaller parts each time that memory runs out."""
        while True:
            try:
                return free_on_shortage(run, self._device, lambda: self._state.has_stepped)
            except MemoryRanOutError as error:
                self._use_smaller_parts(error, place, num_samples)

    def _use_smaller_parts(self, error: MemoryRanOutError, place: Place, num_samples: int) -> None:
        current = self._state.loop.pass_micro_batch
        smaller = current.halved(num_samples, 1, self._options.on_oom)
        if smaller is None:
            num_images = current.largest_part(num_samples)
            raise MemoryShortageError(place.text, num_images, current.num_retries, error.trace)
        self._state.loop.pass_micro_batch = smaller
        self._observer.on_event(pass_retry(place, smaller, smaller.largest_part(num_samples), error.message))

    @torch.inference_mode()
    def _validate(self, batches: Batches) -> Metrics:
        scorer = self._task.new_scorer()
        loss_sum, num_targets = 0.0, 0
        for part in self._split(batches.iterate_epoch(0)):
            on_device = part.to(self._device)
            outputs = self._forward(on_device)
            count = self._task.count_targets(part)
            loss_sum += self._task.compute_loss(outputs, on_device).item() * count
            num_targets += count
            scorer.add(outputs, part)
        self.last_scorer = scorer
        return {"loss": loss_sum / max(1, num_targets), **scorer.metrics()}

    def _predict(self, batch: Batch) -> Tensor:
        maps = [self._forward(part) for part in self._split([batch])]
        return maps[0] if len(maps) == 1 else torch.cat(maps)

    def _split(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the parts of batches. Raises StopAskedError if a stop is requested before one of them."""
        for batch in batches:
            for part in self._state.loop.pass_micro_batch.split(batch):
                if Request.STOP in self._observer.poll():
                    raise StopAskedError
                yield part

    @torch.inference_mode()
    def _forward(self, batch: Batch) -> Tensor:
        with autocast(self._device, self._options.autocast):
            maps: Tensor = self._state.ema_network(batch.to(self._device).images)
        return maps.float()
