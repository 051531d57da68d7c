"""The memory that a run needs on a device: traces of its phases, and estimates of what a trace cannot see.

On CUDA the estimates are not calibrated, as no GPU was available:

- the context: 0.5 GiB;
- cuDNN's workspace: room for the input, weights and output of the largest convolution once more;
- a margin for PyTorch's caching allocator, which reserves more than is alive, since free blocks are too small
  or cut up: a fifth of the bytes alive, until real steps were measured (`backend.memory.benchmark`).

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
from backend.training.build import images_per_crop_batch

CUDA_CONTEXT_BYTES = 512 * 2**20  # the driver's context, the kernels of torch, cuDNN and cuBLAS


def trace_step_memory(settings: Settings, num_landmarks: int, kind: str) -> StepMemory:
    """Trace the phases of a run on a `kind` of device, "cpu" or "cuda", which this machine may lack."""
    chosen = {"device": Choice("cpu", "traced"), "mixed_precision": precision_in_force(settings, kind)}
    config = RunConfig(settings, chosen)
    first = trace_phase(first_phase(config, num_landmarks), num_landmarks, kind)
    phases = [_phase_memory(first, kind, None)]
    if settings.refine:
        second = trace_phase(refine_phase(config, num_landmarks), num_landmarks, kind)
        phases.append(_phase_memory(second, kind, images_per_crop_batch(settings, num_landmarks)))
    return StepMemory(phases, first.num_parameters)


def _phase_memory(trace: PhaseTrace, kind: str, batch_size: int | None) -> PhaseMemory:
    """Add to the trace of a phase what a trace cannot see; `batch_size` is the phase's own, if it has one."""
    beside = {
        "cpu": {"last_good_state": _snapshot_memory(trace)},
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


def _snapshot_memory(trace: PhaseTrace) -> Moment:
    """Return the size of recovery's copy of the last good state, which is in the memory of the CPU."""
    return Moment(sum(trace.held.values()) + torch.get_rng_state().nbytes, 0)
