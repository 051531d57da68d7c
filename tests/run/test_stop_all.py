"""All trainings of this computer are asked to save and end, those of other computers are not."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backend.files import write_json_atomic
from backend.run import stop_all as stop_all_module
from backend.run import supervisor
from backend.run.folder import RunFolder, create_run
from backend.run.process import ProcessIdentity
from backend.run.state import RunState, derive_state, is_live
from backend.run.stop_all import longest_wait_s, stop_all
from tests.waiting import wait_for

# A worker that saves when it is asked to stop, as the real one does.
SAVES = """
import sys, time
from pathlib import Path
from backend.run.folder import RunFolder
folder = RunFolder(Path(sys.argv[1]))
with folder.lock():
    print("ready", flush=True)
    while not folder.requested("stop"):
        time.sleep(0.02)
    folder.checkpoint_path("last").parent.mkdir()
    folder.checkpoint_path("last").touch()
    folder.write_outcome("stopped", "asked to")
"""
IGNORES = "print('ready', flush=True)\nimport time\nwhile True: time.sleep(0.02)"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[str], RunFolder]]:
    """Start a worker with this code, and return its run once it works."""

    def start(code: str) -> RunFolder:
        folder = create_run(tmp_path, {}, "run")
        supervisor.launch(folder, argv_prefix=[sys.executable, "-c", code])
        wait_for(lambda: "ready" in folder.read_log_tail(), folder.read_log_tail)
        return folder

    yield start
    for child in list(supervisor._children):
        child.kill()
        child.wait()
    supervisor.reap()


def test_without_a_training_it_returns_at_once(tmp_path: Path) -> None:
    create_run(tmp_path, {}, "waits")
    assert stop_all(tmp_path) == []


def test_each_training_saves_and_ends(
    start: Callable[[str], RunFolder], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    runs = [start(SAVES), start(SAVES)]
    assert {folder.path for folder in stop_all(tmp_path)} == {folder.path for folder in runs}
    for folder in runs:
        assert derive_state(folder) is RunState.STOPPED and not is_live(folder)
    assert caplog.text.count("resume goes on from its checkpoint") == 2


def test_one_that_does_not_obey_is_ended(
    start: Callable[[str], RunFolder], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    folder = start(IGNORES)
    stop_all(tmp_path, save_s=0.1)
    assert not is_live(folder)
    assert "nothing can be resumed" in caplog.text


def test_one_that_is_started_meanwhile_is_stopped_too(
    start: Callable[[str], RunFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = start(SAVES)
    later: list[RunFolder] = []
    stop = supervisor.stop

    def stop_and_start(folder: RunFolder, **options: float) -> threading.Thread:
        if not later:
            later.append(start(SAVES))
        return stop(folder, **options)

    monkeypatch.setattr(supervisor, "stop", stop_and_start)
    stopped = stop_all(tmp_path)
    assert {folder.path for folder in stopped} == {first.path, later[0].path}
    assert not is_live(later[0])


def test_a_training_of_another_computer_goes_on(tmp_path: Path) -> None:
    folder = create_run(tmp_path, {}, "elsewhere")
    folder.write_launched(ProcessIdentity(1, 1.0), [])
    launched = folder.read_launched()
    assert launched is not None
    write_json_atomic(folder.path / "launched.json", {**launched, "host": "elsewhere", "time": time.time()})
    assert is_live(folder)
    assert stop_all(tmp_path) == []
    assert not folder.requested("stop")


def test_it_does_not_wait_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Even a process that the system cannot end does not keep the dashboard from ending."""
    folder = create_run(tmp_path, {}, "stuck")
    supervisor.record_launch(folder)  # this process, which lives
    monkeypatch.setattr(supervisor, "stop", lambda *_, **__: threading.Thread())
    monkeypatch.setattr(stop_all_module, "longest_wait_s", lambda save_s: 0.3)
    assert stop_all(tmp_path) == [folder]
    assert longest_wait_s() >= 60
