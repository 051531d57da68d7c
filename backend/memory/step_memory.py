"""How much memory the steps of a run need, by batch size and by named term."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backend.config import settings_affecting
from backend.memory.lifetimes import Moment

Plain = Mapping[str, Any]

TRACED_FIELDS = settings_affecting("memory")  # a trace is given no other settings


ALLOCATOR_MARGIN = 0.2  # on CUDA, of the bytes alive; see traced_memory.py


@dataclass(frozen=True)
class PhaseMemory:
    """What the steps of one phase need.

    `training` and `validation` are the moments of its steps that are the highest at some batch size; the
    bytes named in `held` are in each of them. `beside` is needed on top of any, and so is the share
    `allocator_margin` of the highest moment. `batch_size` is the phase's own where the run's does not decide
    it.
    """

    training: Sequence[Moment]
    validation: Sequence[Moment]
    held: Mapping[str, int]
    beside: Mapping[str, Moment]
    allocator_margin: float = 0.0
    batch_size: int | None = None

    def alive_at(self, batch_size: int) -> int:
        """The highest peak of its steps, bytes alive."""
        batch_size = self.batch_size or batch_size
        return max(moment.bytes_at(batch_size) for moment in (*self.training, *self.validation))

    def terms_at(self, batch_size: int) -> dict[str, int]:
        """All that must fit, by name."""
        batch_size = self.batch_size or batch_size
        alive = self.alive_at(batch_size)
        terms = {**self.held, "activations_and_gradients": alive - sum(self.held.values())}
        terms |= {name: moment.bytes_at(batch_size) for name, moment in self.beside.items()}
        if self.allocator_margin:
            terms["allocator_margin"] = math.ceil(self.allocator_margin * alive)
        return terms


@dataclass(frozen=True)
class StepMemory:
    """What a run's phases need, and the trainable weights of its first network."""

    phases: Sequence[PhaseMemory]
    num_parameters: int

    def bytes_at(self, batch_size: int) -> int:
        """What must fit on the device at this batch: the peak of all phases, with all named terms."""
        return max(sum(phase.terms_at(batch_size).values()) for phase in self.phases)

    def terms_at(self, batch_size: int) -> dict[str, int]:
        """What `bytes_at` is made of: the terms of the phase that needs most; their sum is exactly that
        number."""
        terms = (phase.terms_at(batch_size) for phase in self.phases)
        return max(terms, key=lambda named: sum(named.values()))


def memory_to_dict(memory: StepMemory) -> dict[str, Any]:
    """As JSON has it."""
    return {
        "num_parameters": memory.num_parameters,
        "phases": [
            {
                "training": [_pair(moment) for moment in phase.training],
                "validation": [_pair(moment) for moment in phase.validation],
                "held": dict(phase.held),
                "beside": {name: _pair(moment) for name, moment in phase.beside.items()},
                "allocator_margin": phase.allocator_margin,
                "batch_size": phase.batch_size,
            }
            for phase in memory.phases
        ],
    }


def memory_from_dict(raw: Plain) -> StepMemory:
    """Inverse of `memory_to_dict`. Raises AttributeError, KeyError, TypeError or ValueError for anything
    else."""
    phases = [
        PhaseMemory(
            training=[Moment(*pair) for pair in phase["training"]],
            validation=[Moment(*pair) for pair in phase["validation"]],
            held=phase["held"],
            beside={name: Moment(*pair) for name, pair in phase["beside"].items()},
            allocator_margin=phase["allocator_margin"],
            batch_size=phase["batch_size"],
        )
        for phase in raw["phases"]
    ]
    memory = StepMemory(phases, raw["num_parameters"])
    memory.bytes_at(1)  # counts with every number once
    return memory


def _pair(moment: Moment) -> list[int]:
    return [moment.constant_bytes, moment.bytes_per_image]
