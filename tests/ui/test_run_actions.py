"""Which button can be pressed in which state, and that a press reaches the shown run and no other."""

from __future__ import annotations

import os
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import pytest

from backend.config import Choice, RunConfig, Settings
from backend.device.machine import Machine
from backend.errors import UserError
from backend.run import supervisor
from backend.run.folder import RunFolder, create_run
from backend.run.process import identify
from backend.run.state import LIVE_STATES, RunState, is_live
from ui import run_actions
from ui.run_actions import Action, perform, what_is_possible

ENDED = {
    RunState.INTERRUPTED,
    RunState.FINISHED_EARLY,
    RunState.STOPPED,
    RunState.OUT_OF_MEMORY,
    RunState.DIVERGED,
    RunState.FAILED,
}
ACTIONS: tuple[Action, ...] = ("finish", "save_now", "preview_now", "resume", "cancel")


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    config = RunConfig(
        Settings(), {"device": Choice("cpu", "as asked"), "dataset_path": Choice(str(tmp_path), "")}
    )
    return create_run(tmp_path / "runs", config.to_dict(), "run")


def live(folder: RunFolder) -> None:
    folder.write_launched(identify(os.getpid()), [])


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (RunState.CREATED, {"queue", "delete"}),
        (RunState.QUEUED, {"unqueue", "delete"}),
        (RunState.RUNNING, {"finish", "save_now", "preview_now", "cancel", "bundle"}),
        (RunState.STOPPING, {"cancel", "bundle"}),
        (RunState.COMPLETED, {"bundle", "delete"}),
        *((state, {"resume", "bundle", "delete"}) for state in sorted(ENDED)),
    ],
)
def test_buttons_are_a_function_of_the_state(state: RunState, expected: set[str]) -> None:
    has_begun = state not in (RunState.CREATED, RunState.QUEUED)
    possible = what_is_possible(state, is_live=state in LIVE_STATES, has_last=has_begun, has_any=has_begun)
    assert {name for name, can in asdict(possible).items() if can} == expected


@pytest.mark.parametrize("state", list(RunState))
def test_while_its_process_is_there_a_run_is_neither_resumed_nor_deleted(state: RunState) -> None:
    possible = what_is_possible(state, is_live=True, has_last=True, has_any=True)
    assert not possible.resume and not possible.delete


def test_nothing_to_resume_or_to_hand_on_without_a_checkpoint() -> None:
    possible = what_is_possible(RunState.STOPPED, is_live=False, has_last=False, has_any=False)
    assert not possible.resume and not possible.bundle and possible.delete


def test_a_run_that_patience_ended_is_resumed_with_a_larger_one_alone() -> None:
    possible = what_is_possible(
        RunState.FINISHED_EARLY, is_live=False, has_last=True, has_any=True, ended_by_patience=True
    )
    assert possible.resume_with_patience and not possible.resume


def test_what_waits_for_its_answer_is_not_asked_again() -> None:
    possible = what_is_possible(
        RunState.RUNNING, is_live=True, has_last=True, has_any=True, requests=["save_now"]
    )
    assert not possible.save_now and possible.preview_now and possible.finish


@pytest.mark.parametrize("action", ["finish", "save_now", "preview_now"])
def test_a_press_is_a_request_in_the_run_folder(folder: RunFolder, action: Any) -> None:
    live(folder)
    assert perform(action, folder.path.parent, folder.run_id, folder.run_id)
    assert folder.requested(action)
    if action != "finish":
        with pytest.raises(UserError, match="not possible"):
            perform(action, folder.path.parent, folder.run_id, folder.run_id)


def test_cancel_asks_the_process_of_the_shown_run(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: list[RunFolder] = []
    monkeypatch.setattr(supervisor, "stop", stopped.append)
    live(folder)
    perform("cancel", folder.path.parent, folder.run_id, folder.run_id)
    assert stopped == [folder]


@pytest.mark.parametrize("action", ACTIONS)
def test_a_stale_page_acts_on_no_other_run(folder: RunFolder, action: Action) -> None:
    """The browser shows another run than the page watches by now."""
    live(folder)
    for shown, watched in (("an-older-run", folder.run_id), (folder.run_id, "another-run"), ("", None)):
        with pytest.raises(UserError, match="Nothing was done"):
            perform(action, folder.path.parent, shown, watched)
    assert not any(folder.requested(kind) for kind in ("finish", "stop", "save_now", "preview_now"))


@pytest.mark.parametrize("action", ["finish", "save_now", "preview_now", "cancel"])
def test_a_run_that_has_ended_is_left_alone_and_that_is_said(folder: RunFolder, action: Action) -> None:
    folder.write_outcome("completed", "done")
    with pytest.raises(UserError, match="is completed now"):
        perform(action, folder.path.parent, folder.run_id, folder.run_id)
    assert not any(folder.requested(kind) for kind in ("finish", "stop", "save_now", "preview_now"))


def test_of_two_clicks_on_resume_one_starts_a_process(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clicks come at once, from two browsers; the process only waits."""
    monkeypatch.setattr(run_actions, "query_machine", lambda: Machine((), 2, "2.13.0", cpu_bfloat16=False))
    sleeps = [sys.executable, "-c", "import time; time.sleep(600)"]
    resume = supervisor.resume
    monkeypatch.setattr(
        run_actions.supervisor, "resume", lambda run, changes: resume(run, changes, argv_prefix=sleeps)
    )
    last = folder.checkpoint_path("last")
    last.parent.mkdir()
    last.touch()
    folder.write_outcome("stopped", "by hand")
    messages: list[str] = []
    barrier = threading.Barrier(2)

    def click() -> None:
        barrier.wait()
        try:
            messages.append(perform("resume", folder.path.parent, folder.run_id, folder.run_id))
        except UserError as error:
            messages.append(f"refused: {error}")

    clicks = [threading.Thread(target=click) for _ in range(2)]
    for thread in clicks:
        thread.start()
    for thread in clicks:
        thread.join()
    launched = folder.read_launched()
    assert launched is not None and is_live(folder)
    psutil.Process(launched["pid"]).kill()
    assert sorted(text.startswith("refused") for text in messages) == [False, True]
    assert (folder.path / "outcome.1.json").exists() and not (folder.path / "outcome.2.json").exists()
