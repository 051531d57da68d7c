from __future__ import annotations

import json

import pytest

from backend import vram
from backend.device.gpu import GpuReading
from backend.flags import run_command

ARGUMENTS = ["--model", "unet", "--image_size", "64", "64", "--num_landmarks", "5", "--no-refine"]


@pytest.fixture(autouse=True)
def own_environment(monkeypatch):
    """The command hides GPUs from its own process: undone after each test."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


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
    assert report["free_bytes"] <= report["total_bytes"]


def test_a_gpu_that_is_hidden_from_torch_is_read(capsys, monkeypatch):
    card = GpuReading(0, "GPU-a", "card", 8 * 2**30, 2**30, 7 * 2**30, 0, 3, 40)
    monkeypatch.setattr(vram, "read_gpus", lambda hidden_too: (card,) if hidden_too else ())
    report = report_of(capsys, "--device", "cuda:0")
    assert (report["device_title"], report["free_bytes"]) == ("card", 7 * 2**30)
    assert report["gpus"][0]["temperature_c"] == 40
    assert report["terms"]["cuda_context"] > 0


def test_planning_for_a_gpu_that_is_not_here(capsys):
    report = report_of(capsys, "--device", "cuda:0", "--free_gib", "10.4", "--mixed_precision")
    assert report["free_bytes"] == round(10.4 * 2**30)
    assert report["total_bytes"] is None
    assert report["recommended_batch_size"] == 64


def test_nothing_fits_is_an_answer(capsys):
    report = report_of(capsys, "--device", "cuda:0", "--free_gib", "0.5", "--measure_speed")
    assert report["recommended_batch_size"] is None
    assert "not even 2 images fit" in report["reason"]
    assert report["seconds_per_image"] is None


def test_speed_is_measured_with_real_steps(capsys, monkeypatch):
    monkeypatch.setattr(vram, "SPEED_STEPS", 1)
    names = ("seconds_per_image", "validation_seconds_per_image")
    report = report_of(capsys, "--device", "cpu", "--measure_speed")
    assert all(report[name] > 0 for name in names)
    assert all(report[f"refine_{name}"] is None for name in names)
    flags = ["--refine", "--refine_crops", "10", "--crop_size", "32"]
    refined = report_of(capsys, "--device", "cpu", "--measure_speed", *flags)
    assert all(refined[f"{prefix}{name}"] > 0 for name in names for prefix in ("", "refine_"))


def test_readable_lines_and_a_file(capsys, tmp_path):
    target = tmp_path / "report.json"
    assert run_command(vram.main, [*ARGUMENTS, "--device", "cpu", "--json", str(target)]) == 0
    assert "batch size: " in capsys.readouterr().out
    assert json.loads(target.read_text())["device"] == "cpu"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--num_landmarks", "0"], "no number from 1 on"),
        (["--num_landmarks", "5", "--image_size", "100", "64"], "image_size: height 100"),
        (["--num_landmarks", "5", "--device", "cuda:9"], "no cuda:9"),
        (["--num_landmarks", "5", "--free_gib", "x"], "free_gib"),
        ([], "num_landmarks"),
    ],
)
def test_mistakes_are_one_line(capsys, arguments, said):
    assert run_command(vram.main, ["--model", "unet", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert said in captured.err
    assert len(captured.err.splitlines()) == 1
