from __future__ import annotations

from pathlib import Path

import pytest

from backend.run.folder import RunFolder, create_run
from backend.run.notes import Notes, read_notes, split_tags, write_notes


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return create_run(tmp_path, {}, "run")


def test_notes_round_trip_in_persian(folder: RunFolder) -> None:
    notes = Notes(("paper", "آزمون"), "first line\nخط دوم")
    write_notes(folder, notes)
    assert read_notes(folder) == notes


def test_notes_are_stored_as_readable_utf8(folder: RunFolder) -> None:
    """A person may open notes.json, so Persian must not be stored as \\u escapes."""
    write_notes(folder, Notes(("paper", "آزمون"), "first line\nخط دوم"))
    assert (folder.path / "notes.json").read_text(encoding="utf-8").count("آزمون") == 1


def test_missing_notes_are_empty(folder: RunFolder) -> None:
    assert read_notes(folder) == Notes()


@pytest.mark.parametrize("content", ["{", '{"tags": "a", "text": 3}'])
def test_damaged_notes_are_empty(folder: RunFolder, content: str) -> None:
    (folder.path / "notes.json").write_text(content)
    assert read_notes(folder) == Notes()


def test_write_replaces_earlier_notes(folder: RunFolder) -> None:
    write_notes(folder, Notes(("a",), "one"))
    write_notes(folder, Notes((), ""))
    assert read_notes(folder) == Notes()


def test_write_leaves_no_temporary_file(folder: RunFolder) -> None:
    write_notes(folder, Notes(("a",), "one"))
    write_notes(folder, Notes((), ""))
    assert not list(folder.path.glob(".*tmp"))


def test_tags_are_split_at_latin_and_persian_commas() -> None:
    assert split_tags(" , ") == ()
    assert split_tags(" paper, seed 1،آزمون ,, paper") == ("paper", "seed 1", "آزمون")
