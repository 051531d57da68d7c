"""The optimizer, its schedule, and the averaged weights."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

FINAL_LR_FACTOR = 0.01
EMA_WARMUP_STEPS = 20


def build_optimizer(network: nn.Module, lr: float, weight_decay: float) -> AdamW:
    """AdamW; biases and normalisation scales are not decayed."""
    decayed = [p for p in network.parameters() if p.requires_grad and p.ndim > 1]
    free = [p for p in network.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]
    return AdamW(groups, lr=lr)


def lr_factor(step: int, warmup_steps: int, total_steps: int) -> float:
    """Share of the peak learning rate at a step: a linear rise, then one cosine down to a hundredth.

    A warm-up longer than the run is allowed: the rate then only rises.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return FINAL_LR_FACTOR + (1 - FINAL_LR_FACTOR) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def build_scheduler(optimizer: AdamW, warmup_steps: int, total_steps: int) -> LambdaLR:
    """`lr_factor` as a scheduler that is stepped once per optimizer step."""
    return LambdaLR(optimizer, lambda step: lr_factor(step, warmup_steps, total_steps))


def set_peak_lr(scheduler: LambdaLR, peak_lr: float) -> None:
    """Give the schedule another peak, from the step at which it stands on."""
    lr = peak_lr * scheduler.lr_lambdas[0](scheduler.last_epoch)
    scheduler.base_lrs = [peak_lr for _ in scheduler.base_lrs]
    scheduler._last_lr = [lr for _ in scheduler.base_lrs]
    for group in scheduler.optimizer.param_groups:
        group["lr"] = lr


def ema_decay_at(step: int, decay: float) -> float:
    """Decay that grows to its final value, so that the average forgets the first, random weights."""
    return min(decay, step / (step + EMA_WARMUP_STEPS))


@torch.no_grad()
def update_ema(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move the average towards the network: average = decay * average + (1 - decay) * network.

    Running statistics of normalisation layers are averaged like weights; counters are copied.
    """
    averaged, current = average.state_dict(keep_vars=True), network.state_dict(keep_vars=True)
    moving = [name for name, tensor in averaged.items() if tensor.is_floating_point()]
    torch._foreach_lerp_([averaged[n] for n in moving], [current[n] for n in moving], 1 - decay)
    for name, tensor in averaged.items():
        if not tensor.is_floating_point():
            tensor.copy_(current[name])
