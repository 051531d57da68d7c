"""What there is to know of a training loop: how it should run, where it stands, and how it may end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any

import torch

from backend.run.best import UNKNOWN_ERROR, MeanError
from backend.training.micro_batch import WHOLE_BATCHES, MicroBatch
from backend.training.stability import LossWatch


class Request(StrEnum):
    """What an observer may ask for between two steps."""

    FINISH = "finish"  # end training now, validate, keep the best
    STOP = "stop"  # save where we are and leave
    SAVE_NOW = "save_now"
    PREVIEW_NOW = "preview_now"  # show the fixed images as the weights see them now


class StopAskedError(Exception):
    """A pass that changes no weights was given up, because a stop was asked for."""


class Ending(StrEnum):
    """How `fit` ended."""

    COMPLETED = "completed"
    FINISHED_EARLY = "finished_early"
    EARLY_STOPPED = "early_stopped"  # no better validation error for `patience` epochs
    STOPPED = "stopped"


@dataclass(frozen=True)
class TrainerOptions:
    """How steps are made; see the settings of the same names."""

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
    least_part: int  # samples that batch normalisation wants together; see build.least_part


@dataclass(frozen=True)
class Best:
    """The lowest error so far and the epoch that had it; 0: none of the phase's epochs."""

    epoch: int = 0
    error: MeanError = UNKNOWN_ERROR


@dataclass
class LoopState:
    """Where the loop stands. `epoch` counts finished epochs; the rest of an epoch under way follows."""

    epoch: int = 0
    batch_index: int = 0  # next batch of the epoch under way
    global_step: int = 0
    loss_sum: float = 0.0  # over the samples of the epoch under way
    num_samples: int = 0
    best: Best = Best()  # what best.pt holds; in the refinement the first network's error, until it is beaten
    own_best: Best = Best()  # of this phase's epochs alone: what patience counts from
    lr_scale: float = 1.0  # share of the asked learning rate that recoveries have left
    num_recoveries: int = 0
    micro_batch: MicroBatch = WHOLE_BATCHES  # of training steps
    pass_micro_batch: MicroBatch = WHOLE_BATCHES  # of passes that change no weights: validations, previews
    losses: LossWatch = field(default_factory=LossWatch)

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> LoopState:
        """Inverse of `dataclasses.asdict`; what an older state does not know stands as in a new one."""
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


def _best_from(state: Mapping[str, Any]) -> Best:
    return Best(state["epoch"], MeanError(**state["error"]))


def _older_own(best: Best, state: Mapping[str, Any]) -> Best:
    """Of a state that kept one best alone: where that was none of the phase's epochs, patience counts from now on."""
    return best if best.epoch else Best(state.get("epoch", 0))


def _older_best(state: Mapping[str, Any]) -> dict[str, Any]:
    """The best of a state from before it was a record of its own."""
    error = {unit: state.get(f"best_mre_{unit}") for unit in ("px", "mm")}
    return {"epoch": state.get("best_epoch", 0), "error": error}
