"""From traces of a run's phases to the memory that they need on a device, with what a trace cannot see added.

On CUDA what is added are estimates, as no GPU was available to calibrate them:

- the context: 0.5 GiB;
- cuDNN's workspace: room for the input, weights and output of the largest convolution once more;
- a margin for PyTorch's caching allocator, which reserves more than is alive: free blocks are too small or
  cut up. Its rules, replayed on the traces of all four networks at 128 to 512 pixels and batches of 2 to 32,
  gave 2% to 19% of the bytes alive, without a pattern that the settings explain. A fifth covers all of them.

What CUDA's kernels are known to keep is in the trace, since the CPU's operators return the same: the int64
indices of max-pooling, the mean and deviation that batch normalization saves, autocast's float16 copies of
weights. The reserve of cuDNN's batch normalization is not counted (it holds the mask of a fused activation,
and none is fused here).
"""

from __future__ import annotations

import torch

from backend.config import Choice, RunConfig, Settings
from backend.memory.lifetimes import Moment
from backend.memory.step_memory import ALLOCATOR_MARGIN, PhaseMemory, StepMemory
from backend.memory.steps import first_phase, refine_phase
from backend.memory.trace import PhaseTrace, trace_phase
from backend.resolve import precision_in_force
from backend.training.build import images_of_crops

CUDA_CONTEXT_BYTES = 512 * 2**20  # the driver's context, the kernels of torch, cuDNN and cuBLAS


def trace_step_memory(settings: Settings, num_landmarks: int, kind: str) -> StepMemory:
    """Trace the phases of a run on a `kind` of device, "cpu" or "cuda", which this machine may lack."""
    chosen = {"device": Choice("cpu", "traced"), "mixed_precision": precision_in_force(settings, kind)}
    config = RunConfig(settings, chosen)
    first = trace_phase(first_phase(config, num_landmarks), num_landmarks, kind)
    phases = [_memory_of(first, kind, None)]
    if settings.refine:
        second = trace_phase(refine_phase(config, num_landmarks), num_landmarks, kind)
        phases.append(_memory_of(second, kind, images_of_crops(settings, num_landmarks)))
    return StepMemory(phases, first.num_parameters)


def _memory_of(trace: PhaseTrace, kind: str, batch_size: int | None) -> PhaseMemory:
    beside = {
        "cpu": {"last_good_state": _snapshot_of(trace)},
        "cuda": {"cudnn_workspace": trace.largest_convolution, "cuda_context": Moment(CUDA_CONTEXT_BYTES, 0)},
    }[kind]
    return PhaseMemory(
        training=trace.lifetimes.training_moments(),
        validation=trace.lifetimes.validation_moments(),
        held=trace.held,
        beside=beside,
        allocator_margin={"cpu": 0.0, "cuda": ALLOCATOR_MARGIN}[kind],
        batch_size=batch_size,
    )


def _snapshot_of(trace: PhaseTrace) -> Moment:
    """Recovery keeps a copy of the last good state in main memory, which a training on a CPU shares."""
    return Moment(sum(trace.held.values()) + torch.get_rng_state().nbytes, 0)
