"""The training loop. It gets a network, a task, batches and an observer; it knows no network by name, no file
format and no screen, and does not know whether its images are whole films or crops.

A step is one update of the weights, from one or more batches (gradient accumulation). B: samples of a batch.

When a step goes wrong (see stability.py) or runs out of memory (see micro_batch.py), training goes back to the last
good state and tries again, at a lower learning rate or in smaller parts (see recovery.py).
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from functools import partial
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from backend.data.dataset import Batch, Batches
from backend.run.best import MeanError
from backend.training.events import Event, Place, early_stop, pass_retry
from backend.training.loop_state import Best, Ending, LoopState, Request, StopAskedError, TrainerOptions
from backend.training.micro_batch import in_groups
from backend.training.optim import (
    MovingAverage,
    build_optimizer,
    build_scheduler,
    ema_decay_at,
    set_peak_lr,
    step_once,
)
from backend.training.out_of_memory import Shortage, ShortOfMemoryError, attempt
from backend.training.recovery import Recovery
from backend.training.stability import UnstableError, is_finite

Outputs = Tensor | list[Tensor]
Metrics = dict[str, float | int | None]
T = TypeVar("T")


class Scorer(Protocol):
    """Collects final outputs and gives metrics, among them `mre_px` and `mre_mm`, which choose the best weights."""

    def add(self, outputs: Tensor, batch: Batch) -> None: ...
    def metrics(self) -> Metrics: ...


class Task(Protocol):
    """What is learned: a scalar loss, mean over the targets of a batch (0 without any), and a way to score."""

    def compute_loss(self, outputs: Outputs, batch: Batch) -> Tensor: ...
    def count_targets(self, batch: Batch) -> int: ...
    def new_scorer(self) -> Scorer: ...


class Observer(Protocol):
    """Whoever watches: told of every step and epoch, asked for requests, and given the state to keep.

    `poll` only looks, as it does between the batches of a validation too; `answer` takes back what it answers.
    """

    def poll(self) -> set[Request]: ...
    def on_step(self, loop: LoopState, num_steps: int, loss: float, images_per_s: float) -> None: ...
    def on_epoch(self, trainer: Trainer, metrics: Metrics, is_best: bool) -> None: ...
    def on_event(self, event: Event) -> None: ...
    def save_last(self, trainer: Trainer) -> None: ...
    def answer(self, trainer: Trainer, requests: set[Request]) -> None: ...


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
        self.network = network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.ema_network = copy.deepcopy(self.network).eval().requires_grad_(False)
        self._average = MovingAverage(self.ema_network, self.network)
        self.task = task
        self.device = device
        self.options = options
        self.loop = LoopState()
        self.last_scorer: Scorer | None = None  # of the last validation
        self._train, self._valid = train, valid
        self._observer = observer
        self._recovery = Recovery(self, observer)
        self.steps_per_epoch = math.ceil(len(train) / options.accumulation)
        self._optimizer = build_optimizer(self.network, options.lr, options.weight_decay)
        self._scheduler = build_scheduler(
            self._optimizer,
            warmup_steps=round(options.warmup_epochs * self.steps_per_epoch),
            total_steps=options.epochs * self.steps_per_epoch,
        )
        self._scaler = self._new_scaler()
        self._has_stepped = False  # in this process

    @property
    def largest_batch(self) -> int:
        """Samples of the largest training batch."""
        return self._train.largest_batch

    @property
    def batches_per_step(self) -> int:
        """Batches of a whole step."""
        return min(self.options.accumulation, len(self._train))

    def _new_scaler(self) -> torch.amp.GradScaler:
        """Only float16 is so narrow in range that small gradients vanish."""
        return torch.amp.GradScaler(self.device.type, enabled=self.options.autocast is torch.float16)

    def fit(self) -> Ending:
        """Train to the last epoch, or until patience is over or the observer asks to end.

        Raises DivergedError, and ShortOfMemoryError once the state is saved.
        """
        self._recovery.start()
        try:
            return self._run_epochs()
        except (
            StopAskedError
        ):  # in a validation: the epoch's steps are all done, and it is closed after a resume
            self._observer.save_last(self)
            return Ending.STOPPED
        except ShortOfMemoryError:  # also of a validation or a preview, which leaves all steps done
            self._observer.save_last(self)
            raise

    def _run_epochs(self) -> Ending:
        while self.loop.epoch < self.options.epochs:
            if self._is_patience_over():
                return Ending.EARLY_STOPPED
            if Request.STOP in self._observer.poll():
                self._observer.save_last(self)
                return Ending.STOPPED
            try:
                request = attempt(self._train_epoch, self.device, lambda: self._has_stepped)
            except UnstableError as error:
                self._recovery.lower_lr(str(error))
                continue
            if isinstance(request, Shortage):
                self._recovery.split_finer(request)
                continue
            ending = self._end_epoch(request)
            if ending is not None:
                return ending
        return Ending.COMPLETED

    def _end_epoch(self, request: Request | None) -> Ending | None:
        if request is Request.STOP:
            self._observer.save_last(self)
            return Ending.STOPPED
        self._close_epoch()
        if self.loop.epoch == self.options.epochs:
            return None
        if Request.FINISH in {request, *self._observer.poll()}:  # perhaps asked for during the validation
            self._observer.save_last(self)
            return Ending.FINISHED_EARLY
        if self._is_patience_over():
            self._observer.on_event(early_stop(self.loop))
            self._observer.save_last(self)
        return None

    def _train_epoch(self) -> Request | None:
        """The rest of the epoch under way. Raises UnstableError."""
        request = self._take_steps()
        self._check_weights()
        return request

    def _take_steps(self) -> Request | None:
        self.network.train()
        self._epoch_started, self._samples_at_start = time.monotonic(), self.loop.num_samples
        batches = self._train.of_epoch(self.loop.epoch, self.loop.batch_index)
        for group in in_groups(batches, self.options.accumulation):
            loss = self._train_step(group)
            self.loop.losses.note(loss, self.loop.global_step)
            self._observer.on_step(self.loop, self.steps_per_epoch, loss, self._images_per_s())
            requests = self._observer.poll()
            if requests & {Request.SAVE_NOW, Request.PREVIEW_NOW}:
                self._check_weights()
                self._observer.answer(self, requests)
            if Request.STOP in requests:
                return Request.STOP
            if Request.FINISH in requests:
                return Request.FINISH
        return None

    def _train_step(self, group: list[Batch]) -> float:
        """One update from a group of batches, their parts each weighted by its targets. Returns the mean loss."""
        micro_batch, least = self.loop.micro_batch, self.options.least_part
        parts = [part for batch in group for part in micro_batch.split(batch, least)]
        counts = [self.task.count_targets(part) for part in parts]
        num_samples, num_targets = sum(len(batch.rows) for batch in group), max(1, sum(counts))
        losses: list[Tensor] = []
        for part, count in zip(parts, counts, strict=True):
            loss = self._loss(self.network, part) * (count / num_targets)
            self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        total = self._update_weights(losses)
        self._has_stepped = True
        self.loop.batch_index += len(group)
        self.loop.global_step += 1
        self.loop.loss_sum += total * num_samples
        self.loop.num_samples += num_samples
        return total

    def _update_weights(self, losses: list[Tensor]) -> float:
        """One update from the gradients of the parts' losses, whose sum it returns."""
        step, clip_norm = self.loop.global_step + 1, self.options.clip_norm
        total, has_moved = step_once(losses, self.network, self._optimizer, self._scaler, clip_norm, step)
        if has_moved:
            self._scheduler.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._average.update(ema_decay_at(self.loop.global_step, self.options.ema_decay))
        return total

    def _loss(self, network: nn.Module, batch: Batch) -> Tensor:
        batch = batch.to(self.device)
        with self._autocast():
            outputs = network(batch.images)
        return self.task.compute_loss(outputs, batch)

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.options.autocast is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.options.autocast)

    def _images_per_s(self) -> float:
        done = self.loop.num_samples - self._samples_at_start
        return done / max(1e-9, time.monotonic() - self._epoch_started)

    def _close_epoch(self) -> None:
        """Validate, compare with the best, report, and keep the state."""
        loop = self.loop
        metrics: Metrics = {
            "train/loss": loop.loss_sum / loop.num_samples,
            "lr": float(self._scheduler.get_last_lr()[0]),
            "images_per_s": self._images_per_s() or None,  # no step is left after a stop in the validation
            "train_s": time.monotonic() - self._epoch_started,
        }
        metrics |= {f"val/{name}": value for name, value in self.validate().items()}
        metrics["epoch_s"] = time.monotonic() - self._epoch_started
        loop.epoch, loop.batch_index, loop.loss_sum, loop.num_samples = loop.epoch + 1, 0, 0.0, 0
        here = Best(loop.epoch, MeanError.of(metrics))
        if _is_better(metrics, loop.own_best.error):
            loop.own_best = here
        is_best = _is_better(metrics, loop.best.error)
        if is_best:
            loop.best = here
        # a state under a spike, or of gradients that keep overflowing, is finite but perhaps on its way out
        if loop.losses.is_calm and self._scaler.get_scale() >= 1:
            self._recovery.keep()
        self._observer.on_epoch(self, metrics, is_best)

    def _is_patience_over(self) -> bool:
        """Counted from the phase's own best epoch, and at the earliest from the end of its warm-up."""
        since = max(self.loop.own_best.epoch, math.ceil(self.options.warmup_epochs))
        return 0 < self.options.patience <= self.loop.epoch - since

    def _check_weights(self) -> None:
        """A finite loss and gradient may still give an infinite update; such a state is never saved."""
        if not is_finite(self.state()):
            raise UnstableError(f"the weights are no finite numbers after step {self.loop.global_step}")

    def _repeated(self, run: Callable[[], T], place: Place, num_samples: int) -> T:
        """What `run` returns: a pass that changes no state, and so is repeated in smaller parts if memory runs out.

        Training steps stay as they are. Raises ShortOfMemoryError.
        """
        while isinstance(result := attempt(run, self.device, lambda: self._has_stepped), Shortage):
            now = self.loop.pass_micro_batch
            finer = now.halved(num_samples, 1, self.options.on_oom)
            if finer is None:
                raise ShortOfMemoryError(place.words, now.largest_part(num_samples), now.num_retries, result)
            self.loop.pass_micro_batch = finer
            self._observer.on_event(pass_retry(place, finer, finer.largest_part(num_samples), result.error))
        return result

    def validate(self) -> Metrics:
        """Loss and metrics of the averaged weights on the validation batches; empty without any.

        Raises ShortOfMemoryError, and StopAskedError where a stop is asked for between two batches.
        """
        if self._valid is None:
            return {}
        place = Place("validation", self.loop.epoch + 1, self.loop.global_step)
        return self._repeated(partial(self._validate, self._valid), place, self._valid.largest_batch)

    @torch.inference_mode()
    def _validate(self, valid: Batches) -> Metrics:
        scorer = self.task.new_scorer()
        loss_sum, num_targets = 0.0, 0
        for part in self._parts_of(valid.of_epoch(0)):
            on_device = part.to(self.device)
            outputs = self._forward(on_device)
            count = self.task.count_targets(part)
            loss_sum += self.task.compute_loss(outputs, on_device).item() * count
            num_targets += count
            scorer.add(outputs, part)
        self.last_scorer = scorer
        return {"loss": loss_sum / max(1, num_targets), **scorer.metrics()}

    def predict(self, batch: Batch) -> Tensor:
        """Maps (B, K, h, w) float32 of the averaged weights. Raises what `validate` does."""
        place = Place("prediction", self.loop.epoch, self.loop.global_step)
        return self._repeated(partial(self._predict, batch), place, len(batch.rows))

    def _predict(self, batch: Batch) -> Tensor:
        maps = [self._forward(part) for part in self._parts_of([batch])]
        return maps[0] if len(maps) == 1 else torch.cat(maps)

    def _parts_of(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """What a pass that changes no weights computes at once, in turn. Raises StopAskedError."""
        for batch in batches:
            for part in self.loop.pass_micro_batch.split(batch):
                if Request.STOP in self._observer.poll():
                    raise StopAskedError
                yield part

    @torch.inference_mode()
    def _forward(self, batch: Batch) -> Tensor:
        with self._autocast():
            maps: Tensor = self.ema_network(batch.to(self.device).images)
        return maps.float()

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides how training goes on, as tensors and plain values.

        `last_good`, the state to go back to, is None where it is this one (at an epoch's start).
        """
        good = self._recovery.good
        is_this = good is None or good["loop"]["global_step"] == self.loop.global_step
        return {**self.state(), "last_good": None if is_this else good}

    def state(self) -> dict[str, Any]:
        """All of it but the state to go back to."""
        cuda_states = torch.cuda.get_rng_state_all() if self.device.type == "cuda" else []
        return {
            "model_state_dict": self.ema_network.state_dict(),
            "raw_model_state_dict": self.network.state_dict(),
            "optimizer_state_dict": self._optimizer.state_dict(),
            "scheduler": self._scheduler.state_dict(),
            "scaler": self._scaler.state_dict(),
            "rng": {"torch": torch.get_rng_state(), "cuda": cuda_states},
            "loop": asdict(self.loop),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`; a state from before there was a `last_good` is as good as it gets."""
        self._load(state)
        self._recovery.good = state.get("last_good")

    def restart_from(self, state: dict[str, Any]) -> None:
        """Load a state in place of one that went wrong, perhaps in the middle of a step."""
        self._optimizer.zero_grad(set_to_none=True)
        self._optimizer.state.clear()  # its memory is free before the old states come back
        self._scaler = self._new_scaler()
        # a copy: on a CPU, AdamW would go on to train in the very tensors that it loads
        self._load(copy.deepcopy(state))

    def set_lr(self) -> None:
        """Let the schedule follow the share of the asked learning rate that is left."""
        set_peak_lr(self._scheduler, self.options.lr * self.loop.lr_scale)

    def _load(self, state: dict[str, Any]) -> None:
        self.ema_network.load_state_dict(state["model_state_dict"])
        self.network.load_state_dict(state["raw_model_state_dict"])
        self._optimizer.load_state_dict(state["optimizer_state_dict"])
        self._scheduler.load_state_dict(state["scheduler"])
        if state["scaler"]:  # else the run had none so far: it trained on another kind of device
            self._scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["rng"]["torch"])
        if self.device.type == "cuda" and len(state["rng"]["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["rng"]["cuda"])
        self.loop = LoopState.from_dict(state["loop"])


def _is_better(metrics: Metrics, bar: MeanError) -> bool:
    """Without validation (or truth) the last weights are the best known; an epoch whose loss or points are no numbers
    is never the best."""
    loss = metrics.get("val/loss")
    if loss is not None and not math.isfinite(loss):
        return False
    return bar.px is None or MeanError.of(metrics).is_below(bar)
