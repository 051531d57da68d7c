from __future__ import annotations

import pytest
import torch

from backend.config import Choice, RunConfig, parse_settings
from backend.memory import benchmark
from backend.memory.benchmark_store import MeasuredBatch
from backend.training.task import LandmarkTask

SETTINGS = parse_settings({"model": "unet", "image_size": (64, 64), "refine": False})
REQUEST = {
    "settings": SETTINGS.model_dump(mode="json"),
    "num_landmarks": 3,
    "device": "cpu",
    "batch_size": 2,
}


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_running_out_of_memory_is_an_answer(monkeypatch, error):
    def fail(*given):
        raise error

    monkeypatch.setattr(benchmark, "measure_batch", fail)
    measured = benchmark._answer(REQUEST)
    assert (measured.batch_size, measured.peak_bytes, measured.training_s) == (2, None, None)


def test_any_other_error_is_none(monkeypatch):
    def fail(*given):
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr(benchmark, "measure_batch", fail)
    with pytest.raises(RuntimeError, match="kernel image"):
        benchmark._answer(REQUEST)


def test_on_a_gpu_the_peak_is_what_torch_reserved_and_the_context_that_the_driver_counts(monkeypatch):
    chosen = {"device": Choice("cuda:0", "test"), "mixed_precision": Choice(False, "test")}
    monkeypatch.setattr(benchmark, "_run_steps", lambda phase, device, batch_size: (0.5, 0.1))
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 700)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 600)
    for held, peak, context in ((1000, 1100, 400), (None, 700, None)):
        monkeypatch.setattr(benchmark, "own_bytes", lambda number, held=held: held)
        measured = benchmark.measure_batch(RunConfig(SETTINGS, chosen), 3, 4)
        assert (measured.peak_bytes, measured.context_bytes, measured.training_s) == (peak, context, 0.5)
        assert measured.refine_training_s is None


def test_the_first_step_is_not_timed(monkeypatch):
    clock = iter([0.0, 0.0, 9.0, 9.0, 10.0])
    monkeypatch.setattr(benchmark.time, "monotonic", lambda: next(clock, 10.0))
    monkeypatch.setattr(benchmark, "MAX_STEPS", 2)
    assert benchmark._seconds(lambda: None, torch.device("cpu")) == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("fails", ["compute_loss", "display_maps"], ids=["training", "validation"])
def test_a_step_of_either_kind_that_does_not_fit_is_an_answer(monkeypatch, fails):
    """A validation is not repeated in smaller parts: its memory is what is measured."""

    def fail(*_given):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(LandmarkTask, fails, fail)
    assert benchmark._answer(REQUEST) == MeasuredBatch(2, peak_bytes=None)
