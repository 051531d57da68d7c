"""The events of a training with their messages, for the observer, the run's record and the curves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from backend.training.loop_state import LoopState, Request
from backend.training.micro_batch import MAX_RETRIES, MicroBatch, StepParts
from backend.training.stability import MAX_RECOVERIES


class Event(NamedTuple):
    """Something to report of a training: a kind for programs, a sentence for people, and plain values."""

    kind: str
    message: str
    values: Mapping[str, Any]


class Place(NamedTuple):
    """A moment in a training at which something happened."""

    during: str  # "training", "validation" or "prediction"
    epoch: int  # from 1
    step: int  # counted over all epochs: in training the current one, else the last one done

    @property
    def text(self) -> str:
        """A phrase for messages."""
        if self.during == "training":
            return f"epoch {self.epoch}, step {self.step}"
        return f"the {self.during} {'of' if self.during == 'validation' else 'after'} epoch {self.epoch}"


def lr_lowered(
    why: str, epoch: int, step: int, back_to_epoch: int, old_lr: float, new_lr: float, retry: int
) -> Event:
    """Report that training was unstable and goes on from the end of an earlier epoch (0: from the start).

    The rates are peaks of the schedule, as the setting `lr` is. `retry` counts from 1.
    """
    return Event(
        "lr_lowered",
        f"unstable in epoch {epoch}: {why}; back to {_state_after(back_to_epoch)}, "
        f"learning rate lowered from {old_lr:.2g} to {new_lr:.2g} "
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


def retried_after_divergence(loop: LoopState, old_lr: float, new_lr: float, after_outcome: int) -> Event:
    """Report that a run that had diverged is resumed at a lower learning rate.

    At the same rate it would diverge again in the same steps. `after_outcome` is the number under which the
    run's outcome was renamed.
    """
    return Event(
        "lr_lowered",
        f"resumed after it had diverged: learning rate lowered from {old_lr:.2g} to {new_lr:.2g}, "
        f"with {MAX_RECOVERIES} more retries",
        {
            "epoch": loop.epoch,
            "step": loop.global_step,
            "old_lr": old_lr,
            "new_lr": new_lr,
            "after_outcome": after_outcome,
        },
    )


def early_stop(loop: LoopState) -> Event:
    """Report that patience is over. `best_epoch` is the phase's own best; None if no epoch has an error."""
    best = loop.own_best.epoch or None
    return Event(
        "early_stop",
        f"{without_progress(loop)}: this phase ends after epoch {loop.epoch}"
        + (f", its best was epoch {best}" if best else ""),
        {"epoch": loop.epoch, "step": loop.global_step, "best_epoch": best},
    )


def without_progress(loop: LoopState) -> str:
    """Describe for how long a phase has not improved."""
    return f"no lower validation error for {loop.epoch - loop.own_best.epoch} epochs"


def did_not_learn(epoch: int, best: str, guess: str) -> Event:
    """Report that the best validation error of a training is not below that of the mean positions."""
    return Event(
        "did_not_learn",
        f"nothing was learned: the best validation error, {best}, is not below that of the mean position "
        f"of each landmark, {guess}. Train for more epochs; lower the learning rate, for example to 1e-4, "
        "if the loss jumped; check the annotations of the data set",
        {"epoch": epoch},
    )


def answered(request: Request, loop: LoopState) -> Event:
    """Report that a request in the middle of an epoch has been carried out."""
    result = {Request.SAVE_NOW: "last.pt saved", Request.PREVIEW_NOW: "preview saved"}[request]
    epoch, step = loop.epoch + 1, loop.global_step
    message = f"{result} in epoch {epoch}, step {step}, as requested"
    return Event(request.value, message, {"epoch": epoch, "step": step})


def oom_retry(place: Place, back_to_epoch: int, finer: MicroBatch, parts: StepParts, why: str) -> Event:
    """Report that memory ran out in a training step; from now on steps are computed in smaller parts.

    Training goes on from the end of an earlier epoch (0: from the start).
    """
    size = "" if parts.num * parts.largest == parts.num_samples else "at most "
    return Event(
        "oom_retry",
        f"out of memory in {place.text}: back to {_state_after(back_to_epoch)}, "
        f"a step now takes {parts.num} {'part' if parts.num == 1 else 'parts'} of "
        f"{size}{_images(parts.largest)}; the effective batch stays {parts.num_samples} "
        f"(retry {finer.num_retries} of {MAX_RETRIES})",
        {
            **place._asdict(),
            "back_to_epoch": back_to_epoch,
            "micro_batch": finer.limit,
            "num_parts": parts.num,
            "largest_part": parts.largest,
            "effective_batch": parts.num_samples,
            "why": why,
        },
    )


def pass_retry(place: Place, finer: MicroBatch, largest: int, why: str) -> Event:
    """Report that memory ran out in a validation or prediction; this and later ones get smaller parts."""
    return Event(
        "oom_retry",
        f"out of memory in {place.text}: it is repeated with {_at_most(largest)} at once "
        f"(retry {finer.num_retries} of {MAX_RETRIES}); training steps stay as they are",
        {
            **place._asdict(),
            "back_to_epoch": None,
            "pass_micro_batch": finer.limit,
            "largest_part": largest,
            "why": why,
        },
    )


def prediction_retry(place: str, finer: MicroBatch, why: str) -> Event:
    """Report that memory ran out in predictions outside a training, which are repeated in smaller parts."""
    return Event(
        "oom_retry",
        f"out of memory in {place}: {_images(finer.limit or 0)} at once now "
        f"(retry {finer.num_retries} of {MAX_RETRIES})",
        {"during": "prediction", "pass_micro_batch": finer.limit, "why": why},
    )


def _images(num: int) -> str:
    return "1 image" if num == 1 else f"{num} images"


def _at_most(num: int) -> str:
    return "1 image" if num == 1 else f"at most {num} images"


def _state_after(epoch: int) -> str:
    return f"the state after epoch {epoch}" if epoch else "the start"
