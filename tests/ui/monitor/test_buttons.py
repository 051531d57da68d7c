"""The Monitor's buttons without a browser: what a press changes, and whom it reaches."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from backend.config import Choice, RunConfig, Settings
from backend.run import supervisor
from backend.run.folder import RunFolder, create_run
from backend.run.process import identify
from ui.monitor import buttons as monitor_buttons
from ui.monitor.buttons import RunButtons, draw_buttons
from ui.session import Session


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    config = RunConfig(Settings(), {"device": Choice("cpu", "as asked"), "dataset_path": Choice("/d", "")})
    return create_run(tmp_path / "runs", config.to_dict(), "run")


@pytest.fixture
def buttons(folder: RunFolder, popups: list[str]) -> RunButtons:
    # a component is only what an update is addressed to, so its name serves as well
    parts: dict[str, Any] = {field.name: field.name for field in fields(RunButtons)}
    return RunButtons(**{**parts, "runs_dir": folder.path.parent})


def live(folder: RunFolder) -> None:
    folder.write_launched(identify(os.getpid()), [])


def test_they_show_whom_they_act_on_and_are_drawn_once(buttons: RunButtons, folder: RunFolder) -> None:
    live(folder)
    session = Session(folder.run_id)
    updates = draw_buttons(buttons, session, folder)
    assert updates[buttons.acts_on]["value"] == folder.run_id
    assert updates[buttons.finish]["interactive"] and not updates[buttons.resume]["interactive"]
    assert draw_buttons(buttons, session, folder) == {}
    folder.write_outcome("stopped", "by hand")
    assert updates != (ended := draw_buttons(buttons, session, folder))
    assert not ended[buttons.finish]["interactive"] and ended[buttons.confirm]["visible"] is False


def test_without_a_run_there_is_nothing_to_press(buttons: RunButtons, folder: RunFolder) -> None:
    live(folder)
    session = Session(folder.run_id)
    draw_buttons(buttons, session, folder)
    updates = draw_buttons(buttons, session, None)
    assert updates[buttons.acts_on]["visible"] is False
    pressed = (buttons.finish, buttons.save_now, buttons.preview_now, buttons.resume, buttons.cancel)
    assert not any(updates[button]["interactive"] for button in pressed)


def test_save_now_waits_for_its_answer(buttons: RunButtons, folder: RunFolder, popups: list[str]) -> None:
    live(folder)
    session = Session(folder.run_id)
    updates = monitor_buttons.on_press(buttons, "save_now", session, folder.run_id)
    assert folder.requested("save_now") and "saved after the current step" in popups[0]
    assert updates[buttons.save_now]["value"] == "Saving ..." and not updates[buttons.save_now]["interactive"]
    assert updates[buttons.preview_now]["interactive"]
    folder.clear_request("save_now")
    updates = draw_buttons(buttons, session, folder)
    assert updates[buttons.save_now]["value"] == "Save now" and updates[buttons.save_now]["interactive"]


def test_a_stale_page_is_told_and_its_buttons_are_drawn_for_what_it_watches(
    buttons: RunButtons, folder: RunFolder, popups: list[str]
) -> None:
    """The run that stands in the browser was deleted, and the session went on to another, which lives."""
    live(folder)
    session = Session(folder.run_id)
    updates = monitor_buttons.on_press(buttons, "cancel", session, "a-deleted-run")
    assert "a-deleted-run" in popups[0] and folder.run_id in popups[0]
    assert not folder.requested("stop") and updates[buttons.acts_on]["value"] == folder.run_id


def test_cancel_asks_by_name(buttons: RunButtons, folder: RunFolder) -> None:
    updates = monitor_buttons.on_ask_cancel(buttons, folder.run_id)
    assert folder.run_id in updates[buttons.confirm_text] and updates[buttons.confirm]["visible"]


def test_the_question_stays_when_other_buttons_change_and_goes_once_answered(
    buttons: RunButtons, folder: RunFolder, popups: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "stop", supervisor.request_stop)  # the live process is the test's own
    live(folder)
    session = Session(folder.run_id)
    draw_buttons(buttons, session, folder)
    folder.request("save_now")  # another browser: one more reason to draw the buttons anew
    updates = draw_buttons(buttons, session, folder)
    assert buttons.save_now in updates and buttons.confirm not in updates
    answered = monitor_buttons.on_press(buttons, "cancel", session, folder.run_id)
    assert folder.requested("stop") and answered[buttons.confirm]["visible"] is False
