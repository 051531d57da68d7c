"""The options of a training loop, its place in the run, and how it may end."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

import torch

from backend.run.best import UNKNOWN_ERROR, MeanError
from backend.training.micro_batch import WHOLE_BATCHES, MicroBatch
from backend.training.stability import LossWatch


class Request(StrEnum):
    """A wish of an observer, which a training carries out between two steps."""

    FINISH = "finish"  # end training now, validate, keep the best
    STOP = "stop"  # save the state and leave
    SAVE_NOW = "save_now"
    PREVIEW_NOW = "preview_now"  # predict the preview images with the current weights


class StopAskedError(Exception):
    """A stop was requested, and an epoch, a validation or a prediction was left unfinished."""


class Ending(StrEnum):
    """The way in which `fit` ended."""

    COMPLETED = "completed"
    FINISHED_EARLY = "finished_early"
    EARLY_STOPPED = "early_stopped"  # no better validation error for `patience` epochs
    STOPPED = "stopped"


@dataclass(frozen=True)
class TrainerOptions:
    """The settings of a training; see those of the same names in the config."""

    epochs: int
    lr: float
    warmup_epochs: float
    weight_decay: float
    clip_norm: float
    ema_decay: float
    accumulation: int
    autocast: torch.dtype | None  # the type in which mixed precision computes; None: all in float32
    patience: int
    on_divergence: str
    on_oom: str
    min_micro_batch: int  # samples that batch normalization needs together; see build.min_micro_batch


@dataclass(frozen=True)
class Best:
    """The lowest error so far and the epoch that had it; 0: none of the phase's epochs."""

    epoch: int = 0
    error: MeanError = UNKNOWN_ERROR


@dataclass
class LoopState:
    """The place in a training, and what it has found so far."""

    epoch: int = 0  # how many are done
    batch_index: int = 0  # the next batch of the current epoch
    global_step: int = 0
    loss_sum: float = 0.0  # over the samples of the current epoch
    num_samples: int = 0  # of the current epoch
    best: Best = Best()  # that of best.pt; in the refinement the first network's error, until it is beaten
    own_best: Best = Best()  # of this phase's epochs alone: patience counts from it
    lr_scale: float = 1.0  # share of the requested learning rate that recoveries have left
    num_recoveries: int = 0
    micro_batch: MicroBatch = WHOLE_BATCHES  # of training steps
    pass_micro_batch: MicroBatch = WHOLE_BATCHES  # of validations and previews, which change no weights
    losses: LossWatch = field(default_factory=LossWatch)

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> LoopState:
        """Invert `dataclasses.asdict`; fields that an older state lacks get their defaults."""
        field_names = {field.name for field in fields(cls)}
        plain = {name: value for name, value in state.items() if name in field_names}
        best = _parse_best(state.get("best") or _read_older_best(state))
        own_best = _parse_best(state["own_best"]) if "own_best" in state else _guess_own_best(best, state)
        records = {
            "best": best,
            "own_best": own_best,
            "micro_batch": MicroBatch(**state.get("micro_batch", {})),
            "pass_micro_batch": MicroBatch(**state.get("pass_micro_batch", {})),
            "losses": LossWatch(**state.get("losses", {})),
        }
        return cls(**{**plain, **records})

    def add_step(self, num_batches: int, num_samples: int, loss: float) -> None:
        """Count a step and its mean loss."""
        self.batch_index += num_batches
        self.global_step += 1
        self.loss_sum += loss * num_samples
        self.num_samples += num_samples

    def close_epoch(self, metrics: Mapping[str, Any]) -> bool:
        """Count the current epoch as done. Return whether its weights are the best so far."""
        self.epoch, self.batch_index, self.loss_sum, self.num_samples = self.epoch + 1, 0, 0.0, 0
        this_epoch = Best(self.epoch, MeanError.of(metrics))
        if _is_better(metrics, self.own_best.error):
            self.own_best = this_epoch
        is_best = _is_better(metrics, self.best.error)
        if is_best:
            self.best = this_epoch
        return is_best

    def is_patience_over(self, options: TrainerOptions) -> bool:
        """Whether the phase has had no better epoch for `patience` epochs, not counting the warm-up."""
        since = max(self.own_best.epoch, math.ceil(options.warmup_epochs))
        return 0 < options.patience <= self.epoch - since


class EpochClock:
    """Measures seconds and images per second since an epoch started, or was resumed, in this process."""

    def start(self, loop: LoopState) -> None:
        self._started, self._samples_at_start = time.monotonic(), loop.num_samples

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    def images_per_s(self, loop: LoopState) -> float:
        return (loop.num_samples - self._samples_at_start) / max(1e-9, self.seconds)


def _is_better(metrics: Mapping[str, Any], bar: MeanError) -> bool:
    """Whether an epoch is better than the best so far.

    Without validation images, or their annotations, the latest weights always are. An epoch whose loss or
    points are not finite never is.
    """
    loss = metrics.get("val/loss")
    if loss is not None and not math.isfinite(loss):
        return False
    return bar.px is None or MeanError.of(metrics).is_below(bar)


def _parse_best(state: Mapping[str, Any]) -> Best:
    return Best(state["epoch"], MeanError(**state["error"]))


def _read_older_best(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the best of a state that kept it as separate fields."""
    error = {unit: state.get(f"best_mre_{unit}") for unit in ("px", "mm")}
    return {"epoch": state.get("best_epoch", 0), "error": error}


def _guess_own_best(best: Best, state: Mapping[str, Any]) -> Best:
    """Return the own best of a state that kept a single best.

    If no epoch of the phase had that, patience counts from now on.
    """
    return best if best.epoch else Best(state.get("epoch", 0))
