"""The progress bar of an epoch in the terminal."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

from backend.training.phase import Phase


class ProgressBar:
    """Draws one bar per epoch, on stderr; closed before anything else is printed."""

    def __init__(self, phase: Phase) -> None:
        self._phase = phase
        self._bar: tqdm[Any] | None = None

    def draw(self, epoch: int, step: int, num_steps: int, loss: float, images_per_s: float) -> None:
        """Show that `step` of `num_steps` of an epoch, counted from 1, is done."""
        if self._bar is None:
            self._bar = tqdm(
                total=num_steps,
                desc=f"{self._phase.name} {epoch}/{self._phase.schedule.epochs}",
                unit="step",
                file=sys.stderr,
                mininterval=1.0,
                leave=False,
                dynamic_ncols=True,
            )
        self._bar.set_postfix_str(f"loss {loss:.4f}, {images_per_s:.1f} images/s", refresh=False)
        self._bar.update(step - self._bar.n)

    def close(self) -> None:
        """Erase the bar of the current epoch."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
