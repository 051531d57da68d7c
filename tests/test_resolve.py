from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backend import resolve
from backend.config import Choice, Settings
from backend.device.machine import Device, Machine
from backend.errors import UserError
from backend.resolve import choose_dataset, choose_device, precision_warning, resolve_settings

CPU_ONLY = Machine(gpus=(), num_cpus=4, torch_version="2.9+cpu", cpu_bfloat16=False)
TWO_GPUS = Machine(
    gpus=(Device("cuda:0", "RTX A", 12 * 2**30), Device("cuda:1", "RTX B", 24 * 2**30)),
    num_cpus=32,
    torch_version="2.9",
    cpu_bfloat16=False,
)


def never(settings: Settings, device: str) -> Choice:
    raise AssertionError("the recommender is for an automatic batch only")


def settings_for(folder: Path, **values: Any) -> Settings:
    return Settings(dataset_path=str(folder), **values)


def refused(settings: Settings, machine: Machine) -> UserError:
    with pytest.raises(UserError) as caught:
        resolve_settings(settings, machine, never)
    assert caught.value.cure
    return caught.value


# The device


def test_automatic_device_is_first_gpu_or_cpu() -> None:
    assert choose_device(Settings(), TWO_GPUS).value == "cuda:0"
    assert "RTX A" in choose_device(Settings(), TWO_GPUS).reason
    choice = choose_device(Settings(), CPU_ONLY)
    assert choice.value == "cpu" and "no GPU" in choice.reason


@pytest.mark.parametrize(
    ("asked", "value"), [("cuda", "cuda:0"), ("cuda:0", "cuda:0"), ("cuda:1", "cuda:1"), ("cpu", "cpu")]
)
def test_device_asked_for_is_taken_with_its_number(asked: str, value: str) -> None:
    assert choose_device(Settings(device=asked), TWO_GPUS).value == value


def test_device_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    mistake = refused(settings_for(tmp_path, device="cuda:2"), TWO_GPUS)
    assert mistake.field == "device" and "cuda:0, cuda:1" in mistake.cure
    mistake = refused(settings_for(tmp_path, device="cuda"), CPU_ONLY)
    assert mistake.field == "device" and "cpu" in mistake.cure


# What follows from it


def test_a_batch_is_recommended_for_the_precision_in_force(tmp_path: Path) -> None:
    def recommend(settings: Settings, device: str) -> Choice:
        return Choice(6, "half" if settings.mixed_precision else "full")

    settings = settings_for(tmp_path, mixed_precision=True, batch_size="auto")
    able = replace(CPU_ONLY, cpu_bfloat16=True)
    reasons = [
        resolve_settings(settings, each, recommend).chosen["batch_size"].reason
        for each in (CPU_ONLY, able, TWO_GPUS)
    ]
    assert reasons == ["full", "half", "half"]


def test_resume_in_bfloat16_warns_on_cpu_without_instructions() -> None:
    told = precision_warning("bfloat16", cpu_bfloat16=False)
    assert told is not None and "bfloat16" in told and "AMX" in told
    assert precision_warning("bfloat16", cpu_bfloat16=True) is None
    for other in (False, "float16"):
        assert precision_warning(other, cpu_bfloat16=False) is None


def test_mixed_precision_is_what_the_device_has_with_a_reason(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, mixed_precision=True)
    on_cpu = resolve_settings(settings, CPU_ONLY, never)
    assert on_cpu.value("mixed_precision") is False and "CPU" in on_cpu.chosen["mixed_precision"].reason
    assert on_cpu.settings.mixed_precision is True  # what was asked stays known
    on_cpu = resolve_settings(settings, replace(CPU_ONLY, cpu_bfloat16=True), never)
    assert on_cpu.value("mixed_precision") == "bfloat16"
    assert resolve_settings(settings, TWO_GPUS, never).value("mixed_precision") == "float16"
    assert (
        "mixed_precision"
        not in resolve_settings(settings_for(tmp_path, mixed_precision=False), CPU_ONLY, never).chosen
    )


@pytest.mark.parametrize(
    ("asked", "machine", "number"),
    [
        ("auto", CPU_ONLY, 0),
        ("auto", TWO_GPUS, 8),
        ("auto", replace(TWO_GPUS, num_cpus=4), 3),
        ("auto", replace(TWO_GPUS, num_cpus=1), 1),
        (5, CPU_ONLY, 5),
        (0, TWO_GPUS, 0),
    ],
)
def test_number_of_workers_follows_the_device_and_the_cores(
    tmp_path: Path, asked: Any, machine: Machine, number: int
) -> None:
    choice = resolve_settings(settings_for(tmp_path, num_workers=asked), machine, never).chosen["num_workers"]
    assert choice.value == number and choice.reason


def test_automatic_batch_is_what_the_recommender_says_for_the_chosen_device(tmp_path: Path) -> None:
    asked: list[str] = []

    def recommend(settings: Settings, device: str) -> Choice:
        asked.append(device)
        return Choice(6, "six fit")

    config = resolve_settings(settings_for(tmp_path, batch_size="auto"), TWO_GPUS, recommend)
    assert asked == ["cuda:0"]
    assert (config.value("batch_size"), config.chosen["batch_size"].reason) == (6, "six fit")
    config = resolve_settings(settings_for(tmp_path, batch_size=12), TWO_GPUS, never)
    assert config.value("batch_size") == 12 and "batch_size" not in config.chosen


def test_pretrained_weights_must_exist(tmp_path: Path) -> None:
    settings = settings_for(tmp_path, model="resnet", pretrained=str(tmp_path / "w.pth"))
    assert refused(settings, CPU_ONLY).field == "pretrained"
    (tmp_path / "w.pth").touch()
    assert resolve_settings(settings, CPU_ONLY, never).settings.pretrained.endswith("w.pth")


# The data set


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Where demo data was asked for, instead of drawing it."""
    paths: list[Path] = []
    monkeypatch.setattr(resolve, "create_demo_dataset", paths.append)
    return paths


def test_data_set_asked_for_goes_first_as_an_absolute_path(
    tmp_path: Path, made: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "Aariz").mkdir()
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    assert choose_dataset(Settings(dataset_path="mine"), tmp_path).value == str(tmp_path / "mine")
    assert made == []


def test_without_one_the_folder_aariz_beside_the_program_is_taken(tmp_path: Path, made: list[Path]) -> None:
    (tmp_path / "Aariz").mkdir()
    choice = choose_dataset(Settings(), tmp_path)
    assert choice.value == str(tmp_path / "Aariz") and "beside train.py" in choice.reason
    assert made == []


def test_demo_data_is_created_without_any_data_set(tmp_path: Path, made: list[Path]) -> None:
    choice = choose_dataset(Settings(), tmp_path)
    assert choice.value == str(tmp_path / "data" / "demo") and made == [tmp_path / "data" / "demo"]
    assert "demo data" in choice.reason and "made now" in choice.reason
    (tmp_path / "data" / "demo").mkdir(parents=True)
    assert "there already" in choose_dataset(Settings(), tmp_path).reason


def test_missing_data_set_is_refused(tmp_path: Path, made: list[Path]) -> None:
    (tmp_path / "Aariz").mkdir()
    with pytest.raises(UserError, match="does not exist") as caught:
        choose_dataset(Settings(dataset_path=str(tmp_path / "gone")), tmp_path)
    assert caught.value.field == "dataset_path" and made == []
