from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import filelock
import psutil
import pytest

from backend import files
from backend.files import is_lock_held, write_json_atomic
from backend.run.folder import RunFolder, create_run, list_runs
from backend.run.process import ProcessIdentity, identify
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
    live_runs,
    local_process,
)
from tests.waiting import wait_for


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
    folder.write_launched(ProcessIdentity(1, 2.0), ["python"])  # what was started waits no more
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
    folder.archive_outcome()
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
    folder.write_launched(ProcessIdentity(1, 2.0), [])

    def ends_meanwhile(launched: dict[str, Any], now: float, heartbeat: float | None) -> bool:
        folder.write_outcome("completed", "all epochs")
        return False

    assert derive_state(folder, 0.0, ends_meanwhile) is RunState.COMPLETED


def test_process_may_outlast_its_outcome(folder: RunFolder) -> None:
    folder.checkpoint_path("last").parent.mkdir()
    folder.checkpoint_path("last").touch()
    folder.write_launched(identify(os.getpid()), [])
    folder.write_outcome("completed", "all epochs")
    assert derive_state(folder) is RunState.COMPLETED
    assert is_live(folder)
    assert not is_resumable(folder)


def test_resumable_needs_a_last_checkpoint_and_no_process(folder: RunFolder) -> None:
    folder.write_launched(ProcessIdentity(1, 2.0), [])
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

    folder.write_launched(ProcessIdentity(12, 2.0), [])
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
        wait_for(lambda: process.status() == psutil.STATUS_ZOMBIE)
        assert not is_alive(launched, 0.0, None)
    assert not is_alive(launched, 0.0, None)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the create time does not follow the clock")
@pytest.mark.parametrize("step_s", [2, -2, 3600, -3600])
def test_a_step_of_the_clock_does_not_interrupt_a_living_run(folder: RunFolder, step_s: int) -> None:
    process = identify(os.getpid())
    folder.write_launched(replace(process, create_time=process.create_time + step_s), [])
    assert derive_state(folder) is RunState.RUNNING
    assert is_live(folder) and local_process(folder).pid == os.getpid()


def test_a_run_of_an_earlier_boot_is_interrupted(folder: RunFolder) -> None:
    process = identify(os.getpid())
    folder.write_launched(replace(process, boot_id="earlier", start_ticks=process.start_ticks or 1), [])
    assert derive_state(folder) is (RunState.INTERRUPTED if process.boot_id else RunState.RUNNING)


def record_of_the_version_before(folder: RunFolder, argv: list[str]) -> None:
    """Made without ticks, boot id and folder."""
    write_json_atomic(folder.path / "launched.json", of_this_process(argv=argv))


def test_a_living_run_that_the_version_before_launched_is_running(folder: RunFolder) -> None:
    record_of_the_version_before(folder, ["python", "-m", "backend.worker", str(folder.path)])
    assert derive_state(folder) is RunState.RUNNING
    assert local_process(folder) == ProcessIdentity(os.getpid(), psutil.Process().create_time())
    copy = RunFolder(folder.path.with_name("copy"))
    shutil.copytree(folder.path, copy.path)
    assert derive_state(copy) is RunState.INTERRUPTED and local_process(copy) is None


def test_running_train_py_of_an_older_version_is_found_by_its_lock(folder: RunFolder) -> None:
    record_of_the_version_before(folder, ["python", "train.py", "--epochs", "5"])
    with folder.lock():
        assert derive_state(folder) is RunState.RUNNING
        assert local_process(folder) is not None


ENDED = {"pid": 2**22 + 1, "create_time": 1.0, "argv": [], "host": socket.gethostname(), "time": 1.0}


@pytest.mark.parametrize(
    "launched",
    [None, {}, ENDED, {**ENDED, "host": "elsewhere"}, {**ENDED, "boot_id": "earlier", "start_ticks": 1}],
)
def test_held_lock_means_running(folder: RunFolder, launched: dict[str, Any] | None) -> None:
    if launched is not None:
        write_json_atomic(folder.path / "launched.json", launched)
    folder.checkpoint_path("last").parent.mkdir()
    folder.checkpoint_path("last").touch()
    with folder.lock():
        assert is_live(folder) and live_runs(folder.path.parent) == [folder]
        assert not is_resumable(folder)
        assert derive_state(folder) is RunState.RUNNING
        folder.request("stop")
        assert derive_state(folder) is RunState.STOPPING
        assert local_process(folder) is None  # there is somebody, but nobody to signal
        folder.write_outcome("stopped", "asked to")
        assert derive_state(folder) is RunState.STOPPED and is_live(folder)
    assert not is_live(folder) and is_resumable(folder)


def test_asking_for_the_lock_makes_no_file(folder: RunFolder) -> None:
    before = sorted(folder.path.iterdir())
    assert not folder.is_locked() and not is_live(folder) and not folder.was_started()
    assert derive_state(folder) is RunState.CREATED
    assert live_runs(folder.path.parent) == []
    assert sorted(folder.path.iterdir()) == before


def test_the_lock_is_not_asked_where_the_process_is_known(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write_launched(identify(os.getpid()), [])
    monkeypatch.setattr(RunFolder, "is_locked", lambda _: pytest.fail("a worker may be about to take it"))
    assert is_live(folder) and local_process(folder) is not None
    assert derive_state(folder) is RunState.RUNNING


def test_concurrent_lock_checks_do_not_see_each_other(folder: RunFolder) -> None:
    with folder.lock():
        pass
    answers: list[bool] = []
    barrier = threading.Barrier(4)

    def ask() -> None:
        barrier.wait()
        answers.extend(folder.is_locked() for _ in range(300))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 1200 and not any(answers)


def test_lock_checks_do_not_block_a_worker(folder: RunFolder) -> None:
    with folder.lock():
        pass
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            folder.is_locked()

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            with folder.lock().acquire(timeout=60):  # as the worker does, which waits for some seconds
                assert folder.is_locked()
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such permissions")
def test_lock_is_found_in_a_read_only_folder(folder: RunFolder) -> None:
    with folder.lock():
        (folder.path / "run.lock").chmod(0o444)
        folder.path.chmod(0o555)
        try:
            assert is_live(folder)
        finally:
            folder.path.chmod(0o755)
    assert not is_live(folder)


@pytest.mark.skipif(sys.platform == "win32", reason="flock is POSIX's")
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EIO])
def test_where_the_file_system_cannot_lock_the_record_decides(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, "no locks on this network file system")

    with folder.lock():
        pass
    monkeypatch.setattr("fcntl.flock", fail)
    folder.write_launched(ProcessIdentity(2**22 + 1, 1.0), [])
    assert derive_state(folder) is RunState.INTERRUPTED
    folder.write_launched(identify(os.getpid()), [])
    assert derive_state(folder) is RunState.RUNNING


def test_the_lock_as_it_is_asked_for_on_windows(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_is_free", files._is_free_after_retries)
    path = folder.path / "run.lock"
    assert not is_lock_held(path)
    with folder.lock():
        assert is_lock_held(path)
    if not path.exists():  # Windows deletes it
        path.touch()
    assert not is_lock_held(path)
    with path.open("rb") as file:  # somebody else asks at this instant
        assert filelock.lock_descriptor(file.fileno(), blocking=False)
        monkeypatch.setattr(time, "sleep", lambda _: filelock.unlock_descriptor(file.fileno()))
        assert not is_lock_held(path)


def copied(folder: RunFolder) -> RunFolder:
    copy = folder.path.with_name("copy")
    shutil.copytree(folder.path, copy)
    return RunFolder(copy)


def linked(folder: RunFolder) -> RunFolder:
    link = folder.path.with_name("link")
    link.symlink_to(folder.path, target_is_directory=True)
    return RunFolder(link)


def through_another_path(folder: RunFolder) -> RunFolder:
    return RunFolder(folder.path.parent / ".." / folder.path.parent.name / folder.run_id)


def renamed(folder: RunFolder) -> RunFolder:
    return RunFolder(folder.path.rename(folder.path.with_name("renamed")))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows renames no folder in which a file is open")
@pytest.mark.parametrize(
    ("reach", "lives"), [(copied, False), (linked, True), (through_another_path, True), (renamed, True)]
)
def test_copy_of_a_running_folder_is_not_running(
    folder: RunFolder, reach: Callable[[RunFolder], RunFolder], lives: bool
) -> None:
    folder.write_launched(identify(os.getpid()), [])
    with folder.lock():
        reached = reach(folder)
        assert is_live(reached) is lives
        assert (local_process(reached) is not None) is lives
        assert derive_state(reached) is (RunState.RUNNING if lives else RunState.INTERRUPTED)
        if folder.path.exists():
            assert is_live(folder)
    assert is_live(reached) is (lives and reach is not renamed)  # it has let go of the lock, as at its end


@pytest.mark.skipif(sys.platform == "win32", reason="Windows copies no file that is locked")
def test_hard_linked_copy_has_no_process_to_signal(folder: RunFolder) -> None:
    """`cp -al`: the lock that is held in the copy is the original's."""
    folder.write_launched(identify(os.getpid()), [])
    copy = RunFolder(folder.path.with_name("copy"))
    with folder.lock():
        shutil.copytree(folder.path, copy.path, copy_function=os.link)
        assert local_process(copy) is None and local_process(folder) is not None


@pytest.mark.skipif(sys.platform == "win32", reason="Windows renames no folder in which a file is open")
def test_copy_at_the_launched_path_of_a_renamed_run_is_running(folder: RunFolder) -> None:
    folder.write_launched(identify(os.getpid()), [])
    with folder.lock():
        moved = renamed(folder)
        shutil.copytree(moved.path, folder.path)
        assert is_live(moved) and is_live(folder)  # neither is lost
        assert local_process(folder) is not None and local_process(moved) is None


def test_folder_names_of_another_host_are_not_compared(folder: RunFolder) -> None:
    row = of_this_process(host="elsewhere", time=time.time(), folder="/mnt/there/run")
    write_json_atomic(folder.path / "launched.json", row)
    assert is_live(folder)


def test_listing_many_runs_opens_no_lock_that_nobody_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(200):
        create_run(tmp_path, {}, f"run{number}")
    monkeypatch.setattr(files, "_is_free", lambda _: pytest.fail("no run started, so no run has a lock"))
    assert {derive_state(folder) for folder in list_runs(tmp_path)} == {RunState.CREATED}
    assert live_runs(tmp_path) == [] and not list(tmp_path.glob("*/run.lock"))


def test_other_host_lives_by_its_heartbeat() -> None:
    launched = of_this_process(host="elsewhere", time=1000.0)
    assert is_alive(launched, 1010.0, None)  # it has only just started
    assert not is_alive(launched, 1000.0 + HEARTBEAT_LIMIT_S, None)
    assert is_alive(launched, 5000.0, 4990.0)
    assert not is_alive(launched, 5000.0, 5000.0 - HEARTBEAT_LIMIT_S)


def test_process_that_cannot_be_read_lives_by_its_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    launched = of_this_process()
    monkeypatch.setattr("backend.run.state.is_same_and_alive", lambda process: None)
    assert is_alive(launched, 5000.0, 4990.0)
    assert not is_alive(launched, 5000.0, 4000.0)
