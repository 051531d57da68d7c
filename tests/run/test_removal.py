from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from backend.errors import UserError
from backend.run.folder import RunFolder, create_run, list_runs
from backend.run.process import ProcessIdentity, identify
from backend.run.queue import add_to_queue, read_queue
from backend.run.removal import delete_run, size_bytes


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    run = create_run(tmp_path, {}, "run")
    run.checkpoint_path("best").parent.mkdir()
    run.checkpoint_path("best").write_bytes(b"x" * 3000)
    return run


def contents(folder: RunFolder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}


def test_size_is_that_of_every_file(folder: RunFolder) -> None:
    config = folder.config_path.stat().st_size
    assert size_bytes(folder) == 3000 + config


def test_a_deleted_run_leaves_nothing(tmp_path: Path, folder: RunFolder) -> None:
    other = create_run(tmp_path, {}, "other")
    delete_run(folder)
    assert list_runs(tmp_path) == [other]
    assert [path.name for path in tmp_path.iterdir()] == [other.run_id]


def test_a_live_run_is_never_deleted(tmp_path: Path, folder: RunFolder) -> None:
    folder.write_launched(identify(os.getpid()), [])
    before = contents(folder)
    with pytest.raises(UserError, match="running already"):
        delete_run(folder)
    assert contents(folder).items() >= before.items()
    assert list_runs(tmp_path) == [folder]


@pytest.mark.parametrize("was_recorded", [True, False])
def test_a_run_whose_lock_is_held_is_never_deleted(
    tmp_path: Path, folder: RunFolder, was_recorded: bool
) -> None:
    """Whatever its record says of the process."""
    if was_recorded:
        folder.write_launched(ProcessIdentity(2**22 + 1, 1.0), [])
    with folder.lock():
        with pytest.raises(UserError, match="running already"):
            delete_run(folder)
        assert list_runs(tmp_path) == [folder] and folder.checkpoint_path("best").is_file()
    delete_run(folder)
    assert list_runs(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_deleting_a_link_to_a_run_leaves_the_run(tmp_path: Path, folder: RunFolder) -> None:
    link = RunFolder(tmp_path / "link")
    link.path.symlink_to(folder.path, target_is_directory=True)
    with folder.lock(), pytest.raises(UserError, match="running already"):
        delete_run(link)
    delete_run(link)
    assert list_runs(tmp_path) == [folder] and folder.checkpoint_path("best").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == [folder.run_id]


def test_a_run_that_is_being_started_is_not_deleted(tmp_path: Path, folder: RunFolder) -> None:
    with folder.launch_lock(), pytest.raises(UserError, match="being started"):
        delete_run(folder)
    assert list_runs(tmp_path) == [folder]


def test_a_file_that_is_held_open_leaves_the_run_whole(
    tmp_path: Path, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows, which refuses to rename a folder in which a program has a file open."""
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if path == folder.path:
            raise PermissionError(13, "The process cannot access the file")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(UserError, match=r"open in another program.*close that program"):
        delete_run(folder)
    assert list_runs(tmp_path) == [folder]
    assert folder.read_config() == {} and folder.checkpoint_path("best").stat().st_size == 3000


def test_what_an_earlier_deletion_left_goes_with_the_next(tmp_path: Path, folder: RunFolder) -> None:
    leftover = tmp_path / ".deleted-earlier"
    leftover.mkdir()
    (leftover / "best.pt").write_bytes(b"x")
    delete_run(folder)
    assert list(tmp_path.iterdir()) == []


def test_a_waiting_run_leaves_the_queue_too(tmp_path: Path, folder: RunFolder) -> None:
    add_to_queue(folder)
    delete_run(folder)
    assert read_queue(tmp_path) == []


def test_a_damaged_queue_does_not_keep_a_run(tmp_path: Path, folder: RunFolder) -> None:
    (tmp_path / "queue.json").write_text("{")
    delete_run(folder)
    assert list_runs(tmp_path) == [] and (tmp_path / "queue.json").read_text() == "{"


def test_a_run_that_another_page_deleted_meanwhile_leaves_nothing_behind(folder: RunFolder) -> None:
    delete_run(folder)
    delete_run(folder)
    assert not folder.path.exists()
