"""Where a Windows driver would lend main memory, torch's own limit is set, recorded and said."""

from __future__ import annotations

import logging
import platform
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from backend import worker
from backend.training.memory_cap import MemoryCap, cap_memory, choose_cap, driver_lends_main_memory
from backend.worker import train_run
from tests.test_worker import new_run

GIB, MIB = 2**30, 2**20
GPU, CPU = torch.device("cuda:1"), torch.device("cpu")
LINUX, WSL = "6.8.0-generic", "5.15.153.1-microsoft-standard-WSL2"


@pytest.mark.parametrize(
    ("free", "total", "held", "limit"),
    [
        (7 * GIB, 8 * GIB, 0, 7 * GIB - 256 * MIB),
        (22 * GIB, 24 * GIB, 0, 22 * GIB - round(0.03 * 24 * GIB)),
        (5 * GIB, 8 * GIB, 2 * GIB, 7 * GIB - 256 * MIB),  # what torch holds already is its own
        (100 * MIB, 8 * GIB, 0, 0),
        (8 * GIB, 8 * GIB, GIB, 8 * GIB),
    ],
)
def test_the_limit_is_what_is_free_less_a_margin(free: int, total: int, held: int, limit: int) -> None:
    cap = choose_cap(free, total, held)
    assert cap.limit_bytes == limit and 0 <= cap.fraction <= 1
    assert f"at most {limit / GIB:.1f} GiB" in cap.message and "main memory" in cap.message


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, Any]]:
    """The limits that torch was given for a GPU of 8 GiB, of which 7 are free."""
    given: list[tuple[float, Any]] = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (7 * GIB, 8 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 0)
    monkeypatch.setattr(
        torch.cuda,
        "set_per_process_memory_fraction",
        lambda fraction, device: given.append((fraction, device)),
    )
    return given


@pytest.mark.parametrize(
    ("system", "release", "is_needed"),
    [("win32", "10", True), ("linux", WSL, True), ("linux", LINUX, False), ("darwin", "24.1", False)],
)
def test_it_is_set_where_the_driver_is_one_for_windows_and_nowhere_else(
    monkeypatch: pytest.MonkeyPatch,
    limits: list[tuple[float, Any]],
    system: str,
    release: str,
    is_needed: bool,
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "uname", lambda: SimpleNamespace(release=release))
    assert driver_lends_main_memory() is is_needed
    assert (cap_memory(GPU) is not None) is is_needed
    assert limits == ([((7 * GIB - 256 * MIB) / (8 * GIB), GPU)] if is_needed else [])
    assert cap_memory(CPU) is None and len(limits) == is_needed


def test_a_gpu_that_does_not_answer_gets_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(device: torch.device) -> None:
        raise RuntimeError("CUDA error")

    monkeypatch.setattr("backend.training.memory_cap.driver_lends_main_memory", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", fail)
    assert cap_memory(GPU) is None


def test_a_run_says_and_records_its_limit(
    tmp_path: Path,
    tiny_dataset: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "backend")
    cap = MemoryCap(6 * GIB, 7 * GIB, 8 * GIB)
    monkeypatch.setattr(worker, "cap_memory", lambda device: cap)
    monkeypatch.setattr(worker, "load_run_data", lambda *given: pytest.fail("before anything is prepared"))
    folder = new_run(tmp_path, tiny_dataset)
    with pytest.raises(pytest.fail.Exception):
        train_run(folder)
    (event,) = folder.read_events()[0]
    assert (event["kind"], event["limit_bytes"], event["total_bytes"]) == ("memory_cap", 6 * GIB, 8 * GIB)
    assert f"memory cap: {cap.message}" in caplog.text
