from __future__ import annotations

from dataclasses import replace

import pytest

from backend.device.gpu import GpuReading
from backend.device.host import HostMemory
from backend.device.machine import Machine
from backend.device.unusable import UnusableGpu
from backend.errors import UserError
from ui import devices
from ui.text.language import speaking

GIB = 2**30
CARD = GpuReading(
    index=0,
    uuid="GPU-a",
    title="H100 <x>",
    total_bytes=80 * GIB,
    used_bytes=20 * GIB,
    free_bytes=60 * GIB,
    others_bytes=12 * GIB,
    utilization_percent=37,
    temperature_c=55,
)


def lines_of(monkeypatch: pytest.MonkeyPatch, *gpus: GpuReading) -> list[str]:
    monkeypatch.setattr(devices, "read_gpus", lambda: gpus)
    monkeypatch.setattr(devices, "read_memory", lambda: HostMemory(16 * GIB, 4 * GIB))
    monkeypatch.setattr(devices, "read_load", lambda: None)
    return devices.device_lines().split("<br>")


def test_a_gpu_is_told_with_all_that_the_driver_says(monkeypatch: pytest.MonkeyPatch) -> None:
    first, last = lines_of(monkeypatch, CARD)
    line = "H100 &lt;x&gt;: 60.0 GiB of 80.0 GiB free, 12.0 GiB used by programs, 37 % busy, 55 °C"
    assert first == f"<small>{line}</small>"
    assert "4.0 GiB of 16.0 GiB memory free" in last


def test_what_the_driver_does_not_say_is_left_out_or_called_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    mig = replace(CARD, title="MIG 1g", others_bytes=None, utilization_percent=None)
    silent = replace(mig, title="lost", free_bytes=None, temperature_c=None)
    first, second, _ = lines_of(monkeypatch, mig, silent)
    assert first == "<small>MIG 1g: 60.0 GiB of 80.0 GiB free, 55 °C</small>"
    assert second == "<small>lost: free memory unknown</small>"


def test_the_load_is_told_once_it_has_been_read(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lines_of(monkeypatch) == ["<small>4.0 GiB of 16.0 GiB memory free</small>"]
    monkeypatch.setattr(devices, "read_load", lambda: 41.7)
    assert devices.device_lines() == "<small>CPU 42 % busy, 4.0 GiB of 16.0 GiB memory free</small>"


OLD_CARD = UnusableGpu(
    "cuda:1",
    "GTX <1080>",
    "no_kernels",
    "install",
    {"torch": "2.13.0", "capability": "6.1", "kernels": "sm_75", "command": "pip install torch==2.13.0"},
)


@pytest.mark.parametrize("language", ["en", "fa"])
def test_a_gpu_that_cannot_be_used_is_told_with_its_cure(
    monkeypatch: pytest.MonkeyPatch, language: str
) -> None:
    machine = Machine((), 2, "2.13.0", cpu_bfloat16=False, unusable=(OLD_CARD,))
    monkeypatch.setattr(devices, "query_machine", lambda: machine)
    with speaking(language):
        html = devices.unusable_gpus()
    for text in ("GTX &lt;1080&gt;", "cuda:1", "6.1", "pip install torch==2.13.0"):
        assert text in html


def test_nothing_is_told_where_all_is_well_and_a_torch_that_does_not_answer_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(devices, "query_machine", lambda: Machine((), 2, "2.13.0", cpu_bfloat16=False))
    assert devices.unusable_gpus() == ""

    def fail() -> Machine:
        raise UserError("no module named torch")

    monkeypatch.setattr(devices, "query_machine", fail)
    assert "no module named torch" in devices.unusable_gpus()
