"""The optimizer, its steps and schedule, and the averaged weights."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from backend.training.stability import UnstableError

FINAL_LR_FACTOR = 0.01
EMA_WARMUP_STEPS = 20
MIN_GRADIENT_SCALE = 2.0**-10  # the scaler starts at 2 ** 16 and halves at each overflow


def build_optimizer(network: nn.Module, lr: float, weight_decay: float) -> AdamW:
    """Build AdamW, which does not decay biases and normalization scales."""
    matrices = [p for p in network.parameters() if p.requires_grad and p.ndim > 1]
    vectors = [p for p in network.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return AdamW(groups, lr=lr)


def lr_factor(step: int, warmup_steps: int, total_steps: int) -> float:
    """Return the share of the peak learning rate at a step: a linear rise, then one cosine to a hundredth.

    A warm-up longer than the run is allowed: then the rate only rises.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return FINAL_LR_FACTOR + (1 - FINAL_LR_FACTOR) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def build_scheduler(optimizer: AdamW, warmup_steps: int, total_steps: int) -> LambdaLR:
    """Build the scheduler of `lr_factor`, which is stepped once per optimizer step."""
    return LambdaLR(optimizer, lambda step: lr_factor(step, warmup_steps, total_steps))


def set_peak_lr(scheduler: LambdaLR, peak_lr: float) -> None:
    """Give the schedule another peak, from its current step on."""
    lr = peak_lr * scheduler.lr_lambdas[0](scheduler.last_epoch)
    scheduler.base_lrs = [peak_lr for _ in scheduler.base_lrs]
    scheduler._last_lr = [lr for _ in scheduler.base_lrs]
    for group in scheduler.optimizer.param_groups:
        group["lr"] = lr


def step_once(
    losses: Sequence[Tensor],
    network: nn.Module,
    optimizer: AdamW,
    scaler: torch.amp.GradScaler,
    *,
    clip_norm: float,
    step: int,
) -> tuple[float, bool]:
    """Update the weights from the gradients of `losses`; return their sum, and whether the weights moved.

    It waits for the device once, to read losses and gradient together. Without a scaler that is after the
    update: if the gradient is not finite, the weights are spoiled, UnstableError is raised, and the state
    must be discarded before it is averaged. With a scaler, such a gradient is ordinary: the update is skipped
    and the scale lowered. The scaler's own `step` would wait once more.
    """
    scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(network.parameters(), clip_norm)
    if not scaler.is_enabled():
        optimizer.step()
    *parts, gradient = torch.stack([*losses, norm]).tolist()
    total, has_overflowed = float(sum(parts)), not math.isfinite(gradient)
    if not math.isfinite(total):
        raise UnstableError(f"the loss became {total} at step {step}")
    if not scaler.is_enabled():
        if has_overflowed:
            raise UnstableError(f"the gradient became {gradient} at step {step}")
        return total, True
    if not has_overflowed:
        optimizer.step()
    scaler.update()
    if has_overflowed and scaler.get_scale() < MIN_GRADIENT_SCALE:
        raise UnstableError(f"gradients overflow at every scale, at step {step}")
    return total, not has_overflowed


def ema_decay_at(step: int, decay: float) -> float:
    """Return a decay that grows to its final value, so that the average forgets the initial weights."""
    return min(decay, step / (step + EMA_WARMUP_STEPS))


class MovingAverage:
    """The exponential moving average of a network's weights, kept in a second network.

    Running statistics of normalization layers are averaged like weights; counters are copied. Both networks
    must keep their tensors: loading a state copies into them.
    """

    def __init__(self, average: nn.Module, network: nn.Module) -> None:
        current = network.state_dict(keep_vars=True)
        pairs = [(tensor, current[name]) for name, tensor in average.state_dict(keep_vars=True).items()]
        self._floats = _unzip([pair for pair in pairs if pair[0].is_floating_point()])
        self._counters = _unzip([pair for pair in pairs if not pair[0].is_floating_point()])

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """Set average = decay * average + (1 - decay) * network, in a few kernels for all tensors."""
        averaged, current = self._floats
        torch._foreach_lerp_(averaged, current, 1 - decay)
        averaged, current = self._counters
        if averaged:
            torch._foreach_copy_(averaged, current)


def _unzip(pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    return [averaged for averaged, _ in pairs], [current for _, current in pairs]
