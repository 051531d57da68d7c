"""From traces of a run's phases to what they need on a device: adds what a trace on fake tensors cannot see.

No GPU was at hand to calibrate what is added on CUDA: the context is a guess, and so is cuDNN's workspace, room to lay
out the input, weights and output of the largest convolution once more. What CUDA's kernels are known to keep is in the
trace already, since the CPU's operators return the same: the int64 indices of max-pooling, the mean and deviation
that batch normalisation saves, autocast's float16 copies of weights. The reserve of cuDNN's batch normalisation is not
counted (it holds the mask of a fused activation, and none is fused here).
"""

from __future__ import annotations

from itertools import accumulate

import torch

from backend.config import Choice, RunConfig, Settings
from backend.memory.allocator import reserved_bytes
from backend.memory.lifetimes import Moment
from backend.memory.step_memory import PhaseMemory, StepMemory
from backend.memory.steps import first_phase, refine_phase
from backend.memory.trace import PhaseTrace, trace_phase
from backend.resolve import precision_in_force
from backend.training.build import images_of_crops

CUDA_CONTEXT_BYTES = 512 * 2**20  # a guess: the driver's context, the kernels of torch, cuDNN and cuBLAS
# what blocks leave unused jumps by some per cent from one batch to the next, most among the small ones; where a larger
# batch would so take less than the one before, it is said to need as much
SIMULATED_BATCHES = (*range(1, 11), 12, 14, 16, 20, 24, 32, 48, 64)


def trace_step_memory(settings: Settings, num_landmarks: int, kind: str) -> StepMemory:
    """Trace the phases of a run on a `kind` of device, "cpu" or "cuda", which need not be there."""
    chosen = {"device": Choice("cpu", "traced"), "mixed_precision": precision_in_force(settings, kind)}
    config = RunConfig(settings, chosen)
    first = trace_phase(first_phase(config, num_landmarks), num_landmarks, kind)
    phases = [_memory_of(first, kind, None)]
    if settings.refine:
        second = trace_phase(refine_phase(config, num_landmarks), num_landmarks, kind)
        phases.append(_memory_of(second, kind, images_of_crops(settings, num_landmarks)))
    return StepMemory(phases, first.num_parameters)


def _memory_of(trace: PhaseTrace, kind: str, batch_size: int | None) -> PhaseMemory:
    training, validation = trace.lifetimes.training_moments(), trace.lifetimes.validation_moments()
    beside = {
        "cpu": {"last_good_state": _last_good_state(trace)},
        "cuda": {"cudnn_workspace": trace.largest_convolution, "cuda_context": Moment(CUDA_CONTEXT_BYTES, 0)},
    }[kind]
    memory = PhaseMemory(training, validation, trace.held, beside, {}, batch_size)
    if kind == "cpu":
        return memory
    sizes = SIMULATED_BATCHES if batch_size is None else (batch_size,)
    reserved = accumulate((reserved_bytes(trace.lifetimes, size) for size in sizes), max)
    fragmentation = {size: taken - memory.alive_at(size) for size, taken in zip(sizes, reserved, strict=True)}
    return PhaseMemory(training, validation, trace.held, beside, fragmentation, batch_size)


def _last_good_state(trace: PhaseTrace) -> Moment:
    """The state that training goes back to is a copy in the main memory, which a CPU's training shares."""
    return Moment(sum(trace.held.values()) + torch.get_rng_state().nbytes, 0)
