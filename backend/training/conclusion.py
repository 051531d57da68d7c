"""Describe how a training ended, in one line, with an alarm if nothing was learned."""

from __future__ import annotations

from backend.run.best import REFINE, TRAIN
from backend.training.engine import Trainer
from backend.training.events import Event, did_not_learn, without_progress
from backend.training.loop_state import Ending, LoopState
from backend.training.metrics import guess_mean_positions, mean_error, radial_errors
from backend.training.run_data import RunData

NAMES = {TRAIN: "training", REFINE: "refinement"}


def conclude(data: RunData, phase: str, ending: Ending, trainer: Trainer) -> tuple[Ending, str]:
    """Return how a phase ended and one line about it; the alarm is an event too."""
    reason = _describe_ending(phase, ending, trainer.loop, trainer.options.epochs)
    alarm = None if ending is Ending.STOPPED else find_nothing_learned(data, trainer.loop)
    if alarm is None:
        return ending, reason
    data.folder.append_event(alarm.kind, alarm.message, phase=phase, **alarm.values)
    return ending, f"{reason}; {alarm.message}"


def find_nothing_learned(data: RunData, loop: LoopState) -> Event | None:
    """Return an alarm if the best validation error is not below that of the mean positions."""
    best = loop.best.error
    if data.valid is None or best.px is None:
        return None
    valid = data.valid.samples
    points = guess_mean_positions(data.train.samples, valid)
    guess = mean_error(radial_errors(points, valid.points_xy_image, valid.mm_per_px_xy))
    if guess.px is None or best.is_below(guess):
        return None
    if best.mm is not None and guess.mm is not None:
        return did_not_learn(loop.epoch, f"{best.mm:.2f} mm", f"{guess.mm:.2f} mm")
    return did_not_learn(loop.epoch, f"{best.px:.1f} px", f"{guess.px:.1f} px")


def _describe_ending(phase: str, ending: Ending, loop: LoopState, num_epochs: int) -> str:
    if ending is Ending.STOPPED:
        is_between = loop.epoch and not loop.batch_index
        place = f"after epoch {loop.epoch}" if is_between else f"in epoch {loop.epoch + 1}"
        return f"stopped {place} of {NAMES[phase]} at step {loop.global_step}; resume goes on from there"
    result = f"{loop.epoch} of {num_epochs} epochs of {NAMES[phase]}{_describe_best(loop)}"
    if ending is Ending.EARLY_STOPPED:
        return f"{without_progress(loop)}: ended early after {result}"
    return result


def _describe_best(loop: LoopState) -> str:
    title = f"best in epoch {loop.best.epoch}" if loop.best.epoch else "no better than the first network"
    error = loop.best.error
    in_px = "" if error.px is None else f"; {title}: {error.px:.2f} px"
    return in_px if error.mm is None else f"{in_px}, {error.mm:.2f} mm"
