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
    """What an observer may request between two steps."""

    FINISH = "finish"  # end training now, validate, keep the best
    STOP = "stop"  # save the state and leave
    SAVE_NOW = "save_now"
    PREVIEW_NOW = "preview_now"  # predict the preview images with the present weights


class StopAskedError(Exception):
    """A validation or prediction was abandoned because a stop was requested."""


class Ending(StrEnum):
    """How `fit` ended."""

    COMPLETED = "completed"
    FINISHED_EARLY = "finished_early"
    EARLY_STOPPED = "early_stopped"  # no better validation error for `patience` epochs
    STOPPED = "stopped"


@dataclass(frozen=True)
class TrainerOptions:
    """How a training runs; see the settings of the same names."""

    epochs: int
    lr: float
    warmup_epochs: float
    weight_decay: float
    clip_norm: float
    ema_decay: float
    accumulation: int
    autocast: torch.dtype | None  # what mixed precision computes in; None: all in float32
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
    """The place in the loop. `epoch` counts the epochs that are done; batches and sums are of the one under
    way."""

    epoch: int = 0
    batch_index: int = 0  # next batch of the epoch under way
    global_step: int = 0
    loss_sum: float = 0.0  # over the samples of the epoch under way
    num_samples: int = 0
    best: Best = Best()  # what best.pt holds; in the refinement the first network's error, until it is beaten
    own_best: Best = Best()  # of this phase's epochs alone: patience counts from it
    lr_scale: float = 1.0  # share of the requested learning rate that recoveries have left
    num_recoveries: int = 0
    micro_batch: MicroBatch = WHOLE_BATCHES  # of training steps
    pass_micro_batch: MicroBatch = WHOLE_BATCHES  # of passes that change no weights: validations, previews
    losses: LossWatch = field(default_factory=LossWatch)

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> LoopState:
        """Inverse of `dataclasses.asdict`; fields that an older state lacks get their defaults."""
        known = {field.name for field in fields(cls)}
        best = _best_from(state.get("best") or _older_best(state))
        nested = {
            "best": best,
            "own_best": _best_from(state["own_best"]) if "own_best" in state else _older_own(best, state),
            "micro_batch": MicroBatch(**state.get("micro_batch", {})),
            "pass_micro_batch": MicroBatch(**state.get("pass_micro_batch", {})),
            "losses": LossWatch(**state.get("losses", {})),
        }
        return cls(**{**{name: value for name, value in state.items() if name in known}, **nested})

    def add_step(self, num_batches: int, num_samples: int, loss: float) -> None:
        """Count a step and its mean loss."""
        self.batch_index += num_batches
        self.global_step += 1
        self.loss_sum += loss * num_samples
        self.num_samples += num_samples

    def close_epoch(self, metrics: Mapping[str, Any]) -> bool:
        """Count the epoch under way as done. Returns whether its weights are the best so far."""
        self.epoch, self.batch_index, self.loss_sum, self.num_samples = self.epoch + 1, 0, 0.0, 0
        here = Best(self.epoch, MeanError.of(metrics))
        if _is_better(metrics, self.own_best.error):
            self.own_best = here
        is_best = _is_better(metrics, self.best.error)
        if is_best:
            self.best = here
        return is_best

    def is_patience_over(self, options: TrainerOptions) -> bool:
        """Counted from the phase's own best epoch, but not before the end of its warm-up."""
        since = max(self.own_best.epoch, math.ceil(options.warmup_epochs))
        return 0 < options.patience <= self.epoch - since


class EpochClock:
    """Seconds and images per second since an epoch started, or was resumed, in this process."""

    def start(self, loop: LoopState) -> None:
        self._started, self._samples_at_start = time.monotonic(), loop.num_samples

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    def images_per_s(self, loop: LoopState) -> float:
        return (loop.num_samples - self._samples_at_start) / max(1e-9, self.seconds)


def _is_better(metrics: Mapping[str, Any], bar: MeanError) -> bool:
    """Without validation images, or their annotations, the last weights are the best known; an epoch whose
    loss or points are not finite is never the best."""
    loss = metrics.get("val/loss")
    if loss is not None and not math.isfinite(loss):
        return False
    return bar.px is None or MeanError.of(metrics).is_below(bar)


def _best_from(state: Mapping[str, Any]) -> Best:
    return Best(state["epoch"], MeanError(**state["error"]))


def _older_own(best: Best, state: Mapping[str, Any]) -> Best:
    """Of a state that kept a single best: where no epoch of the phase had it, patience counts from now on."""
    return best if best.epoch else Best(state.get("epoch", 0))


def _older_best(state: Mapping[str, Any]) -> dict[str, Any]:
    """The best of a state that kept it as separate fields."""
    error = {unit: state.get(f"best_mre_{unit}") for unit in ("px", "mm")}
    return {"epoch": state.get("best_epoch", 0), "error": error}
