"""Resume a phase: find the error to beat, replace a missing best.pt, lower the rate after a divergence."""

from __future__ import annotations

import logging
from typing import Any

from backend.run.best import REFINE, BestWeights
from backend.training.checkpoint import keep_first_network, load_best, save_checkpoint
from backend.training.engine import Trainer
from backend.training.events import retried_after_divergence
from backend.training.loop_state import Best
from backend.training.recorder import Recorder
from backend.training.run_data import RunData
from backend.training.stability import lower_lr

log = logging.getLogger(__name__)

Checkpoint = dict[str, Any]


def align_with_folder(
    data: RunData, phase: str, recorder: Recorder, trainer: Trainer, last: Checkpoint | None
) -> None:
    """Bring a trainer, in the state of the checkpoint `last` if any, into line with the run folder."""
    if last is not None:
        _report_resumed(data, phase, trainer)
    _take_best_from_file(data, phase, trainer, last)
    if last is not None:
        _retry_after_divergence(data, recorder, trainer)


def _report_resumed(data: RunData, phase: str, trainer: Trainer) -> None:
    loop = trainer.loop
    log.info("resumed after epoch %d of phase %s, step %d", loop.epoch, phase, loop.global_step)
    message = f"resumed after epoch {loop.epoch} of phase {phase}"
    data.folder.append_event("resumed", message, phase=phase, epoch=loop.epoch, step=loop.global_step)


def _take_best_from_file(data: RunData, phase: str, trainer: Trainer, last: Checkpoint | None) -> None:
    """Set the error to beat to that of best.pt, if it is of this phase.

    After a kill, best.pt may be newer than last.pt. A missing or damaged one is replaced if last.pt says that
    there was one.
    """
    content = load_best(data.folder.checkpoint_path("best"))
    if content is None and last is not None and (phase == REFINE or trainer.loop.best.epoch):
        content = _restore_best(data, phase, last)
    if content is None:
        return
    weights = BestWeights.of(content)
    if weights.phase == phase:
        trainer.loop.best = Best(weights.epoch or 0, weights.error)
        if weights.error.px is not None:
            trainer.loop.own_best = trainer.loop.best


def _restore_best(data: RunData, phase: str, last: Checkpoint) -> Checkpoint:
    """Replace a missing or damaged best.pt by the first network of last.pt, until there is a better one."""
    content = keep_first_network(last)
    save_checkpoint(data.folder.checkpoint_path("best"), content)
    message = (
        "best.pt was missing or damaged: replaced by the first network of last.pt until there is a better one"
    )
    log.info(message)
    data.folder.append_event("best_restored", message, phase=phase)
    return content


def _retry_after_divergence(data: RunData, recorder: Recorder, trainer: Trainer) -> None:
    """Lower the learning rate once if the run had ended as diverged.

    It gets as many retries as a new run.
    """
    number, outcome = data.folder.read_archived_outcome()
    if outcome.get("state") != "diverged":
        return
    is_done = any(event.get("after_outcome") == number for event in data.folder.read_events()[0])
    old_lr = trainer.options.lr * trainer.loop.lr_scale
    new_lr = lower_lr(old_lr, num_recoveries=0)
    if is_done or new_lr is None:
        return
    trainer.loop.lr_scale, trainer.loop.num_recoveries = new_lr / trainer.options.lr, 0
    trainer.state.apply_lr_scale()
    # saved before the event: a kill in between lowers the rate again, and loses nothing
    recorder.save_last(trainer)
    recorder.on_event(retried_after_divergence(trainer.loop, old_lr, new_lr, number))
