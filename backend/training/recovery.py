"""What a training does after an unstable step, or after one that ran out of memory: go back to its last good state."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from backend.training.events import Place, lr_lowered, oom_retry
from backend.training.out_of_memory import Shortage, ShortOfMemoryError
from backend.training.stability import DivergedError, copy_to_main_memory, is_finite, lower_lr

if TYPE_CHECKING:
    from backend.training.engine import Observer, Trainer

# what is known of the best weights, the learning rate and the memory holds for the state gone back to as well
KEPT_GOING_BACK = ("best", "own_best", "lr_scale", "num_recoveries", "micro_batch", "pass_micro_batch")


class Recovery:
    """Keeps the last good state of a training, a finite one in the main memory, and goes back to it."""

    def __init__(self, trainer: Trainer, observer: Observer) -> None:
        self._trainer = trainer
        self._observer = observer
        self.good: dict[str, Any] | None = None

    def start(self) -> None:
        """Keep the state to start from, where none is kept. Raises DivergedError where it is not finite."""
        if self.good is None:
            if not is_finite(self._trainer.state()):
                raise DivergedError("the weights to start from are no finite numbers")
            self.keep()

    def keep(self) -> None:
        """The present state is the one to go back to from here on."""
        self.good = None  # its memory is free before the new one's is taken
        self.good = copy_to_main_memory(self._trainer.state())

    def lower_lr(self, why: str) -> None:
        """Go back with a lower learning rate, and save the state.

        Raises DivergedError, the good state being saved, where that was done often enough or is not wanted.
        """
        loop, options = self._trainer.loop, self._trainer.options
        epoch, step, tries = loop.epoch + 1, loop.global_step, loop.num_recoveries
        old_lr = options.lr * loop.lr_scale
        new_lr = lower_lr(old_lr, tries) if options.on_divergence == "retry" else None
        if new_lr is None:
            self._go_back()
            self._observer.save_last(self._trainer)
            tried = f" (after {tries} retries, at a learning rate of {old_lr:.2g})" if tries else ""
            raise DivergedError(f"{why} in epoch {epoch}{tried}")
        loop.lr_scale, loop.num_recoveries = new_lr / options.lr, tries + 1
        self._go_back()
        back_to = self._trainer.loop.epoch
        self._observer.on_event(lr_lowered(why, epoch, step, back_to, old_lr, new_lr, tries + 1))
        self._observer.save_last(self._trainer)

    def split_finer(self, shortage: Shortage) -> None:
        """Go back and save the state, to compute the batches of a step in smaller parts from there on.

        Raises ShortOfMemoryError where that helps no more or is not wanted.
        """
        trainer = self._trainer
        place = Place("training", trainer.loop.epoch + 1, trainer.loop.global_step + 1)
        self._go_back()
        now, largest, least = trainer.loop.micro_batch, trainer.largest_batch, trainer.options.least_part
        finer = now.halved(largest, least, trainer.options.on_oom)
        if finer is None:
            raise ShortOfMemoryError(place.words, now.largest_part(largest, least), now.num_retries, shortage)
        trainer.loop.micro_batch = finer
        parts = finer.parts_of_step(largest, trainer.batches_per_step, least)
        self._observer.on_event(oom_retry(place, trainer.loop.epoch, finer, parts, shortage.error))
        self._observer.save_last(trainer)

    def _go_back(self) -> None:
        assert self.good is not None, "a good state is kept before the first step"
        kept = {name: getattr(self._trainer.loop, name) for name in KEPT_GOING_BACK}
        self._trainer.restart_from(self.good)
        self._trainer.loop = replace(self._trainer.loop, **kept)
        self._trainer.set_lr()
