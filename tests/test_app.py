"""The dashboard as a program: its port, Gradio's variables, `/healthz`, and how it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import app
from backend.run import supervisor
from backend.run.folder import RunFolder
from backend.run.state import RunState, derive_state, is_live, is_resumable
from tests.dashboard import DIRECTLY, REPOSITORY, Dashboard
from tests.waiting import LIMIT_S, wait_for

only_posix = pytest.mark.skipif(os.name == "nt", reason="Windows ends a program without asking it")


@pytest.mark.parametrize(("is_container", "decision"), [(True, "stop"), (False, "keep")])
def test_trainings_are_stopped_where_they_would_be_killed(
    is_container: bool, decision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "is_container", lambda: is_container)
    assert app._decide_on_exit(None)[0] == decision
    assert [app._decide_on_exit(chosen) for chosen in ("keep", "stop")] == [("keep", ""), ("stop", "")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variable", "value"), [("GRADIO_SERVER_PORT", "none"), ("GRADIO_SERVER_NAME", "192.0.2.1")]
)
def test_a_wrong_variable_is_one_line(variable: str, value: str, tmp_path: Path, tiny_dataset: Path) -> None:
    command = [sys.executable, "app.py", "--runs_dir", str(tmp_path), "--data_root", str(tiny_dataset.parent)]
    done = subprocess.run(
        command, cwd=REPOSITORY, env={**os.environ, variable: value}, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1


@pytest.fixture
def dashboard(tmp_path: Path, tiny_dataset: Path) -> Iterator[Dashboard]:
    """A dashboard that the test starts over the tiny data set."""
    dashboard = Dashboard(tmp_path, tiny_dataset)
    dashboard.lay()
    yield dashboard
    dashboard.kill()
    dashboard.kill_workers()


@only_posix
@pytest.mark.slow
def test_a_busy_port_variables_and_a_clean_end(
    dashboard: Dashboard, tmp_path: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second dashboard takes the next free port, and says so; flags win over Gradio's variables."""
    dashboard.start()
    monkeypatch.setenv("GRADIO_SERVER_PORT", "1")
    monkeypatch.setenv("GRADIO_ROOT_PATH", "/fiducial")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")  # at which nobody answers
    (tmp_path / "second").mkdir()
    second = Dashboard(tmp_path / "second", tiny_dataset)
    second.lay()
    first_port, second.port = dashboard.port, dashboard.port
    try:
        second.start("--on_exit", "keep")
        words = wait_for(lambda: second.words() if "Fiducial on" in second.words() else "", second.words)
        assert f"port {first_port} is busy: taking " in words
        port = int(words.partition(f"port {first_port} is busy: taking ")[2].partition(",")[0])
        assert port > first_port and f"Fiducial on http://127.0.0.1:{port}\n" in words
        for path in ("/healthz", "/fiducial/healthz"):
            with DIRECTLY.open(f"http://127.0.0.1:{port}{path}", timeout=LIMIT_S) as answer:
                assert (answer.status, answer.read()) == (200, b"ok")
        code, words = second.end()
        assert code == 0 and "Traceback" not in words
    finally:
        second.kill()


@pytest.fixture
def training(dashboard: Dashboard) -> RunFolder:
    """A small training that goes on after its first epoch."""
    folder = dashboard.begin_training()
    psutil.Process(pid_of(folder)).resume()
    return folder


@only_posix
@pytest.mark.slow
def test_a_training_is_kept(dashboard: Dashboard, training: RunFolder) -> None:
    dashboard.start("--on_exit", "keep")
    code, words = dashboard.end()
    assert code == 0 and "trainings continue" in words
    assert derive_state(training) is RunState.RUNNING and is_live(training)


@only_posix
@pytest.mark.slow
def test_a_training_saves_and_ends_and_can_be_resumed(dashboard: Dashboard, training: RunFolder) -> None:
    dashboard.start("--on_exit", "stop")
    code, words = dashboard.end()
    assert code == 0 and "Traceback" not in words
    assert f"{training.run_id}: asked to save and end" in words
    assert f"{training.run_id}: stopped; resume goes on from its checkpoint" in words
    assert derive_state(training) is RunState.STOPPED and is_resumable(training)
    before = [row["epoch"] for row in training.read_metrics()[0]]
    supervisor.resume(training)
    wait_for(lambda: len(training.read_metrics()[0]) > len(before), training.read_log_tail)
    supervisor.request_finish(training)
    wait_for(lambda: not is_live(training), training.read_log_tail)
    wait_for(lambda: supervisor.reap() or not supervisor._children)
    assert derive_state(training) is RunState.FINISHED_EARLY
    assert training.read_metrics()[0][len(before)]["epoch"] == before[-1] + 1


def pid_of(folder: RunFolder) -> int:
    launched = folder.read_launched()
    assert launched is not None
    return int(launched["pid"])
