"""A GPU that the driver lists and torch cannot compute on is named with its cure, and is never chosen."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from backend import torch_devices
from backend.config import Settings
from backend.device.gpu import Driver, GpuReading
from backend.device.machine import Machine, machine_from_dict
from backend.device.unusable import Card, TorchBuild, find_unusable
from backend.errors import UserError
from backend.resolve import choose_device
from backend.torch_devices import describe_machine
from install.torch_builds import has_kernels

CU130 = ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120")
NEW_DRIVER, OLD_DRIVER = Driver("580.82.07", (13, 0)), Driver("535.129.03", (12, 2))
WHEELS = "https://download.pytorch.org/whl"
REPOSITORY = Path(__file__).resolve().parents[2]


def card(index: int, title: str, capability: tuple[int, int] | None) -> GpuReading:
    return GpuReading(
        index=index,
        uuid=f"GPU-{index}",
        title=title,
        total_bytes=8 << 30,
        used_bytes=0,
        free_bytes=8 << 30,
        others_bytes=0,
        utilization_percent=0,
        temperature_c=40,
        capability=capability,
    )


@pytest.mark.parametrize(
    ("capability", "archs", "expected"),
    [
        ((8, 6), CU130, True),
        ((8, 9), CU130, True),  # a later minor version of the same major one
        ((7, 0), CU130, False),
        ((6, 1), CU130, False),
        ((12, 1), CU130, True),
        ((13, 0), CU130, True),  # its PTX is compiled for it
        ((13, 0), ("sm_120",), False),
        ((9, 0), ("sm_86",), False),
        ((8, 0), ("sm_86",), False),  # an earlier minor version
        ((9, 0), ("sm_90a",), True),
        ((10, 0), ("sm_90a", "compute_90a"), False),
        ((10, 3), ("sm_100f",), True),
        ((12, 0), ("sm_100f",), False),
        ((8, 7), ("sm_80", "sm_86"), False),  # a Jetson has binaries of its own
        ((8, 7), ("sm_87",), True),
        ((8, 6), (), True),  # nothing is known against it
        ((8, 6), ("gfx90a",), False),
    ],
)
def test_a_gpu_has_kernels_where_cuda_says_that_it_can_run_them(
    capability: tuple[int, int], archs: tuple[str, ...], expected: bool
) -> None:
    assert has_kernels(capability, archs) is expected


@pytest.mark.parametrize(
    ("driver", "cuda", "capability", "torch_message", "why", "cure"),
    [
        (NEW_DRIVER, None, (8, 6), "", "is built without CUDA", f"torch==2.13.0 --index-url {WHEELS}/cu130"),
        (OLD_DRIVER, None, (8, 6), "", "is built without CUDA", "whl/cu126"),
        (NEW_DRIVER, None, (6, 1), "", "is built without CUDA", "whl/cu126"),
        (OLD_DRIVER, "13.0", (8, 6), "too old", "serves CUDA 12.2 at most", "to 580 or later, or install"),
        (Driver("470.1", (11, 4)), "13.0", (8, 6), "too old", "serves CUDA 11.4", "driver to 580 or later"),
        (OLD_DRIVER, "13.0", (12, 0), "too old", "serves CUDA 12.2", "driver to 580 or later"),
        (NEW_DRIVER, "13.0", (8, 6), "unknown error", "sees no GPU (unknown error)", "--gpus all"),
        (Driver(None, None), "13.0", (8, 6), "no driver", "sees no GPU (no driver)", "restart"),
        (NEW_DRIVER, "13.0", (6, 1), None, "no kernels for its compute capability 6.1", "whl/cu126"),
        (NEW_DRIVER, "13.0", (3, 5), None, "compute capability 3.5", "take another one"),
    ],
)  # fmt: skip
def test_the_reason_and_the_cure_are_told(
    driver: Driver,
    cuda: str | None,
    capability: tuple[int, int],
    torch_message: str | None,
    why: str,
    cure: str,
) -> None:
    build = TorchBuild("2.13.0+cpu" if cuda is None else "2.13.0+cu130", cuda, CU130 if cuda else ())
    (gpu,) = find_unusable([Card("cuda:0", "RTX A", capability)], driver, build, torch_message)
    assert why in gpu.reason and cure in gpu.remedy
    assert gpu.message.startswith("RTX A (cuda:0) cannot be used: ") and "{" not in gpu.message
    assert len(gpu.message.splitlines()) == 1


def test_nothing_is_said_of_a_gpu_that_computes_or_of_a_machine_without_any() -> None:
    build = TorchBuild("2.13.0+cu130", "13.0", CU130)
    with_capability, without_capability = Card("cuda:0", "A", (8, 6)), Card("cuda:1", "B", None)
    assert find_unusable([with_capability, without_capability], NEW_DRIVER, build, None) == ()
    assert find_unusable([], Driver(None, None), TorchBuild("2.13.0+cpu", None, ()), "") == ()


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Machine]:
    """The machine as torch's answers, and the driver's, have it."""

    def describe(
        listed: tuple[GpuReading, ...] = (),
        seen: tuple[tuple[int, int], ...] = (),
        cuda: str | None = "13.0",
        driver: Driver = NEW_DRIVER,
        warning: str = "",
    ) -> Machine:
        def is_available() -> bool:
            if warning:
                warnings.warn(warning, UserWarning, stacklevel=2)
            return bool(seen)

        def properties(index: int) -> Any:
            return SimpleNamespace(name=f"card {index}", total_memory=8 << 30, uuid=f"uuid-{index}")

        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(torch.cuda, "is_available", is_available)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(seen))
        monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: seen[index])
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: list(CU130))
        monkeypatch.setattr(torch_devices, "read_gpus", lambda: listed)
        monkeypatch.setattr(torch_devices, "read_driver", lambda: driver)
        return describe_machine()

    return describe


CARD = card(0, "RTX A", (8, 6))


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"listed": (CARD,), "cuda": None}, "built without CUDA"),
        ({"listed": (CARD,), "driver": OLD_DRIVER, "warning": "driver too old"}, "serves CUDA 12.2"),
        ({"listed": (CARD,), "warning": "CUDA unknown error\nmore"}, "(CUDA unknown error)"),
        ({"listed": (card(0, "card 0", (6, 1)),), "seen": ((6, 1),)}, "compute capability 6.1"),
    ],
)
def test_auto_never_picks_such_a_card_and_says_why_and_cuda_is_refused_with_the_cure(
    fake: Callable[..., Machine], answers: dict[str, Any], message: str
) -> None:
    machine = fake(**answers)
    assert machine.gpus == () and len(machine.unusable) == 1
    choice = choose_device(Settings(), machine)
    assert choice.value == "cpu" and message in choice.reason and machine.unusable[0].remedy in choice.reason
    for device in ("cuda", "cuda:0"):
        with pytest.raises(UserError) as caught:
            choose_device(Settings(device=device), machine)
        assert caught.value.field == "device" and message in caught.value.what
        assert machine.unusable[0].remedy in caught.value.cure and "cpu" in caught.value.cure
        assert len(str(caught.value).splitlines()) == 1


def test_of_several_cards_the_one_without_kernels_is_passed_over(fake: Callable[..., Machine]) -> None:
    machine = fake(seen=((6, 1), (8, 6)))
    assert [gpu.name for gpu in machine.gpus] == ["cuda:1"] and machine.gpus[0].uuid == "uuid-1"
    assert choose_device(Settings(), machine).value == "cuda:1"
    with pytest.raises(UserError, match="cuda:0") as caught:
        choose_device(Settings(device="cuda"), machine)
    assert "cu126" in caught.value.cure and "cuda:1" in caught.value.cure


def test_what_a_process_of_its_own_tells_is_read_whole(fake: Callable[..., Machine]) -> None:
    machine = fake(seen=((6, 1), (8, 6)))
    assert machine_from_dict(json.loads(json.dumps(asdict(machine)))) == machine


def test_a_card_that_fails_when_it_is_asked_is_told_too(
    fake: Callable[..., Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(listed=(CARD,), seen=((8, 6),))

    def fail(index: int) -> None:
        raise RuntimeError("CUDA driver initialization failed")

    monkeypatch.setattr(torch.cuda, "get_device_properties", fail)
    machine = describe_machine()
    assert machine.gpus == () and "driver initialization failed" in machine.unusable[0].reason


def test_the_machine_is_told_as_json_and_nothing_else() -> None:
    command = [sys.executable, "-m", "backend.torch_devices"]
    answer = subprocess.run(command, cwd=REPOSITORY, capture_output=True, encoding="utf-8", check=True).stdout
    assert machine_from_dict(json.loads(answer)).num_cpus >= 1
