"""Go back to the last good state of a training, after an unstable step or one that ran out of memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from backend.training.events import Event, Place, lr_lowered, oom_retry
from backend.training.loop_state import TrainerOptions
from backend.training.out_of_memory import MemoryRanOutError, MemoryShortageError
from backend.training.stability import DivergedError, copy_to_main_memory, is_finite, lower_lr
from backend.training.training_state import TrainingState

# fields of the loop's state that stay after going back: what is known of the best weights, the learning rate
# and the memory is still true
KEPT_FIELDS = ("best", "own_best", "lr_scale", "num_recoveries", "micro_batch", "pass_micro_batch")


class Recovery:
    """Keeps a snapshot of the last good state in main memory, and restores it.

    `report` is called with each event, `save` to write the state that training goes on from.
    """

    def __init__(
        self,
        state: TrainingState,
        options: TrainerOptions,
        *,
        report: Callable[[Event], None],
        save: Callable[[], None],
    ) -> None:
        self._state = state
        self._options = options
        self._report = report
        self._save = save
        self.snapshot: dict[str, Any] | None = None

    def start(self) -> None:
        """Take the first snapshot, unless a resumed run brought one.

        Raises DivergedError if a weight is not finite.
        """
        if self.snapshot is None:
            if not is_finite(self._state.state_dict()):
                raise DivergedError("the initial weights are not finite numbers")
            self.save_snapshot()

    def save_snapshot(self) -> None:
        """Take a snapshot of the current state, to go back to from here on."""
        self.snapshot = None  # frees its memory before the new one is allocated
        self.snapshot = copy_to_main_memory(self._state.state_dict())

    def snapshot_if_older(self) -> dict[str, Any] | None:
        """Return the snapshot; None if it is the current state, as at the start of an epoch."""
        snapshot = self.snapshot
        is_current = snapshot is None or snapshot["loop"]["global_step"] == self._state.loop.global_step
        return None if is_current else snapshot

    def lower_lr(self, why: str) -> None:
        """Go back, with a lower learning rate, and save.

        Raises DivergedError, with the good state saved, after the last retry or if `on_divergence` is "stop".
        """
        loop, options = self._state.loop, self._options
        epoch, step, tries = loop.epoch + 1, loop.global_step, loop.num_recoveries
        old_lr = options.lr * loop.lr_scale
        new_lr = lower_lr(old_lr, tries) if options.on_divergence == "retry" else None
        if new_lr is None:
            self._restore_snapshot()
            self._save()
            tried = f" (after {tries} retries, at a learning rate of {old_lr:.2g})" if tries else ""
            raise DivergedError(f"{why} in epoch {epoch}{tried}")
        loop.lr_scale, loop.num_recoveries = new_lr / options.lr, tries + 1
        self._restore_snapshot()
        event = lr_lowered(
            why,
            epoch=epoch,
            step=step,
            back_to_epoch=self._state.loop.epoch,
            old_lr=old_lr,
            new_lr=new_lr,
            retry=tries + 1,
        )
        self._report(event)
        self._save()

    def use_smaller_parts(self, error: MemoryRanOutError, largest_batch: int, batches_per_step: int) -> None:
        """Go back, to compute the batches of a step in smaller parts, and save.

        Raises MemoryShortageError if no smaller part is possible or `on_oom` is "stop".
        """
        place = Place("training", self._state.loop.epoch + 1, self._state.loop.global_step + 1)
        self._restore_snapshot()
        loop, least = self._state.loop, self._options.min_micro_batch
        current = loop.micro_batch
        smaller = current.halved(largest_batch, least, self._options.on_oom)
        if smaller is None:
            num_images = current.largest_part(largest_batch, least)
            raise MemoryShortageError(place.text, num_images, current.num_retries, error.trace)
        loop.micro_batch = smaller
        parts = smaller.split_step(largest_batch, batches_per_step, least)
        self._report(oom_retry(place, loop.epoch, smaller, parts, error.message))
        self._save()

    def _restore_snapshot(self) -> None:
        assert self.snapshot is not None, "a snapshot is taken before the first step"
        kept_values = {name: getattr(self._state.loop, name) for name in KEPT_FIELDS}
        self._state.restore(self.snapshot)
        self._state.loop = replace(self._state.loop, **kept_values)
        self._state.apply_lr_scale()
