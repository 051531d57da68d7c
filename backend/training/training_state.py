"""All that training changes: weights and their average, optimizer, schedule, scaler, place in the loop."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from backend.training.loop_state import LoopState, TrainerOptions
from backend.training.optim import (
    MovingAverage,
    build_optimizer,
    build_scheduler,
    ema_decay_at,
    set_peak_lr,
    step_once,
)


class TrainingState:
    """The state of one network's training on a device."""

    def __init__(
        self, network: nn.Module, device: torch.device, options: TrainerOptions, steps_per_epoch: int
    ) -> None:
        network = network.to(device)
        self.network: nn.Module = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.ema_network = copy.deepcopy(self.network).eval().requires_grad_(False)
        self.average = MovingAverage(self.ema_network, self.network)
        self.loop = LoopState()
        self.optimizer = build_optimizer(self.network, options.lr, options.weight_decay)
        self.scheduler = build_scheduler(
            self.optimizer,
            warmup_steps=round(options.warmup_epochs * steps_per_epoch),
            total_steps=options.epochs * steps_per_epoch,
        )
        self._device = device
        self._options = options
        self.scaler = self._build_scaler()
        self.has_stepped = False  # in this process

    def _build_scaler(self) -> torch.amp.GradScaler:
        """Build a gradient scaler; only in float16, whose range is narrow, would small gradients vanish."""
        return torch.amp.GradScaler(self._device.type, enabled=self._options.autocast is torch.float16)

    def update(self, losses: Sequence[Tensor]) -> float:
        """Take a step from the gradients of the parts' losses; return the sum of the losses.

        Raises UnstableError.
        """
        total, has_moved = step_once(
            losses,
            self.network,
            self.optimizer,
            self.scaler,
            clip_norm=self._options.clip_norm,
            step=self.loop.global_step + 1,
        )
        if has_moved:
            self.scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update(ema_decay_at(self.loop.global_step, self._options.ema_decay))
        self.has_stepped = True
        return total

    @property
    def lr(self) -> float:
        """The rate of the next step."""
        return float(self.scheduler.get_last_lr()[0])

    @property
    def is_calm(self) -> bool:
        """Whether neither the losses nor the gradients suggest that training is about to become unstable."""
        return self.loop.losses.is_calm and self.scaler.get_scale() >= 1

    def apply_lr_scale(self) -> None:
        """Scale the schedule to the share of the requested learning rate that recoveries have left."""
        set_peak_lr(self.scheduler, self._options.lr * self.loop.lr_scale)

    def state_dict(self) -> dict[str, Any]:
        """Return all of it as tensors and plain values; the tensors are those in use, not copies."""
        cuda_states = torch.cuda.get_rng_state_all() if self._device.type == "cuda" else []
        return {
            "model_state_dict": self.ema_network.state_dict(),
            "raw_model_state_dict": self.network.state_dict(),
            "optimizer_state_dict": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
            "rng": {"torch": torch.get_rng_state(), "cuda": cuda_states},
            "loop": asdict(self.loop),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what `state_dict` returned."""
        self.ema_network.load_state_dict(state["model_state_dict"])
        self.network.load_state_dict(state["raw_model_state_dict"])
        self.optimizer.load_state_dict(state["optimizer_state_dict"])
        self.scheduler.load_state_dict(state["scheduler"])
        if state["scaler"]:  # empty if the run trained without one so far, on another kind of device
            self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["rng"]["torch"])
        if self._device.type == "cuda" and len(state["rng"]["cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["rng"]["cuda"])
        self.loop = LoopState.from_dict(state["loop"])

    def restore(self, state: dict[str, Any]) -> None:
        """Load a state in place of one that went wrong, perhaps in the middle of a step."""
        self.optimizer.zero_grad(set_to_none=True)
        self.optimizer.state.clear()  # frees its memory before the old state is loaded
        self.scaler = self._build_scaler()
        # a copy: on a CPU, AdamW would go on to train the very tensors that it loads
        self.load_state_dict(copy.deepcopy(state))
