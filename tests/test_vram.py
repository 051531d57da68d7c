from __future__ import annotations

import json

import pytest

from backend import vram
from backend.cache import cache_file
from backend.device.gpu import GpuReading
from backend.device.host import HostMemory
from backend.device.machine import Device, Machine
from backend.device.unusable import UnusableGpu
from backend.flags import run_command
from backend.memory.benchmark_store import NOTHING_MEASURED, MeasuredBatch
from backend.memory.reasons import GIB, reason

pytestmark = pytest.mark.slow

ARGUMENTS = ["--model", "unet", "--image_size", "64", "64", "--num_landmarks", "5", "--no-refine"]


@pytest.fixture(autouse=True)
def own_environment(monkeypatch, tmp_path):
    """The command hides GPUs from its own process, and keeps what was measured: neither reaches another test.

    The main memory is not this machine's, which may be full.
    """
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("backend.memory.batch_size.read_memory", lambda: HostMemory(16 * GIB, 8 * GIB))
    monkeypatch.setattr(
        "backend.memory.benchmark_store.cache_file",
        lambda room, key: cache_file(f"{tmp_path.name}/{room}", key),
    )


def report_of(capsys, *more: str) -> dict:
    assert run_command(vram.main, [*ARGUMENTS, "--json", "-", *more]) == 0
    return json.loads(capsys.readouterr().out)


def test_json_stands_alone_on_stdout(capsys):
    report = report_of(capsys, "--device", "cpu", "--num_images", "80")
    assert report["recommended_batch_size"] == 8
    assert report["reason"].startswith("8: ")
    assert {"1", "2", "4", "8"} <= set(report["predicted_bytes"])
    assert report["predicted_bytes"]["64"] > report["predicted_bytes"]["2"] > report["terms"]["weights"]
    assert (report["device"], report["seconds_per_image"], report["gpus"]) == ("cpu", None, [])
    assert (report["free_bytes"], report["total_bytes"]) == (8 * GIB, 16 * GIB)


def make_reading(index: int, title: str, *, free_bytes: int) -> GpuReading:
    """A card of 8 GiB."""
    return GpuReading(
        index=index,
        uuid=None,
        title=title,
        total_bytes=8 * GIB,
        used_bytes=8 * GIB - free_bytes,
        free_bytes=free_bytes,
        others_bytes=8 * GIB - free_bytes,
        utilization_percent=3,
        temperature_c=40,
    )


def test_a_gpu_that_is_hidden_from_torch_is_read(capsys, monkeypatch):
    card = make_reading(0, "card", free_bytes=7 * GIB)
    monkeypatch.setattr(vram, "read_gpus", lambda hidden_too: (card,) if hidden_too else ())
    report = report_of(capsys, "--device", "cuda:0")
    assert (report["device_title"], report["free_bytes"]) == ("card", 7 * 2**30)
    assert report["gpus"][0]["temperature_c"] == 40
    assert report["terms"]["cuda_context"] > 0


@pytest.mark.parametrize(("usable", "device"), [((1,), "cuda:1"), ((0,), "cuda:0"), ((), "cpu")])
def test_auto_takes_a_card_that_torch_can_compute_on_and_names_the_others(
    capsys, monkeypatch, usable, device
):
    cards = tuple(make_reading(n, f"card {n}", free_bytes=7 * GIB) for n in range(2))
    gpus = tuple(Device(f"cuda:{n}", f"card {n}", 8 * GIB) for n in usable)
    unusable = tuple(
        UnusableGpu(f"cuda:{n}", f"card {n}", "no_cuda_build", "restart", {"torch": "2.13.0"})
        for n in range(2)
        if n not in usable
    )
    monkeypatch.setattr(vram, "read_gpus", lambda hidden_too: cards)
    monkeypatch.setattr(vram, "query_machine", lambda: Machine(gpus, 2, "2.13.0", False, unusable))
    assert run_command(vram.main, [*ARGUMENTS, "--json", "-"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["device"] == device
    assert printed.err.count("built without CUDA") == len(unusable)


def test_auto_is_asked_of_the_card_that_a_training_would_take(capsys, monkeypatch):
    full, idle = make_reading(0, "full", free_bytes=GIB), make_reading(1, "idle", free_bytes=8 * GIB)
    gpus = tuple(Device(f"cuda:{n}", "", 8 * GIB) for n in range(2))
    monkeypatch.setattr(vram, "read_gpus", lambda hidden_too: (full, idle))
    monkeypatch.setattr(vram, "query_machine", lambda: Machine(gpus, 2, "2.13.0", False))
    report = report_of(capsys)
    assert (report["device"], report["device_title"], report["free_bytes"]) == ("cuda:1", "idle", 8 * GIB)


def test_planning_for_a_gpu_that_is_not_here(capsys):
    report = report_of(capsys, "--device", "cuda:0", "--free_gib", "10.4", "--mixed_precision")
    assert report["free_bytes"] == round(10.4 * 2**30)
    assert report["total_bytes"] is None
    assert report["recommended_batch_size"] == 64


def test_nothing_fits_is_an_answer(capsys, monkeypatch):
    questions = []
    monkeypatch.setattr(
        vram, "find_what_fits", lambda *given: questions.append(given) or reason("nothing_fits")
    )
    report = report_of(capsys, "--device", "cuda:0", "--free_gib", "0.5", "--measure_speed")
    assert report["recommended_batch_size"] is None
    assert "not even 2 images fit" in report["reason"]
    assert report["reason"].endswith("no other model fits either: free some memory")
    assert report["remarks"][1] == {"key": "nothing_fits", "values": {}}
    assert questions[0][1:] == (5, "cuda:0", 2**29 - report["reserve_bytes"])
    assert report["seconds_per_image"] is None


def fake_steps(monkeypatch, step_s, peak_bytes=10**9) -> list[int]:
    """Replace real steps by `step_s` and `peak_bytes` of a batch; return the list of batches measured."""
    measured: list[int] = []

    def measure(self, size: int) -> MeasuredBatch:
        measured.append(size)
        return MeasuredBatch(size, peak_bytes, None, step_s(size) / size, 0.1)

    monkeypatch.setattr(vram.Bench, "measure", measure)
    monkeypatch.setattr(vram.Bench, "read", lambda self: NOTHING_MEASURED)
    return measured


def test_speed_is_measured_once_and_kept(capsys, monkeypatch):
    names = ("seconds_per_image", "validation_seconds_per_image")
    with monkeypatch.context() as patch:
        measured = fake_steps(patch, lambda size: 0.2 * size)
        report = report_of(capsys, "--device", "cpu", "--measure_speed")
    assert measured == [4]
    assert [report[name] for name in names] == [pytest.approx(0.2), 0.1]
    assert all(report[f"refine_{name}"] is None for name in names)
    monkeypatch.setattr(vram.Bench, "measure", lambda self, size: pytest.fail("measured again"))
    again = report_of(capsys, "--device", "cpu", "--measure_speed", "--batch_size", "9")
    assert again["measured"] == report["measured"]


def test_measuring_takes_two_batches_and_the_one_they_recommend(capsys, monkeypatch):
    # 95 % of the fastest are reached at 0.05 / 0.1 * 19 = 9.5 images
    measured = fake_steps(monkeypatch, lambda size: 0.05 + 0.1 * size)
    report = report_of(capsys, "--device", "cuda:0", "--free_gib", "20", "--measure")
    assert measured == [4, 16, 10]
    assert report["recommended_batch_size"] == 10
    assert "not faster, as measured" in report["reason"]
    assert [batch["batch_size"] for batch in report["measured"]] == [4, 10, 16]


def test_a_batch_that_takes_more_than_predicted_moves_the_recommendation(capsys, monkeypatch):
    measured = fake_steps(monkeypatch, lambda size: 1.0, peak_bytes=18 * 2**30)
    report = report_of(capsys, "--device", "cuda:0", "--free_gib", "20", "--measure", "--num_images", "160")
    assert measured == [4, 16]
    assert report["recommended_batch_size"] == 16
    measured = fake_steps(monkeypatch, lambda size: 1.0, peak_bytes=19 * 2**30)
    report = report_of(capsys, "--device", "cuda:0", "--free_gib", "20", "--measure", "--num_images", "160")
    assert report["recommended_batch_size"] is None


def test_a_batch_that_does_not_fit_comes_with_an_accumulation(capsys):
    report = report_of(capsys, "--device", "cuda:0", "--free_gib", "3", "--batch_size", "1000")
    instead = report["instead"]
    assert report["predicted_bytes"]["1000"] > 3 * 2**30
    assert instead["batch_size"] * instead["gradient_accumulation_steps"] == 1000
    assert f"{instead['batch_size']} with an accumulation of" in report["reason"]


def test_readable_lines_and_a_file(capsys, tmp_path):
    target = tmp_path / "report.json"
    assert run_command(vram.main, [*ARGUMENTS, "--device", "cpu", "--json", str(target)]) == 0
    assert "batch size: " in capsys.readouterr().out
    assert json.loads(target.read_text())["device"] == "cpu"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num_landmarks", "0"], "must be at least 1, got 0"),
        (["--num_landmarks", "5", "--image_size", "100", "64"], "image_size: height 100"),
        (["--num_landmarks", "5", "--device", "cuda:9"], "no cuda:9"),
        (["--num_landmarks", "5", "--free_gib", "x"], "free_gib"),
        (["--num_landmarks", "2.5"], "write 2 or 3"),
        ([], "num_landmarks"),
    ],
)
def test_mistakes_are_one_line(capsys, arguments, message):
    assert run_command(vram.main, ["--model", "unet", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1
