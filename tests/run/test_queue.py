from __future__ import annotations

import json
import threading
from pathlib import Path

import filelock
import pytest

from backend.errors import UserError
from backend.run import queue
from backend.run.folder import RunFolder, create_run
from backend.run.process import ProcessIdentity
from backend.run.queue import (
    add_to_queue,
    editing_queue,
    is_queued,
    move_in_queue,
    queue_lock,
    read_queue,
    remove_from_queue,
)


@pytest.fixture
def waiting(tmp_path: Path) -> list[str]:
    """Three runs in the queue, by id."""
    folders = [create_run(tmp_path, {}, label) for label in "abc"]
    assert [add_to_queue(folder) for folder in folders] == [1, 2, 3]
    return [folder.run_id for folder in folders]


def test_no_file_is_an_empty_queue(tmp_path: Path) -> None:
    assert read_queue(tmp_path) == []
    assert not (tmp_path / "queue.json").exists()


def test_runs_wait_in_the_order_in_which_they_came(tmp_path: Path, waiting: list[str]) -> None:
    assert read_queue(tmp_path) == waiting
    assert all(is_queued(RunFolder(tmp_path / run_id)) for run_id in waiting)
    assert not is_queued(create_run(tmp_path, {}, "d"))


def test_a_run_waits_once(tmp_path: Path, waiting: list[str]) -> None:
    assert add_to_queue(RunFolder(tmp_path / waiting[1])) == 2
    assert read_queue(tmp_path) == waiting


def test_a_run_that_was_started_does_not_wait_again(tmp_path: Path) -> None:
    launched, ended = create_run(tmp_path, {}, "launched"), create_run(tmp_path, {}, "ended")
    launched.write_launched(ProcessIdentity(1, 2.0), [])
    ended.write_outcome("failed", "no reason")
    for folder in (launched, ended):
        with pytest.raises(UserError, match="started before"):
            add_to_queue(folder)
    trains = create_run(tmp_path, {}, "trains")
    with trains.lock(), pytest.raises(UserError, match="started before"):
        add_to_queue(trains)
    assert read_queue(tmp_path) == []


@pytest.mark.parametrize(
    ("which", "places", "order"),
    [(2, -1, (0, 2, 1)), (0, 1, (1, 0, 2)), (0, -1, (0, 1, 2)), (2, 1, (0, 1, 2)), (2, -9, (2, 0, 1))],
)
def test_order_can_be_changed_within_its_ends(
    tmp_path: Path, waiting: list[str], which: int, places: int, order: tuple[int, ...]
) -> None:
    move_in_queue(tmp_path, waiting[which], places)
    assert read_queue(tmp_path) == [waiting[place] for place in order]


def test_started_run_is_not_moved_in_the_queue(tmp_path: Path, waiting: list[str]) -> None:
    remove_from_queue(tmp_path, waiting[1])
    remove_from_queue(tmp_path, waiting[1])
    move_in_queue(tmp_path, waiting[1], -1)
    assert read_queue(tmp_path) == [waiting[0], waiting[2]]


@pytest.mark.parametrize(
    "content", ['{"run_ids": ["a", ', '{"run_ids": "abc"}', '{"run_ids": [1]}', "[]", ""]
)
def test_damaged_queue_is_reported_and_unchanged(tmp_path: Path, content: str) -> None:
    folder = create_run(tmp_path, {}, "a")
    path = tmp_path / "queue.json"
    path.write_text(content)
    for action in (
        lambda: read_queue(tmp_path),
        lambda: add_to_queue(folder),
        lambda: remove_from_queue(tmp_path, "a"),
    ):
        with pytest.raises(UserError, match=r"queue\.json is damaged.*add its runs again"):
            action()
    assert path.read_text() == content
    assert not is_queued(folder)


def test_what_fails_halfway_changes_nothing(tmp_path: Path, waiting: list[str]) -> None:
    with pytest.raises(ZeroDivisionError), editing_queue(tmp_path) as run_ids:
        run_ids.clear()
        raise ZeroDivisionError
    assert read_queue(tmp_path) == waiting


def test_the_file_says_what_it_is(tmp_path: Path, waiting: list[str]) -> None:
    content = json.loads((tmp_path / "queue.json").read_text(encoding="utf-8"))
    assert content == {"format_version": 1, "run_ids": waiting}


def test_who_waits_too_long_for_the_lock_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "LOCK_WAIT_S", 0.05)
    with filelock.FileLock(tmp_path / "queue.lock"), pytest.raises(UserError, match="another dashboard"):
        add_to_queue(create_run(tmp_path, {}, "a"))


def test_many_that_add_at_once_lose_nobody(tmp_path: Path) -> None:
    folders = [create_run(tmp_path, {}, f"run{number}") for number in range(8)]
    threads = [threading.Thread(target=add_to_queue, args=(folder,)) for folder in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(read_queue(tmp_path)) == sorted(folder.run_id for folder in folders)


def test_the_lock_is_free_again_after_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), queue_lock(tmp_path):
        raise ZeroDivisionError
    with queue_lock(tmp_path):
        pass
