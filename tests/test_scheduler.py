from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backend import scheduler
from backend.config import Choice, RunConfig, Settings
from backend.device.machine import Machine
from backend.errors import UserError
from backend.run import supervisor
from backend.run.folder import RunFolder, create_run
from backend.run.process import ProcessIdentity, identify
from backend.run.queue import add_to_queue, read_queue
from backend.run.state import RunState, derive_state
from backend.scheduler import start_scheduler, start_waiting
from tests.waiting import LIMIT_S

REPOSITORY = Path(__file__).resolve().parents[1]


def alone() -> Machine:
    return Machine((), 4, "2.13.0", cpu_bfloat16=False)


def live(folder: RunFolder) -> None:
    """As if it trained: in this process, which lives."""
    folder.write_launched(identify(os.getpid()) or ProcessIdentity(1, 2.0), [])


class Processes:
    """A stand-in for processes: what was launched lives until it is told to end."""

    def __init__(self, runs_dir: Path) -> None:
        self.runs_dir = runs_dir
        self.launched: list[str] = []
        self.live: list[RunFolder] = []
        self.refuse: set[str] = set()

    def launch(self, folder: RunFolder) -> None:
        if folder.run_id in self.refuse:
            raise OSError(12, "Cannot allocate memory")
        self.launched.append(folder.run_id)
        self.add(folder)

    def add(self, folder: RunFolder) -> None:
        live(folder)
        self.live.append(folder)

    def end(self, state: str) -> None:
        """The oldest live run ends, and its process is gone."""
        ended = self.live.pop(0)
        ended.write_launched(ProcessIdentity(2**22 + 1, 1.0), [])
        ended.write_outcome(state, "it was told to")

    def look(self) -> list[str]:
        started = start_waiting(self.runs_dir, query_machine=alone, launch=self.launch)
        return [folder.run_id for folder in started]


@pytest.fixture
def machine(tmp_path: Path) -> Processes:
    return Processes(tmp_path)


def make_run(runs_dir: Path, label: str, device: str | None = "cpu") -> RunFolder:
    """With a config that nobody can read where its device is None."""
    chosen = {"device": Choice(device, "as asked")}
    config = RunConfig(Settings(device=device or "cpu"), chosen).to_dict()
    return create_run(runs_dir, {"format_version": 99} if device is None else config, label)


@pytest.fixture
def queued(tmp_path: Path) -> Callable[..., str]:
    def add(label: str, device: str | None = "cpu") -> str:
        folder = make_run(tmp_path, label, device)
        add_to_queue(folder)
        return folder.run_id

    return add


def test_one_run_starts_at_a_time_on_a_device_in_order(
    machine: Processes, queued: Callable[..., str]
) -> None:
    first, second = queued("first"), queued("second")
    assert derive_state(RunFolder(machine.runs_dir / first)) is RunState.QUEUED
    assert machine.look() == [first]
    assert machine.look() == [] and read_queue(machine.runs_dir) == [second]
    machine.end("completed")
    assert machine.look() == [second]
    assert read_queue(machine.runs_dir) == []


@pytest.mark.parametrize("state", ["failed", "diverged", "out_of_memory", "stopped", "finished_early"])
def test_it_goes_on_however_a_run_ended(machine: Processes, queued: Callable[..., str], state: str) -> None:
    first, second = queued("first"), queued("second")
    machine.look()
    machine.end(state)
    assert machine.look() == [second] and machine.launched == [first, second]


def test_each_device_has_its_own_turn(machine: Processes, queued: Callable[..., str]) -> None:
    on_cpu, also_on_cpu, on_gpu = queued("a"), queued("b"), queued("c", "cuda:0")
    assert machine.look() == [on_cpu, on_gpu]
    assert read_queue(machine.runs_dir) == [also_on_cpu]


def test_a_run_that_was_started_elsewhere_keeps_the_device_busy(
    machine: Processes, queued: Callable[..., str]
) -> None:
    queued("waits")
    machine.add(make_run(machine.runs_dir, "of-train-py"))
    assert machine.look() == []
    machine.end("completed")
    assert len(machine.look()) == 1


def test_a_run_whose_lock_is_held_keeps_the_device_busy_whatever_is_recorded(
    machine: Processes, queued: Callable[..., str]
) -> None:
    queued("waits")
    other = make_run(machine.runs_dir, "trains")
    other.write_launched(ProcessIdentity(2**22 + 1, 1.0), [])
    with other.lock():
        assert start_waiting(machine.runs_dir, query_machine=alone, launch=machine.launch) == []
    assert len(start_waiting(machine.runs_dir, query_machine=alone, launch=machine.launch)) == 1


def test_a_waiting_run_that_somebody_trains_leaves_the_queue_and_holds_no_other(
    machine: Processes, queued: Callable[..., str]
) -> None:
    first, second = queued("first"), queued("second", "cuda:0")
    with RunFolder(machine.runs_dir / first).lock():
        started = start_waiting(machine.runs_dir, query_machine=alone, launch=machine.launch)
        assert [folder.run_id for folder in started] == [second]
    assert machine.launched == [second] and read_queue(machine.runs_dir) == []


def test_after_a_restart_the_same_run_is_next(machine: Processes, queued: Callable[..., str]) -> None:
    first, second = queued("first"), queued("second")
    machine.look()
    machine.end("completed")
    restarted = Processes(machine.runs_dir)
    assert restarted.look() == [second] and machine.launched == [first]


def test_a_kill_between_launch_and_queue_starts_nothing_twice(
    machine: Processes, queued: Callable[..., str]
) -> None:
    first, second = queued("first"), queued("second")
    RunFolder(machine.runs_dir / first).write_launched(
        ProcessIdentity(1, 2.0), []
    )  # and then the dashboard was killed
    assert machine.look() == [second]
    assert first not in machine.launched and read_queue(machine.runs_dir) == []


def test_a_removed_folder_leaves_the_queue(machine: Processes, queued: Callable[..., str]) -> None:
    gone, second = queued("gone"), queued("second")
    folder = RunFolder(machine.runs_dir / gone)
    folder.config_path.unlink()
    folder.path.rmdir()
    assert machine.look() == [second] and read_queue(machine.runs_dir) == []
    assert not folder.path.exists()


def test_what_the_system_refuses_to_start_has_failed_and_the_next_is_tried(
    machine: Processes, queued: Callable[..., str]
) -> None:
    first, second = queued("first"), queued("second")
    machine.refuse.add(first)
    assert machine.look() == [second]
    outcome = RunFolder(machine.runs_dir / first).read_outcome()
    assert outcome is not None and outcome["state"] == "failed"
    assert "could not be started" in outcome["reason"] and "memory" in outcome["reason"]


def test_a_config_that_nobody_can_read_does_not_hold_the_others(
    machine: Processes, queued: Callable[..., str]
) -> None:
    unreadable, second = queued("unreadable", None), queued("second")
    assert machine.look() == [unreadable, second]  # its worker says what is wrong with it


def test_a_damaged_queue_starts_nothing_and_is_told(machine: Processes, queued: Callable[..., str]) -> None:
    queued("first")
    (machine.runs_dir / "queue.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        machine.look()
    assert machine.launched == [] and (machine.runs_dir / "queue.json").read_text() == "{"


def test_two_dashboards_that_look_at_once_start_each_run_once(
    tmp_path: Path, queued: Callable[..., str]
) -> None:
    """Two processes race for six runs on six devices; what each launched it writes down."""
    run_ids = [queued(f"run{number}", f"cuda:{number}") for number in range(6)]
    code = """
import sys, time
from pathlib import Path
from backend.device.machine import Machine
from backend.run.process import ProcessIdentity
from backend.scheduler import start_waiting
runs_dir, mine = Path(sys.argv[1]), Path(sys.argv[2])
def launch(folder):
    time.sleep(0.02)
    with mine.open("a") as file:
        print(folder.run_id, file=file, flush=True)
    folder.write_launched(ProcessIdentity(1, 2.0), [])
print("ready", flush=True)
sys.stdin.readline()
start_waiting(runs_dir, query_machine=lambda: Machine((), 4, "2.13.0", cpu_bfloat16=False), launch=launch)
"""
    files = [tmp_path / "one.txt", tmp_path / "two.txt"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), str(file)],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for file in files
    ]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.close()
    for process in processes:
        assert process.wait(LIMIT_S) == 0
        assert process.stdout is not None
        process.stdout.close()
    launched = [line for file in files if file.exists() for line in file.read_text().split()]
    assert sorted(launched) == sorted(run_ids)
    assert read_queue(tmp_path) == []


@pytest.fixture
def _no_children_are_left() -> Iterator[None]:
    yield
    for child in list(supervisor._children):
        child.kill()
        child.wait()
    supervisor.reap()


@pytest.mark.usefixtures("_no_children_are_left")
def test_the_thread_starts_a_real_process_and_tells_a_mistake_once(
    tmp_path: Path,
    queued: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    looked = threading.Event()
    launched = threading.Event()
    looks = 0

    def start(runs_dir: Path, is_ending: Callable[[], bool]) -> list[RunFolder]:
        nonlocal looks
        looks += 1
        if looks <= 2:  # twice the same mistake, then all is well
            raise UserError("the queue is damaged")
        looked.set()
        found = start_waiting(runs_dir, query_machine=alone, launch=launch, is_ending=is_ending)
        if found:
            launched.set()
        return found

    def launch(folder: RunFolder) -> None:
        supervisor.launch(folder, argv_prefix=[sys.executable, "-c", "import time; time.sleep(6000)"])

    monkeypatch.setattr(scheduler, "start_waiting", start)
    first, second = queued("first"), queued("second")
    waiting = start_scheduler(tmp_path, poll_s=0.01)
    assert launched.wait(LIMIT_S)
    waiting.end()
    assert not waiting.thread.is_alive()
    assert looked.is_set()
    assert derive_state(RunFolder(tmp_path / first)) is RunState.RUNNING
    assert derive_state(RunFolder(tmp_path / second)) is RunState.QUEUED
    assert caplog.text.count("the queue is damaged") == 1


def test_nothing_is_started_once_the_dashboard_ends(tmp_path: Path) -> None:
    """The answer of torch may take seconds, in which the dashboard is asked to end."""
    folder = create_run(tmp_path, {}, "waits")
    add_to_queue(folder)
    processes = Processes(tmp_path)
    assert start_waiting(tmp_path, query_machine=alone, launch=processes.launch, is_ending=lambda: True) == []
    assert not processes.launched and read_queue(tmp_path) == [folder.run_id]
