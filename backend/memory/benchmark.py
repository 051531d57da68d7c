"""Measure memory and time of real steps of a run's phases on a device: `python -m backend.memory.benchmark`.

Each batch is measured in a process of its own, so that nothing of an earlier one is counted and running out
of memory ends that process alone. It reads a request (JSON, as `benchmark_store.Bench.measure` writes it) on
stdin and writes the answer to stdout.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import asdict
from statistics import median
from typing import Any

import psutil
import torch

from backend.config import Choice, RunConfig, parse_settings
from backend.device.gpu import own_bytes
from backend.memory.benchmark_store import MeasuredBatch
from backend.memory.steps import LonePhase, first_phase, refine_phase, run_validation_step
from backend.resolve import precision_in_force
from backend.training.build import images_per_crop_batch
from backend.training.memory_cap import cap_memory
from backend.training.out_of_memory import MemoryShortageError, is_out_of_memory

MIN_STEPS = 2  # the first allocates the optimizer's states and chooses convolutions; it is not timed
MAX_STEPS = 6
LIMIT_S = 8.0  # per kind of step; after it, no more than MIN_STEPS


def measure_batch(config: RunConfig, num_landmarks: int, batch_size: int) -> MeasuredBatch:
    """Run training and validation steps of every phase on random inputs, one phase after the other."""
    device = torch.device(config.value("device"))
    before_bytes = _resident_bytes() if device.type == "cpu" else 0
    phases = [(first_phase(config, num_landmarks), batch_size)]
    if config.settings.refine:
        phases.append(
            (refine_phase(config, num_landmarks), images_per_crop_batch(config.settings, num_landmarks))
        )
    seconds: list[float | None] = []
    for phase, phase_batch in phases:
        seconds += _run_steps(phase, device, phase_batch)
        gc.collect()  # frees a phase's networks before the next one's are built
    seconds += [None] * (4 - len(seconds))
    if device.type == "cpu":
        return MeasuredBatch(batch_size, _peak_resident_bytes() - before_bytes, None, *seconds)
    context_bytes = _context_bytes(device)
    peak_bytes = torch.cuda.max_memory_reserved(device) + (context_bytes or 0)
    return MeasuredBatch(batch_size, peak_bytes, context_bytes, *seconds)


def _run_steps(phase: LonePhase, device: torch.device, batch_size: int) -> tuple[float, float]:
    """Return the seconds per image of a training step and of a validation step."""
    trainer = phase.build_trainer(phase.build_network())
    group = [phase.make_training_batch(batch_size)] * trainer.options.accumulation
    trainer.state.network.train()
    training_s = _seconds(lambda: trainer.train_step(group), device)
    num_batches = len(group)
    group.clear()  # as a training frees its last batch before it validates
    batch = phase.make_validation_batch(batch_size)
    validation_s = _seconds(lambda: run_validation_step(trainer, batch), device)
    return training_s / (batch_size * num_batches), validation_s / batch_size


def _seconds(step: Callable[[], object], device: torch.device) -> float:
    """Return the median of several steps, without the first."""
    times: list[float] = []
    deadline = time.monotonic() + LIMIT_S
    while len(times) < MIN_STEPS or (len(times) < MAX_STEPS and time.monotonic() < deadline):
        started = time.monotonic()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.monotonic() - started)
    return median(times[1:])


def _context_bytes(device: torch.device) -> int | None:
    """Return the bytes that the driver counts for this process beyond torch's own; None if it does not."""
    held_bytes = own_bytes(device.index or 0)
    return None if held_bytes is None else held_bytes - torch.cuda.memory_reserved(device)


def _resident_bytes() -> int:
    return int(psutil.Process().memory_info().rss)


def _peak_resident_bytes() -> int:
    """Return the peak of this process in main memory."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS
    return kibibytes if sys.platform == "darwin" else kibibytes * 1024


def _answer(request: dict[str, Any]) -> MeasuredBatch:
    """Measure the batch that a request names; one that does not fit is an answer too."""
    settings, device = parse_settings(request["settings"]), request["device"]
    chosen = {
        "device": Choice(device, "measured"),
        "mixed_precision": precision_in_force(settings, device),
    }
    # as in a training: a batch that would spill into main memory does not fit
    cap_memory(torch.device(device))
    try:
        return measure_batch(RunConfig(settings, chosen), request["num_landmarks"], request["batch_size"])
    except (RuntimeError, MemoryError) as error:
        does_not_fit = isinstance(error, MemoryShortageError) or is_out_of_memory(error, torch.device(device))
        if not does_not_fit:
            raise
        return MeasuredBatch(request["batch_size"], peak_bytes=None)


def main() -> None:
    """Answer the request on stdin."""
    with redirect_stdout(sys.stderr):  # whatever a library prints is not part of the answer
        answer = _answer(json.load(sys.stdin))
    print(json.dumps(asdict(answer)))


if __name__ == "__main__":
    main()
