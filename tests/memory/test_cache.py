from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from backend.config import Settings, parse_settings
from backend.device import machine
from backend.memory import cache, traced_memory
from backend.memory.lifetimes import Moment
from backend.memory.prediction import predict_step_memory
from backend.memory.step_memory import TRACED_FIELDS, PhaseMemory, StepMemory

SETTINGS = parse_settings({"model": "unet", "image_size": (64, 64)})
CHANGES = {
    "model": "hrnet",
    "image_size": (96, 64),
    "loss": "mse",
    "decoder": "argmax",
    "output_stride": 4,
    "mixed_precision": False,
    "gradient_accumulation_steps": 2,
    "refine": False,
    "refine_crops": 96,
    "num_refiners": 2,
    "crop_size": 96,
    "refiner_sides": "64",
}
OTHERS = {"lr": 1e-4, "epochs": 3, "batch_size": 32, "seed": 7, "num_workers": 0}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FIDUCIAL_CACHE_DIR", str(tmp_path))
    return tmp_path / "step_memory"


@pytest.fixture
def traces(folder, monkeypatch) -> list[tuple[Settings, int, str]]:
    """The questions to a tracer that only counts."""
    questions: list[tuple[Settings, int, str]] = []

    def trace(settings, num_landmarks, kind):
        questions.append((settings, num_landmarks, kind))
        return StepMemory([PhaseMemory([Moment(len(questions), 2)], [Moment(1, 1)], {}, {})], 5)

    monkeypatch.setattr(traced_memory, "trace_step_memory", trace)
    return questions


def test_the_same_question_is_traced_once(traces):
    first, second = (predict_step_memory(SETTINGS, 5, "cuda:0") for _ in range(2))
    assert first == second and len(traces) == 1
    predict_step_memory(SETTINGS, 5, "cuda:1")  # the same kind of device
    assert len(traces) == 1


def test_whatever_changes_the_answer_is_traced_anew(traces):
    assert set(CHANGES) == set(TRACED_FIELDS)
    predict_step_memory(SETTINGS, 5, "cuda:0")
    for field, value in CHANGES.items():
        before = len(traces)
        predict_step_memory(SETTINGS.model_copy(update={field: value}), 5, "cuda:0")
        assert len(traces) == before + 1, field
        assert getattr(traces[-1][0], field) == value
    for num_landmarks, device in ((6, "cuda:0"), (5, "cpu")):
        before = len(traces)
        predict_step_memory(SETTINGS, num_landmarks, device)
        assert len(traces) == before + 1


def test_what_cannot_change_the_answer_is_not_told_to_the_tracer(traces):
    predict_step_memory(SETTINGS, 5, "cpu")
    predict_step_memory(SETTINGS.model_copy(update=OTHERS), 5, "cpu")
    assert len(traces) == 1


def test_another_torch_or_other_code_is_traced_anew(traces, monkeypatch):
    predict_step_memory(SETTINGS, 5, "cpu")
    monkeypatch.setattr(cache, "torch_version", lambda: "99.0")
    predict_step_memory(SETTINGS, 5, "cpu")
    monkeypatch.setattr(cache, "_own_code_hash", lambda: "other")
    predict_step_memory(SETTINGS, 5, "cpu")
    assert len(traces) == 3


def test_unlike_cpus_that_share_a_home_folder_each_have_their_answer(traces, monkeypatch):
    for device, expected in (("cpu", 3), ("cuda:0", 1)):
        traces.clear()
        for instructions, variables in (({"avx2"}, "4"), ({"avx2", "avx512"}, "4"), ({"avx2"}, "2")):
            monkeypatch.setattr(machine, "cpu_instructions", lambda allowed=instructions: allowed)
            monkeypatch.setenv("OMP_NUM_THREADS", variables)
            predict_step_memory(SETTINGS, 5, device)
            predict_step_memory(SETTINGS, 5, device)
        assert len(traces) == expected


def test_any_line_of_the_traced_code_changes_its_hash(tmp_path):
    for name in cache.TRACED_CODE:
        source, target = cache.REPOSITORY / name, tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    assert cache.code_hash(tmp_path) == cache.code_hash()
    for name in (
        "models/unet.py",
        "backend/training/engine.py",
        "backend/training/losses.py",
        "backend/memory/trace.py",
    ):
        before = cache.code_hash(tmp_path)
        with (tmp_path / name).open("a", encoding="utf-8") as file:
            file.write("# a word\n")
        assert cache.code_hash(tmp_path) != before, name


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"phases": [{}], "num_parameters": 1}', "\x00\xff"]
)
def test_a_damaged_file_is_made_anew(traces, folder, content):
    memory = predict_step_memory(SETTINGS, 5, "cpu")
    (file,) = folder.iterdir()
    file.write_text(content, encoding="utf-8")
    predict_step_memory(SETTINGS, 5, "cpu")
    assert len(traces) == 2
    assert json.loads(file.read_text(encoding="utf-8"))["num_parameters"] == memory.num_parameters


def test_a_folder_that_cannot_be_written_costs_time_and_nothing_else(traces, tmp_path, monkeypatch):
    blocked = tmp_path / "a file"
    blocked.touch()
    monkeypatch.setenv("FIDUCIAL_CACHE_DIR", str(blocked))
    predict_step_memory(SETTINGS, 5, "cpu")
    predict_step_memory(SETTINGS, 5, "cpu")
    assert len(traces) == 2


def test_only_the_newest_answers_are_kept(traces, folder, monkeypatch):
    monkeypatch.setattr(cache, "MAX_ANSWERS", 3)
    for num_landmarks in range(1, 6):
        predict_step_memory(SETTINGS, num_landmarks, "cpu")
        for file in folder.iterdir():
            os.utime(file, (file.stat().st_mtime - 10,) * 2)
    assert len(list(folder.iterdir())) == 3
    predict_step_memory(SETTINGS, 5, "cpu")
    assert len(traces) == 5
    predict_step_memory(SETTINGS, 1, "cpu")
    assert len(traces) == 6


def test_a_known_answer_needs_no_torch(traces):
    expected = predict_step_memory(SETTINGS, 5, "cpu").bytes_at(3)
    code = (
        "import sys; from backend.config import parse_settings\n"
        "from backend.memory.prediction import predict_step_memory\n"
        "settings = parse_settings({'model': 'unet', 'image_size': (64, 64)})\n"
        "print(predict_step_memory(settings, 5, 'cpu').bytes_at(3), 'torch' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert answer.split() == [str(expected), "False"]
