from __future__ import annotations

from dataclasses import replace

import pytest

from backend.device.gpu import GpuReading
from backend.device.host import HostMemory
from ui import devices

GIB = 2**30
CARD = GpuReading(0, "GPU-a", "H100 <x>", 80 * GIB, 20 * GIB, 60 * GIB, 12 * GIB, 37, 55)


def lines_of(monkeypatch: pytest.MonkeyPatch, *gpus: GpuReading) -> list[str]:
    monkeypatch.setattr(devices, "read_gpus", lambda: gpus)
    monkeypatch.setattr(devices, "read_memory", lambda: HostMemory(16 * GIB, 4 * GIB))
    monkeypatch.setattr(devices, "read_load", lambda: None)
    return devices.device_lines().split("<br>")


def test_a_gpu_is_told_with_all_that_the_driver_says(monkeypatch: pytest.MonkeyPatch) -> None:
    first, last = lines_of(monkeypatch, CARD)
    said = "H100 &lt;x&gt;: 60.0 GiB of 80.0 GiB free, 12.0 GiB held by programs, 37 % busy, 55 °C"
    assert first == f"<small>{said}</small>"
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
