from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from backend.run.folder import RunFolder, create_run
from backend.run.queue import add_to_queue
from backend.run.state import (
    FINAL_STATES,
    HEARTBEAT_LIMIT_S,
    LIVE_STATES,
    RunState,
    derive_state,
    is_alive,
    is_live,
    is_resumable,
)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return create_run(tmp_path, {}, "run")


def alive(launched: dict[str, Any], now: float, heartbeat: float | None) -> bool:
    return True


def dead(launched: dict[str, Any], now: float, heartbeat: float | None) -> bool:
    return False


def of_this_process(**changes: Any) -> dict[str, Any]:
    launched = {
        "pid": os.getpid(),
        "create_time": psutil.Process().create_time(),
        "argv": [],
        "host": socket.gethostname(),
        "time": 1000.0,
    }
    return {**launched, **changes}


def test_state_follows_the_life_of_a_run(folder: RunFolder) -> None:
    assert derive_state(folder, 0.0, alive) is RunState.CREATED
    add_to_queue(folder)
    assert derive_state(folder, 0.0, alive) is RunState.QUEUED
    folder.write_launched(1, 2.0, ["python"])  # what was started waits no more, whatever the queue says
    assert derive_state(folder, 0.0, alive) is RunState.RUNNING
    folder.request("save_now")
    assert derive_state(folder, 0.0, alive) is RunState.RUNNING
    folder.request("finish")
    assert derive_state(folder, 0.0, alive) is RunState.STOPPING
    folder.clear_requests()
    folder.request("stop")
    assert derive_state(folder, 0.0, alive) is RunState.STOPPING
    assert derive_state(folder, 0.0, dead) is RunState.STOPPED  # killed, because it did not answer
    folder.write_outcome("stopped", "asked to")
    assert derive_state(folder, 0.0, dead) is RunState.STOPPED
    assert derive_state(folder, 0.0, alive) is RunState.STOPPED
    folder.set_outcome_aside()
    folder.clear_requests()  # as every launch does
    assert derive_state(folder, 0.0, dead) is RunState.INTERRUPTED


@pytest.mark.parametrize("state", sorted(FINAL_STATES))
def test_every_final_state_is_an_outcome(folder: RunFolder, state: RunState) -> None:
    folder.write_outcome(state, "why")
    assert derive_state(folder, 0.0, dead) is state


@pytest.mark.parametrize("state", ["running", "something of a later version", None, ["odd"]])
def test_outcome_that_is_none_reads_as_failed(folder: RunFolder, state: Any) -> None:
    folder.write_outcome(state, "why")
    assert derive_state(folder, 0.0, dead) is RunState.FAILED


def test_live_and_final_states_do_not_meet() -> None:
    rest = set(RunState) - LIVE_STATES - FINAL_STATES
    assert not LIVE_STATES & FINAL_STATES
    assert rest == {RunState.CREATED, RunState.QUEUED, RunState.INTERRUPTED}


def test_outcome_written_between_two_looks_is_no_interruption(folder: RunFolder) -> None:
    folder.write_launched(1, 2.0, [])

    def ends_meanwhile(launched: dict[str, Any], now: float, heartbeat: float | None) -> bool:
        folder.write_outcome("completed", "all epochs")
        return False

    assert derive_state(folder, 0.0, ends_meanwhile) is RunState.COMPLETED


def test_process_may_outlast_its_outcome(folder: RunFolder) -> None:
    folder.checkpoint_path("last").parent.mkdir()
    folder.checkpoint_path("last").touch()
    folder.write_launched(os.getpid(), psutil.Process().create_time(), [])
    folder.write_outcome("completed", "all epochs")
    assert derive_state(folder) is RunState.COMPLETED
    assert is_live(folder)
    assert not is_resumable(folder)


def test_resumable_needs_a_last_checkpoint_and_no_process(folder: RunFolder) -> None:
    folder.write_launched(1, 2.0, [])
    assert not is_resumable(folder, 0.0, dead)
    folder.checkpoint_path("last").parent.mkdir()
    folder.checkpoint_path("last").touch()
    assert is_resumable(folder, 0.0, dead)
    assert not is_resumable(folder, 0.0, alive)


def test_alive_test_is_given_the_heartbeat(folder: RunFolder) -> None:
    seen: list[tuple[int, float, float | None]] = []

    def note(launched: dict[str, Any], now: float, heartbeat: float | None) -> bool:
        seen.append((launched["pid"], now, heartbeat))
        return True

    folder.write_launched(12, 2.0, [])
    is_live(folder, 5.0, note)
    folder.write_status({})
    is_live(folder, 5.0, note)
    assert seen[0] == (12, 5.0, None)
    assert seen[1][2] == pytest.approx(time.time(), abs=3600)


def test_this_process_is_alive() -> None:
    assert is_alive(of_this_process(), 0.0, None)


def test_reused_pid_is_not_alive() -> None:
    create_time = psutil.Process().create_time()
    assert not is_alive(of_this_process(create_time=create_time - 30), 0.0, 0.0)


@pytest.mark.parametrize(
    "changes", [{"pid": None}, {"pid": -1}, {"pid": "7"}, {"create_time": None}, {"pid": 2**31 - 1}]
)
def test_record_without_a_process_is_not_alive(changes: dict[str, Any]) -> None:
    assert not is_alive(of_this_process(**changes), 0.0, 0.0)
    assert not is_alive({}, 0.0, None)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no zombies")
def test_zombie_is_not_alive() -> None:
    with subprocess.Popen(
        [sys.executable, "-S", "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE
    ) as child:
        process = psutil.Process(child.pid)
        launched = of_this_process(pid=child.pid, create_time=process.create_time())
        assert is_alive(launched, 0.0, None)
        assert child.stdin is not None
        child.stdin.close()  # the child meets the end of its input and ends
        while process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        assert not is_alive(launched, 0.0, None)
    assert not is_alive(launched, 0.0, None)


def test_other_host_lives_by_its_heartbeat() -> None:
    launched = of_this_process(host="elsewhere", time=1000.0)
    assert is_alive(launched, 1010.0, None)  # it has only just started
    assert not is_alive(launched, 1000.0 + HEARTBEAT_LIMIT_S, None)
    assert is_alive(launched, 5000.0, 4990.0)
    assert not is_alive(launched, 5000.0, 5000.0 - HEARTBEAT_LIMIT_S)


def test_process_that_cannot_be_read_lives_by_its_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    launched = of_this_process()

    def denied(pid: int) -> psutil.Process:
        raise psutil.AccessDenied(pid)

    monkeypatch.setattr(psutil, "Process", denied)
    assert is_alive(launched, 5000.0, 4990.0)
    assert not is_alive(launched, 5000.0, 4000.0)
