from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import NamedTuple

import pytest

from backend.device import host
from backend.device.host import LoadMeter


class Times(NamedTuple):
    """CPU seconds since the machine was started."""

    user: float
    idle: float
    iowait: float = 0.0
    guest: float = 0.0


def clock(monkeypatch: pytest.MonkeyPatch, *times: Times) -> None:
    readings = iter(times)
    monkeypatch.setattr(host, "psutil", SimpleNamespace(cpu_times=lambda: next(readings)))


def test_the_load_is_that_of_the_time_between_two_readings(monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, Times(50.0, 50.0), Times(53.0, 51.0), Times(53.0, 52.0, iowait=1.0))
    meter = LoadMeter()
    assert [meter.read() for _ in range(3)] == [None, 75.0, 0.0]


def test_another_thread_s_first_reading_is_no_first_one(monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, Times(50.0, 50.0), Times(51.0, 51.0))
    meter = LoadMeter()
    meter.read()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(meter.read).result() == 50.0


def test_a_reading_too_soon_after_another_tells_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, Times(0.0, 0.0), Times(1.0, 0.1), Times(1.1, 1.1), Times(1.2, 1.2))
    meter = LoadMeter()
    assert meter.read() is None
    busy = meter.read()
    assert busy == pytest.approx(100 / 1.1)
    assert meter.read() != busy
    assert meter.read() == pytest.approx(100 / 11)


def test_a_guest_s_time_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, Times(0.0, 0.0), Times(2.0, 2.0, guest=2.0))
    meter = LoadMeter()
    meter.read()
    assert meter.read() == 50.0
