from __future__ import annotations

from pathlib import Path

import pytest

from backend.run.folder import RunFolder, create_run
from backend.run.notes import Notes, read_notes, split_tags, write_notes


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return create_run(tmp_path, {}, "run")


def test_what_was_said_is_read_again_in_every_script(folder: RunFolder) -> None:
    notes = Notes(("paper", "آزمون"), "first line\nخط دوم")
    write_notes(folder, notes)
    assert read_notes(folder) == notes
    assert (folder.path / "notes.json").read_text(encoding="utf-8").count("آزمون") == 1


def test_nothing_said_and_nothing_readable_are_empty(folder: RunFolder) -> None:
    assert read_notes(folder) == Notes()
    for content in ("{", '{"tags": "a", "text": 3}'):
        (folder.path / "notes.json").write_text(content)
        assert read_notes(folder) == Notes()


def test_a_later_word_replaces_the_earlier(folder: RunFolder) -> None:
    write_notes(folder, Notes(("a",), "one"))
    write_notes(folder, Notes((), ""))
    assert read_notes(folder) == Notes()
    assert not list(folder.path.glob(".*tmp"))


def test_tags_are_separated_by_commas_of_both_scripts_each_once() -> None:
    assert split_tags(" paper, seed 1،آزمون ,, paper") == ("paper", "seed 1", "آزمون")
    assert split_tags(" , ") == ()
