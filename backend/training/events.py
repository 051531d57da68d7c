"""What happens on the way of a training, in words: told to the observer, kept in the run's events, marked on curves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from backend.training.stability import MAX_RECOVERIES


class Event(NamedTuple):
    """A kind for programs, a sentence for people, and plain values, `epoch` among them."""

    kind: str
    message: str
    values: Mapping[str, Any]


def lr_lowered(
    why: str, epoch: int, step: int, back_to_epoch: int, old_lr: float, new_lr: float, retry: int
) -> Event:
    """Training was unstable in an epoch and goes on from the end of an earlier one (0: from the start).

    The rates are peaks of the schedule: what the setting `lr` would be. `retry` counts from 1.
    """
    where = f"the state after epoch {back_to_epoch}" if back_to_epoch else "the start"
    return Event(
        "lr_lowered",
        f"unstable in epoch {epoch}: {why}; back to {where}, learning rate lowered from {old_lr:.2g} to {new_lr:.2g} "
        f"(retry {retry} of {MAX_RECOVERIES})",
        {
            "epoch": epoch,
            "step": step,
            "back_to_epoch": back_to_epoch,
            "old_lr": old_lr,
            "new_lr": new_lr,
            "why": why,
        },
    )


def early_stop(epoch: int, step: int, best_epoch: int) -> Event:
    """Patience is over."""
    return Event(
        "early_stop",
        f"no better validation error for {epoch - best_epoch} epochs: training ends after epoch {epoch}, "
        f"the best was epoch {best_epoch}",
        {"epoch": epoch, "step": step, "best_epoch": best_epoch},
    )
