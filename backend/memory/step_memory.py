"""Records of the memory that the steps of a run need, by batch size and by named term."""

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
    """The memory that the steps of one phase need.

    `training` and `validation` are the moments of its steps that are the highest at some batch size; the
    bytes named in `held` are in each of them. `beside` is needed on top of any, and so is the share
    `allocator_margin` of the highest moment. `batch_size` is the phase's own, or None if it is the run's.
    """

    training: Sequence[Moment]
    validation: Sequence[Moment]
    held: Mapping[str, int]
    beside: Mapping[str, Moment]
    allocator_margin: float = 0.0
    batch_size: int | None = None

    def alive_at(self, batch_size: int) -> int:
        """Return the bytes alive at the highest moment of its steps."""
        batch_size = self.batch_size or batch_size
        return max(moment.bytes_at(batch_size) for moment in (*self.training, *self.validation))

    def terms_at(self, batch_size: int) -> dict[str, int]:
        """Return all bytes that must fit, by name."""
        batch_size = self.batch_size or batch_size
        alive = self.alive_at(batch_size)
        terms = {**self.held, "activations_and_gradients": alive - sum(self.held.values())}
        terms |= {name: moment.bytes_at(batch_size) for name, moment in self.beside.items()}
        if self.allocator_margin:
            terms["allocator_margin"] = math.ceil(self.allocator_margin * alive)
        return terms


@dataclass(frozen=True)
class StepMemory:
    """The memory that the phases of a run need, and the number of weights that its first network trains."""

    phases: Sequence[PhaseMemory]
    num_parameters: int

    def bytes_at(self, batch_size: int) -> int:
        """Return the bytes that must fit on the device at this batch: the need of the largest phase."""
        return max(sum(phase.terms_at(batch_size).values()) for phase in self.phases)

    def terms_at(self, batch_size: int) -> dict[str, int]:
        """Return the terms of the phase that needs most, whose sum is `bytes_at`."""
        terms = (phase.terms_at(batch_size) for phase in self.phases)
        return max(terms, key=lambda named: sum(named.values()))


def memory_to_dict(memory: StepMemory) -> dict[str, Any]:
    """Return plain values that JSON can hold."""
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
    """Build a StepMemory from what `memory_to_dict` returned.

    Raises AttributeError, KeyError, TypeError or ValueError for anything else.
    """
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
    memory.bytes_at(1)  # raises for a value that is not a number
    return memory


def _pair(moment: Moment) -> list[int]:
    return [moment.constant_bytes, moment.bytes_per_image]
