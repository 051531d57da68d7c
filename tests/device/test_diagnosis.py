"""Each fault of a computer is found, on the line where it belongs, with a cure; a sound one has none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from backend.device.diagnosis import (
    CURES,
    FAULTS,
    LINE_OF_UNUSABLE,
    NAMES,
    WAYS,
    Check,
    Facts,
    FolderFacts,
    diagnose,
)
from backend.device.gpu import Driver, GpuReading
from backend.device.host import HostMemory
from backend.device.machine import Device, Machine
from backend.device.unusable import ENGLISH, TorchBuild, find_unusable, list_cards

GIB = 2**30
CU130 = ("sm_75", "sm_80", "sm_90")
CARD = GpuReading(
    index=0,
    uuid="GPU-0",
    title="H100",
    total_bytes=80 * GIB,
    used_bytes=20 * GIB,
    free_bytes=60 * GIB,
    others_bytes=0,
    utilization_percent=0,
    temperature_c=40,
    capability=(9, 0),
)
OLD_CARD = replace(CARD, title="GTX 1050", capability=(6, 1))
NEW_DRIVER = Driver("580.82.07", (13, 0))
CPU_ONLY = Machine((), 2, "2.13.0+cpu", cpu_bfloat16=False)
SOUND = Facts(
    version="0.2.0",
    python="3.11.8",
    pip="python -m pip install",
    wrong_packages=(),
    num_packages=18,
    torch=(TorchBuild("2.13.0+cpu", None, ()), CPU_ONLY),
    torch_failure="",
    is_windows=False,
    driver=Driver(None, None),
    gpus=(),
    memory=HostMemory(16 * GIB, 8 * GIB),
    shared_bytes=8 * GIB,
    folders={name: FolderFacts(Path(name), 100 * GIB) for name in WAYS},
    system_browser="firefox",
    user_agent="",
    missing_fonts=(),
)


def with_gpu(card: GpuReading, driver: Driver, build: TorchBuild, torch_message: str | None) -> Facts:
    """A computer with a card, of which the torch of this build sees nothing if it has a message."""
    unusable = find_unusable(list_cards([card]), driver, build, torch_message)
    gpus = () if unusable else (Device("cuda:0", card.title, 80 * GIB),)
    machine = Machine(gpus, 2, build.version, cpu_bfloat16=True, unusable=unusable)
    return replace(SOUND, torch=(build, machine), driver=driver, gpus=(card,))


def faults_of(facts: Facts) -> list[Check]:
    return [check for check in diagnose(facts) if check.fault]


def only_fault(facts: Facts) -> Check:
    (fault,) = faults_of(facts)
    return fault


def value_of(name: str, facts: Facts) -> str:
    (check,) = [check for check in diagnose(facts) if check.name == name]
    return check.value


def test_a_sound_computer_has_no_fault() -> None:
    assert not faults_of(SOUND)
    assert {check.name for check in diagnose(SOUND)} == set(NAMES) - {"kernels", "gpu_memory"}
    assert value_of("memory", SOUND) == "8.0 / 16.0 GiB"
    assert value_of("card", SOUND) == value_of("driver", SOUND) == value_of("cuda", SOUND) == ""
    assert value_of("runs", SOUND) == "100.0 GiB, runs"
    assert value_of("browser", SOUND) == "firefox"


def test_a_sound_gpu_has_no_fault() -> None:
    facts = with_gpu(CARD, NEW_DRIVER, TorchBuild("2.13.0+cu130", "13.0", CU130), None)
    assert not faults_of(facts)
    assert value_of("driver", facts) == "580.82.07 (CUDA 13.0)"
    assert value_of("card", facts) == "cuda:0 H100 (9.0)"
    assert value_of("kernels", facts) == "sm_75 sm_80 sm_90"
    assert value_of("gpu_memory", facts) == "cuda:0 60.0 / 80.0 GiB"


def test_a_card_that_the_nvidia_driver_does_not_list_is_named() -> None:
    machine = replace(CPU_ONLY, gpus=(Device("cuda:0", "Radeon", 16 * GIB),))
    facts = replace(SOUND, torch=(TorchBuild("2.13.0+rocm", "7.0", ()), machine))
    assert value_of("card", facts) == "cuda:0 Radeon"


@pytest.mark.parametrize(
    ("card", "driver", "build", "torch_message", "line", "part"),
    [
        (CARD, NEW_DRIVER, TorchBuild("2.13.0+cpu", None, ()), "", "cuda", "whl/cu130"),
        (CARD, Driver("535.1", (12, 2)), TorchBuild("2.13.0", "13.0", CU130), "", "driver", "580 or later"),
        (CARD, NEW_DRIVER, TorchBuild("2.13.0", "13.0", CU130), "no reason", "driver", "restart"),
        (OLD_CARD, NEW_DRIVER, TorchBuild("2.13.0", "13.0", CU130), None, "kernels", "whl/cu126"),
    ],
)
def test_a_gpu_that_cannot_be_used_is_a_fault_of_what_keeps_it_from_it(
    card: GpuReading, driver: Driver, build: TorchBuild, torch_message: str | None, line: str, part: str
) -> None:
    fault = only_fault(with_gpu(card, driver, build, torch_message))
    assert fault.name == line
    assert card.title in fault.value and part in fault.message


def test_packages_of_other_versions_are_a_fault() -> None:
    facts = replace(SOUND, wrong_packages=(("gradio", "6.20.0", "6.31.0"), ("tqdm", "", "4.70.1")))
    fault = only_fault(facts)
    assert "gradio (6.20.0, 6.31.0), tqdm (-, 4.70.1)" in fault.message
    assert fault.message.endswith("python -m pip install -r requirements.txt")


@pytest.mark.parametrize(
    ("failure", "is_windows", "part"),
    [
        ("", False, "torch is not installed; install them: python -m pip install -r"),
        ("libcudart.so.13: cannot open", False, "--force-reinstall"),
        ("[WinError 126] c10.dll", True, "https://aka.ms/vs/17/release/vc_redist.x64.exe"),
    ],
)
def test_a_torch_that_cannot_be_loaded_is_a_fault(failure: str, is_windows: bool, part: str) -> None:
    facts = replace(SOUND, torch=None, torch_failure=failure, is_windows=is_windows)
    fault = only_fault(facts)
    assert fault.name == "torch" and part in fault.message and failure in fault.message


@pytest.mark.parametrize(
    ("changes", "name", "part"),
    [
        ({"memory": HostMemory(2 * GIB, GIB - 1)}, "memory", "less than 1 GiB"),
        ({"shared_bytes": 64 * 2**20}, "shared_memory", "--shm-size 4g"),
        ({"folders": {"runs": FolderFacts(Path("r"), GIB)}}, "runs", "--runs_dir"),
        ({"folders": {"data": FolderFacts(Path("d"), GIB)}}, "data", "--data_root"),
        ({"folders": {"cache": FolderFacts(Path("c"), GIB)}}, "cache", "FIDUCIAL_CACHE_DIR"),
        ({"folders": {"temporary": FolderFacts(Path("t"), GIB)}}, "temporary", "TMPDIR"),
        ({"folders": {"runs": FolderFacts(Path("r"), 0, "Read-only")}}, "runs", "written there (Read-only)"),
        ({"missing_fonts": ("vazirmatn-arabic.woff2",)}, "fonts", "vazirmatn-arabic.woff2"),
    ],
)
def test_what_is_short_or_missing_is_a_fault(changes: dict[str, object], name: str, part: str) -> None:
    fault = only_fault(replace(SOUND, **changes))
    assert fault.name == name and part in fault.message


def test_shared_memory_is_not_looked_at_where_there_is_none() -> None:
    assert "shared_memory" not in {check.name for check in diagnose(replace(SOUND, shared_bytes=None))}


CHROME = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{}.0 Safari/537.36"


@pytest.mark.parametrize(
    ("user_agent", "value", "is_old"),
    [
        (CHROME.format(131), "Chrome 131.0", False),
        (CHROME.format(104), "Chrome 104.0", True),
        (CHROME.format(131) + " Edg/131.0", "Edge 131.0", False),
        (CHROME.format(90) + " OPR/76.0", "Opera 76.0", True),
        ("Mozilla/5.0 (X11; rv:128.0) Gecko/20100101 Firefox/128.0", "Firefox 128.0", False),
        ("Mozilla/5.0 (X11; rv:115.0) Gecko/20100101 Firefox/115.0", "Firefox 115.0", True),
        ("Mozilla/5.0 (Macintosh) AppleWebKit/605 Version/15.3 Safari/605", "Safari 15.3", True),
        ("Mozilla/5.0 (iPhone) AppleWebKit/605 Version/17.4 Mobile/1 Safari/604", "Safari 17.4", False),
        ("curl/8.0", "curl/8.0", False),
    ],
)
def test_the_browser_of_the_page(user_agent: str, value: str, is_old: bool) -> None:
    facts = replace(SOUND, user_agent=user_agent)
    assert value_of("browser", facts) == value
    assert bool(faults_of(facts)) is is_old


def test_every_gpu_that_cannot_be_used_has_a_line() -> None:
    assert set(LINE_OF_UNUSABLE) == set(ENGLISH)
    assert set(LINE_OF_UNUSABLE.values()) <= set(NAMES)
    assert set(ENGLISH) <= set(FAULTS) and CURES
