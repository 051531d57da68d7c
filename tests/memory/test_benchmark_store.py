from __future__ import annotations

import json
import subprocess
from types import SimpleNamespace

import pytest

from backend.config import parse_settings
from backend.device import machine
from backend.device.gpu import GpuReading
from backend.errors import UserError
from backend.memory import benchmark_store
from backend.memory.benchmark_store import (
    KILLED,
    NOTHING_MEASURED,
    Bench,
    Measured,
    MeasuredBatch,
    identify,
)

SETTINGS = parse_settings({"model": "unet", "image_size": (64, 64), "refine": False})
BENCH = Bench(SETTINGS, 5, "cpu", "this machine")


def batch(size: int, peak_bytes: int | None, step_s: float = 1.0) -> MeasuredBatch:
    return MeasuredBatch(size, peak_bytes, training_s=None if peak_bytes is None else step_s / size)


def predict(size: int) -> int:
    return 100 + 10 * size


def test_without_measurements_a_prediction_stays_as_it_was():
    assert NOTHING_MEASURED.correct(predict) is predict
    assert Measured((batch(8, None),)).correct(predict) is predict
    assert NOTHING_MEASURED.plateau is None and NOTHING_MEASURED.at(4) is None


@pytest.mark.parametrize(
    ("peaks", "at_16"),
    [
        ([(8, 200)], 200 + 80),  # 20 more than predicted, at any batch
        ([(4, 130), (8, 210)], 210 + 160),  # grew by 80 instead of the predicted 40: goes on so
        ([(4, 190), (8, 200)], 200 + 80),  # grew less: as predicted
    ],
)
def test_a_prediction_goes_through_the_largest_batch_that_was_measured(peaks, at_16):
    corrected = Measured(tuple(batch(*pair) for pair in peaks)).correct(predict)
    assert corrected(8) == peaks[-1][1]
    assert corrected(16) == at_16


@pytest.mark.parametrize(
    ("batches", "plateau"),
    [
        ([batch(4, 1, 0.9), batch(16, 1, 3.3)], 10),  # 0.1 + 0.2 n seconds: 95 % at 9.5 images
        ([batch(4, 1, 0.4), batch(16, 1, 1.6)], 4),  # images/s never grew
        ([batch(4, 1, 1.0), batch(16, 1, 1.0)], None),  # a step costs the same: no end in sight
        ([batch(4, 1, 1.0), batch(16, None)], 15),
        ([batch(4, 1, 0.9), batch(8, 1, 1.7), batch(9, None)], 8),
        ([batch(4, 1)], None),
    ],
)
def test_the_plateau_is_where_images_a_second_hardly_grow(batches, plateau):
    assert Measured(tuple(batches)).plateau == plateau


def test_a_batch_measured_again_takes_the_place_of_the_first():
    twice = Measured((batch(4, 1), batch(8, 2))).with_batch(batch(4, 9)).with_batch(batch(2, 3))
    assert [(b.batch_size, b.peak_bytes) for b in twice.batches] == [(2, 3), (4, 9), (8, 2)]
    assert twice.at(5) == batch(4, 9)


def test_what_was_measured_is_kept_for_the_same_step_on_the_same_device():
    saved = Measured((batch(4, 7),))
    BENCH.save(saved.with_batch(batch(8, None)))  # that one failed says as much of what else was held then
    assert BENCH.read() == saved
    same = SETTINGS.model_copy(update={"batch_size": 32, "lr": 1.0, "epochs": 1})
    assert Bench(same, 5, "cpu", "this machine").read() == saved
    hrnet = SETTINGS.model_copy(update={"model": "hrnet"})
    for bench in (Bench(hrnet, 5, "cpu", "this machine"), Bench(SETTINGS, 6, "cpu", "this machine")):
        assert bench.read() == NOTHING_MEASURED
    assert Bench(SETTINGS, 5, "cpu", "another").read() == NOTHING_MEASURED


def test_a_damaged_file_counts_as_none():
    BENCH.save(NOTHING_MEASURED)
    BENCH._path.write_text("[{}]")
    assert BENCH.read() == NOTHING_MEASURED


def test_a_device_is_told_from_others_by_its_uuid():
    readings = [GpuReading(n, uuid, "card", *[None] * 6) for n, uuid in ((0, "GPU-a"), (1, None))]
    assert [identify(f"cuda:{n}", readings) for n in range(3)] == ["GPU-a", "card", "cuda:2"]


def test_unlike_cpus_with_as_many_cores_are_told_apart(monkeypatch):
    monkeypatch.setattr(machine, "num_cpus", lambda: 2)
    monkeypatch.setattr(machine, "_cpu_model", lambda: "EPYC")
    seen = set()
    for instructions in ({"avx2"}, {"avx2", "avx512", "bfloat16"}):
        monkeypatch.setattr(machine, "cpu_instructions", lambda allowed=instructions: allowed)
        seen |= {identify("cpu", []), identify("cpu", [])}
    monkeypatch.setattr(machine, "_cpu_model", lambda: "Xeon")
    assert len(seen | {identify("cpu", [])}) == 3


def answers(monkeypatch, returncode: int, stdout: str = "", stderr: str = "") -> list[dict]:
    requests: list[dict] = []

    def run(command, *, input, **more):
        requests.append(json.loads(input))
        return SimpleNamespace(returncode=returncode, stdout=stdout, stderr=stderr)

    monkeypatch.setattr(benchmark_store.subprocess, "run", run)
    return requests


def test_a_process_that_the_kernel_killed_ran_out_of_memory(monkeypatch):
    (requests, measured) = answers(monkeypatch, KILLED), BENCH.measure(4)
    assert measured == batch(4, None)
    assert (requests[0]["batch_size"], requests[0]["device"]) == (4, "cpu")


def test_a_process_that_failed_is_told_with_its_last_words(monkeypatch):
    answers(monkeypatch, 1, stderr="Traceback\nRuntimeError: no kernel image\n")
    with pytest.raises(UserError, match="4 images could not be measured") as caught:
        BENCH.measure(4)
    assert "no kernel image" in str(caught.value)


@pytest.mark.slow
def test_real_steps_in_a_process_of_their_own():
    refined = SETTINGS.model_copy(
        update={"refine": True, "refine_crops": 10, "crop_size": 32, "num_refiners": 1}
    )
    measured = Bench(refined, 5, "cpu", "this machine").measure(2)
    # weights, averaged weights, gradients and the optimizer's two states of 17 M parameters, at the least
    assert measured.peak_bytes is not None and measured.peak_bytes > 4.9 * 17e6 * 4
    assert measured.context_bytes is None
    times = (
        measured.training_s,
        measured.validation_s,
        measured.refine_training_s,
        measured.refine_validation_s,
    )
    assert all(seconds is not None and seconds > 0 for seconds in times)
    assert measured.images_per_s == pytest.approx(1 / measured.training_s)


def test_importing_brings_no_torch():
    code = "import sys, backend.memory.benchmark_store; sys.exit('torch' in sys.modules)"
    assert subprocess.run([benchmark_store.sys.executable, "-c", code], check=False).returncode == 0
