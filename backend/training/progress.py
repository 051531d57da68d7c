"""The progress of a phase: the rows of status.json and metrics.jsonl, the line per epoch, the time left."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import psutil
import torch

from backend.training.loop_state import LoopState
from backend.training.phase import Phase
from backend.training.protocols import Metrics

EPOCHS_IN_ESTIMATE = 20  # the last ones give the time left


class PhaseProgress:
    """Follows the steps and epochs of a phase in this process."""

    def __init__(self, phase: Phase) -> None:
        self._phase = phase
        self._epoch_seconds: list[float] = []  # of whole epochs
        self._num_steps_seen = 0  # of the current epoch, in this process
        self._epoch_ended: float | None = None

    def steps_done(self, loop: LoopState, num_steps: int) -> int:
        """Return how many steps of the current epoch are done."""
        return min(num_steps, math.ceil(loop.batch_index / self._phase.schedule.accumulation))

    def note_step(self) -> None:
        """Count a step."""
        self._num_steps_seen += 1

    def note_epoch(self, num_steps: int, epoch_s: float) -> None:
        """Time an epoch, with the saving and drawing before it, but not one that was resumed or cut short."""
        ended, last_ended = time.monotonic(), self._epoch_ended
        if self._num_steps_seen >= num_steps:
            self._epoch_seconds.append(ended - last_ended if last_ended is not None else epoch_s)
        self._num_steps_seen, self._epoch_ended = 0, ended

    def status(self, loop: LoopState, step: int, num_steps: int, images_per_s: float) -> dict[str, Any]:
        """Return the content of status.json; `step` steps of the current epoch are done."""
        phase, num_epochs = self._phase, self._phase.schedule.epochs
        share = min(1.0, (loop.epoch + step / num_steps) / num_epochs)
        return {
            "phase": phase.name,
            "share_done": phase.share_before + phase.share * share,
            "refinement_follows": phase.share_before + phase.share < 1,
            "epoch": min(loop.epoch + 1, num_epochs),
            "num_epochs": num_epochs,
            "step": step,
            "steps_per_epoch": num_steps,
            "global_step": loop.global_step,
            "micro_batch": loop.micro_batch.limit,
            "pass_micro_batch": loop.pass_micro_batch.limit,
            "images_per_s": images_per_s,
            "seconds_left": self._seconds_left(loop, step, num_steps, images_per_s),
            "best_epoch": loop.best.epoch or None,
            "best_mre_px": loop.best.error.px,
            "best_mre_mm": loop.best.error.mm,
        }

    def _seconds_left(self, loop: LoopState, step: int, num_steps: int, images_per_s: float) -> float | None:
        """Estimate the time left by the epochs done in this process, else by the steps of the first."""
        epochs_left = self._phase.schedule.epochs - loop.epoch - step / num_steps
        if self._epoch_seconds:
            return epochs_left * float(np.median(self._epoch_seconds[-EPOCHS_IN_ESTIMATE:]))
        if not step or images_per_s <= 0:
            return None if epochs_left else 0.0
        return epochs_left * num_steps * (loop.num_samples / step) / images_per_s


def metrics_row(phase: Phase, loop: LoopState, metrics: Metrics, device: torch.device) -> dict[str, Any]:
    """Return the row of metrics.jsonl for an epoch; beside errors after refinement, the first network's."""
    unrefined = phase.first.errors if phase.first is not None else {}
    return {
        "epoch": loop.epoch,
        "global_step": loop.global_step,
        "time": time.time(),
        "phase": phase.name,
        "micro_batch": loop.micro_batch.limit,
        "pass_micro_batch": loop.pass_micro_batch.limit,
        **metrics,
        **{f"val/unrefined_{name}": value for name, value in unrefined.items()},
        "memory_bytes": _memory_bytes(device),
    }


def describe_epoch(phase: Phase, loop: LoopState, metrics: Metrics, *, is_best: bool) -> str:
    """Return the line that is logged after an epoch."""
    parts = [
        f"{phase.name}, epoch {loop.epoch}/{phase.schedule.epochs}",
        f"loss {metrics['train/loss']:.4f}",
    ]
    if metrics.get("val/loss") is not None:
        parts.append(f"val loss {metrics['val/loss']:.4f}")
    for unit in ("px", "mm"):
        if metrics.get(f"val/mre_{unit}") is not None:
            parts.append(f"MRE {metrics[f'val/mre_{unit}']:.2f} {unit}")
    parts.append(f"{metrics['images_per_s'] or 0:.1f} images/s")
    return ", ".join(parts) + (", best so far" if is_best else "")


def _memory_bytes(device: torch.device) -> int:
    """Return the peak of a GPU's allocator so far, or on a CPU the memory of this process now."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    return int(psutil.Process().memory_info().rss)
