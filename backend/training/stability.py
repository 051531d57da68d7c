"""Decide when a training counts as unstable, and copy its state to go back to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

MAX_RECOVERIES = 3
LR_CUT = 1 / 3
MIN_LR = 1e-6  # below it AdamW hardly moves a weight: another cut would repeat the same

WINDOW_STEPS = 64
MIN_STEPS = 32
SPIKE_STEPS = 8
SPIKE_FACTOR = 10.0

State = TypeVar("State")


class UnstableError(RuntimeError):
    """This step went wrong: `Trainer.fit` goes back to the last good state, or gives up."""


class DivergedError(RuntimeError):
    """Training is unstable, and going back did not help or is not allowed; the last good state was saved."""


@dataclass
class LossWatch:
    """Watches the losses of steps for instability; a part of the loop's state.

    Training is unstable after SPIKE_STEPS in a row that are spikes (see `is_spike`), and after WINDOW_STEPS
    in a row that are SPIKE_FACTOR times as high as the untrained network's: then it went wrong before there
    were losses to compare with.
    """

    first: list[float] = field(default_factory=list)
    recent: list[float] = field(default_factory=list)
    spike: list[float] = field(default_factory=list)  # the last steps, while they are spikes
    num_high: int = 0  # steps in a row above the untrained network's

    @property
    def is_calm(self) -> bool:
        """Whether no recent loss is a spike or higher than the untrained network's."""
        return not self.spike and not self.num_high

    def note(self, loss: float, step: int) -> None:
        """Remember a step's loss. Raises UnstableError."""
        if loss == 0:  # no landmark was visible
            return
        if len(self.first) < SPIKE_STEPS:
            self.first = [*self.first, loss]
        self.num_high = self.num_high + 1 if loss > SPIKE_FACTOR * median(self.first) else 0
        if is_spike(loss, self.recent):
            self.spike = [*self.spike, loss]
        else:
            self.recent, self.spike = [*self.recent, *self.spike, loss][-WINDOW_STEPS:], []
        if len(self.spike) == SPIKE_STEPS:
            raise UnstableError(
                f"the loss was above {SPIKE_FACTOR:g} times its median for {SPIKE_STEPS} steps, "
                f"{loss:.3g} at step {step}"
            )
        if self.num_high == WINDOW_STEPS:
            raise UnstableError(
                f"the loss was above {SPIKE_FACTOR:g} times its first values for {WINDOW_STEPS} steps, "
                f"{loss:.3g} at step {step}"
            )


def is_spike(loss: float, recent: Sequence[float]) -> bool:
    """Whether a step's loss is far above those before it (at most WINDOW_STEPS of them).

    Training is unstable after SPIKE_STEPS of these in a row, which is never ordinary noise: each of them is
    above every loss of the window. Batches come in random order, so without a trend any order of the last n +
    8 losses is equally likely, however heavy their tails, and the 8 largest come last once in C(n + 8, 8)
    times: 1e-8 per step at n = 32 and 8e-11 at 64. A falling loss makes it rarer still, and a slowly rising
    one does not reach ten times its median. Batches with few visible landmarks make a spike or two in a row,
    never eight; a batch with none (loss 0) is not counted. The first MIN_STEPS steps have nothing to be
    compared with.
    """
    return len(recent) >= MIN_STEPS and loss > max(recent) and loss > SPIKE_FACTOR * median(recent)


def lower_lr(lr: float, num_recoveries: int) -> float | None:
    """Return the rate of the next retry, a third but at least MIN_LR; None if no retry would help."""
    lowered = max(lr * LR_CUT, MIN_LR)
    return lowered if num_recoveries < MAX_RECOVERIES and lowered < lr else None


def is_finite(state: Any) -> bool:
    """Whether every number in nested tensors is finite; a NaN passes through the norm."""
    tensors = [leaf for leaf in tree_leaves(state) if isinstance(leaf, Tensor)]
    return all(
        math.isfinite(torch.linalg.vector_norm(tensor, math.inf).item())
        for tensor in tensors
        if tensor.is_floating_point() and tensor.numel()
    )


def copy_to_main_memory(state: State) -> State:
    """Return the same nested state with copies of its tensors on the CPU."""
    copied: State = tree_map_only(Tensor, lambda tensor: tensor.detach().to("cpu", copy=True), state)
    return copied
