from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from backend.run import process as process_module
from backend.run.process import (
    ProcessIdentity,
    command_line,
    descendants,
    identify,
    is_same_and_alive,
    kill,
    kill_tree,
)

only_linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")

# Says it is ready, then waits for the end of its input.
WAITING = "print('ready', flush=True); import sys; sys.stdin.read()"


@pytest.fixture
def child() -> Iterator[subprocess.Popen[str]]:
    with started(WAITING) as process:
        yield process
        process.kill()


def started(code: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.fixture(params=["as it is", "another system"])
def system(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """This system, and one that has no /proc."""
    if request.param == "another system":
        monkeypatch.setattr(process_module, "_PROC", tmp_path)
    return str(request.param)


@pytest.mark.usefixtures("system")
def test_a_process_is_known_again_while_it_lives(child: subprocess.Popen[str]) -> None:
    process = identify(child.pid)
    assert process is not None and process.pid == child.pid
    assert is_same_and_alive(process) is True
    assert identify(child.pid) == process
    child.kill()
    child.wait()
    assert is_same_and_alive(process) is False
    assert identify(child.pid) is None


@pytest.mark.usefixtures("system")
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no zombies")
def test_a_zombie_is_known_again_and_not_alive(child: subprocess.Popen[str]) -> None:
    process = identify(child.pid)
    assert process is not None
    assert child.stdin is not None
    child.stdin.close()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and is not reaped
    assert psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE
    assert identify(child.pid) is not None
    assert is_same_and_alive(process) is False


@only_linux
@pytest.mark.parametrize("step_s", [2, -2, 3600, -3600])
def test_a_step_of_the_clock_changes_no_process(
    child: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch, step_s: int
) -> None:
    """psutil's create time follows the wall clock: it is the ticks added to the kernel's time of the boot."""
    process = identify(child.pid)
    assert process is not None
    booted = psutil.boot_time()
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: booted + step_s)
    assert abs(psutil.Process(child.pid).create_time() - process.create_time) > 1  # the premise
    assert is_same_and_alive(process) is True
    assert is_same_and_alive(dataclasses.replace(process, create_time=process.create_time + step_s)) is True


@only_linux
@pytest.mark.parametrize("changes", [{"start_ticks": 7}, {"boot_id": "another"}])
def test_reused_pid_and_other_boot_are_different_processes(
    child: subprocess.Popen[str], changes: dict[str, Any]
) -> None:
    process = identify(child.pid)
    assert process is not None
    assert is_same_and_alive(dataclasses.replace(process, **changes)) is False


@only_linux
@pytest.mark.parametrize("name", ["a) R 1 (b", "): Z 0 0", " ", "x\udcff)"])
def test_the_name_of_a_process_does_not_hide_its_start(name: str) -> None:
    code = f"open('/proc/self/comm', 'wb').write({os.fsencode(name)!r}); {WAITING}"
    with started(code) as child:
        process = identify(child.pid)
        assert process is not None and process.start_ticks is not None
        ticks_per_s = os.sysconf("SC_CLK_TCK")
        assert process.start_ticks / ticks_per_s + psutil.boot_time() == pytest.approx(
            process.create_time, abs=1
        )
        assert is_same_and_alive(process) is True
        child.kill()


def test_older_record_is_compared_by_create_time(child: subprocess.Popen[str]) -> None:
    create_time = psutil.Process(child.pid).create_time()
    for difference_s, same in ((0, True), (0.4, True), (2, False), (-3600, False)):
        assert (
            is_same_and_alive(
                ProcessIdentity.from_row({"pid": child.pid, "create_time": create_time + difference_s})
            )
            is same
        )


def test_on_another_system_the_create_time_tells(
    child: subprocess.Popen[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_module, "_PROC", tmp_path)
    process = identify(child.pid)
    assert process is not None and process.start_ticks is None and process.boot_id is None
    assert process.to_row() == {"pid": child.pid, "create_time": psutil.Process(child.pid).create_time()}
    assert (
        is_same_and_alive(dataclasses.replace(process, create_time=process.create_time - 30)) is False
    )  # a reused pid


def test_it_comes_back_from_its_record() -> None:
    for process in (ProcessIdentity(7, 2.5), ProcessIdentity(7, 2.5, "boot", 12)):
        assert ProcessIdentity.from_row({**process.to_row(), "argv": []}) == process
    assert {"pid", "create_time"} <= ProcessIdentity(
        7, 2.5, "boot", 12
    ).to_row().keys()  # the version before reads it


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"pid": 7},
        {"pid": None, "create_time": 1},
        {"pid": -1, "create_time": 1},
        {"pid": "7", "create_time": 1},
    ],
)
def test_a_row_without_a_process_is_none(row: dict[str, Any]) -> None:
    assert ProcessIdentity.from_row(row) is None


def test_where_we_may_not_look_nobody_knows(
    child: subprocess.Popen[str], system: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = identify(child.pid)
    assert process is not None

    def denied(pid: int) -> None:
        raise PermissionError(pid) if system == "as it is" else psutil.AccessDenied(pid)

    if system == "as it is":
        monkeypatch.setattr(process_module, "_read_stat", denied)  # as where /proc is mounted with hidepid=1
        if sys.platform != "linux":
            pytest.skip("/proc is Linux's")
    else:
        monkeypatch.setattr(psutil, "Process", denied)
    assert is_same_and_alive(process) is None
    with pytest.raises(PermissionError):
        identify(child.pid)
    kill(process)
    assert child.poll() is None


def test_command_line_of_a_process(child: subprocess.Popen[str]) -> None:
    process = identify(child.pid)
    assert process is not None
    assert command_line(process)[1:] == ["-S", "-c", WAITING]
    assert command_line(ProcessIdentity(2**22 + 1, 0.0)) == []


def test_only_the_very_process_is_killed(child: subprocess.Popen[str]) -> None:
    process = identify(child.pid)
    assert process is not None
    earlier = dataclasses.replace(process, create_time=process.create_time - 100, start_ticks=7)
    kill(earlier)
    kill_tree(earlier)
    assert descendants(earlier) == []
    assert child.poll() is None
    kill(process)
    child.wait()


def test_a_tree_is_killed_whole() -> None:
    start_child = f"subprocess.Popen([sys.executable, '-S', '-c', {WAITING!r}])"
    code = f"import subprocess, sys; {start_child}; sys.stdin.read()"
    with started(code) as child:
        process = identify(child.pid)
        assert process is not None
        (grandchild,) = descendants(process)
        kill_tree(process)
        child.wait()
        deadline = time.monotonic() + 60  # it only ends a test that would hang
        while is_same_and_alive(grandchild):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert descendants(process) == []
