from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from backend.config import Choice, RunConfig, Settings
from backend.run.folder import RunFolder, create_run
from backend.run.process import identify
from backend.run.queue import add_to_queue, read_queue
from ui.runs import queue_panel
from ui.runs.queue_panel import QueuePanel
from ui.session import Session


@pytest.fixture
def panel(tmp_path: Path, popups: list[str]) -> QueuePanel:
    parts: dict[str, Any] = {field.name: field.name for field in fields(QueuePanel)}
    return QueuePanel(**{**parts, "runs_dir": tmp_path})


def make_run(runs_dir: Path, label: str) -> RunFolder:
    config = RunConfig(Settings(), {"device": Choice("cpu", "as asked")})
    return create_run(runs_dir, config.to_dict(), label)


@pytest.fixture
def waiting(tmp_path: Path) -> list[str]:
    folders = [make_run(tmp_path, label) for label in "abc"]
    for folder in folders:
        add_to_queue(folder)
    return [folder.run_id for folder in folders]


def test_an_empty_queue_says_what_to_do(panel: QueuePanel) -> None:
    updates = queue_panel.on_tick(panel, Session(), None)
    assert "Add to queue" in updates[panel.note]
    assert updates[panel.waiting]["visible"] is False and updates[panel.buttons]["visible"] is False


def test_waiting_runs_stand_in_order_with_their_device_and_are_drawn_once(
    panel: QueuePanel, waiting: list[str]
) -> None:
    session = Session()
    updates = queue_panel.on_tick(panel, session, None)
    labels = [label for label, _ in updates[panel.waiting]["choices"]]
    assert labels == [f"{place}. {run_id} · cpu" for place, run_id in enumerate(waiting, start=1)]
    assert "is about to start" in updates[panel.note]
    assert queue_panel.on_tick(panel, session, waiting[0]) == {panel.session: session}


def test_the_run_that_is_in_the_way_is_named(panel: QueuePanel, waiting: list[str]) -> None:
    live = make_run(panel.runs_dir, "live")
    live.write_launched(identify(os.getpid()), [])
    assert live.run_id in queue_panel.on_tick(panel, Session(), None)[panel.note]


def test_the_chosen_run_moves_and_stays_chosen(panel: QueuePanel, waiting: list[str]) -> None:
    updates = queue_panel.on_move(panel, -1, Session(), waiting[2])
    assert read_queue(panel.runs_dir) == [waiting[0], waiting[2], waiting[1]]
    assert updates[panel.waiting]["value"] == waiting[2]


def test_a_removed_run_is_chosen_no_more_and_keeps_its_folder(panel: QueuePanel, waiting: list[str]) -> None:
    updates = queue_panel.on_remove(panel, Session(), waiting[0])
    assert read_queue(panel.runs_dir) == waiting[1:] and updates[panel.waiting]["value"] is None
    assert RunFolder(panel.runs_dir / waiting[0]).config_path.is_file()


def test_without_a_choice_nothing_moves(panel: QueuePanel, waiting: list[str]) -> None:
    queue_panel.on_move(panel, 1, Session(), None)
    queue_panel.on_remove(panel, Session(), None)
    assert read_queue(panel.runs_dir) == waiting


def test_a_damaged_queue_is_told_and_no_button_changes_it(panel: QueuePanel, waiting: list[str]) -> None:
    path = panel.runs_dir / "queue.json"
    path.write_text("{")
    for updates in (
        queue_panel.on_tick(panel, Session(), None),
        queue_panel.on_move(panel, 1, Session(), waiting[0]),
        queue_panel.on_remove(panel, Session(), waiting[0]),
    ):
        assert "damaged" in updates[panel.note] and "move it away" in updates[panel.note]
    assert path.read_text() == "{"
