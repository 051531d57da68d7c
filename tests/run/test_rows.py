"""Files of rows: what was appended is added, and a replaced file is read again from its start."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from backend.run import rows
from backend.run.folder import RunFolder, create_run
from backend.run.rows import GrowingFile, merge_metrics, read_events, read_metrics


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return create_run(tmp_path, {}, "run")


def finish(folder: RunFolder, *epochs: int, loss: float = 1.0) -> None:
    for epoch in epochs:
        folder.append_metrics({"phase": "train", "epoch": epoch, "train/loss": loss})


def epochs_of(folder: RunFolder) -> list[int]:
    return [row["epoch"] for row in read_metrics(folder).rows]


def test_an_absent_file_has_no_rows(folder: RunFolder) -> None:
    first = read_metrics(folder)
    assert first.rows == [] and read_metrics(folder) is first
    finish(folder, 1)
    assert epochs_of(folder) == [1] and read_metrics(folder).version != first.version


def test_only_newest_rows_of_a_run_are_held(folder: RunFolder) -> None:
    """Each epoch changes the file; to hold every version would take memory of the square of the epochs."""
    before = rows._metrics_file.cache_info().currsize
    for epoch in range(1, 6):
        finish(folder, epoch)
        assert len(read_metrics(folder).rows) == epoch
        assert read_metrics(folder).rows is read_metrics(folder).rows
    assert rows._metrics_file.cache_info().currsize == before + 1


def test_an_unfinished_line_is_kept_for_later(folder: RunFolder) -> None:
    finish(folder, 1)
    before = read_metrics(folder)
    with folder.metrics_path.open("ab") as file:
        file.write(b'{"phase": "train", "ep')
    assert read_metrics(folder) is before
    with folder.metrics_path.open("ab") as file:
        file.write(b'och": 2}\n')
    assert epochs_of(folder) == [1, 2]


def test_a_later_row_of_an_epoch_replaces_the_earlier(folder: RunFolder) -> None:
    finish(folder, 1, 2, 3)
    assert epochs_of(folder) == [1, 2, 3]
    finish(folder, 2, loss=9.0)
    assert [row["train/loss"] for row in read_metrics(folder).rows] == [1.0, 9.0, 1.0]


def test_cut_file_is_read_again(folder: RunFolder) -> None:
    finish(folder, 1, 2)
    lines = folder.metrics_path.read_bytes().splitlines(keepends=True)
    assert epochs_of(folder) == [1, 2]
    folder.metrics_path.write_bytes(lines[1])
    assert epochs_of(folder) == [2]
    folder.metrics_path.unlink()
    assert epochs_of(folder) == []


def test_longer_replaced_file_is_read_again(folder: RunFolder, tmp_path: Path) -> None:
    finish(folder, 1, 2)
    before = read_metrics(folder)
    other = create_run(tmp_path / "elsewhere", {}, "other")
    finish(other, 1, 2, 3, loss=5.0)
    shutil.copy(other.metrics_path, tmp_path / "copy")
    (tmp_path / "copy").replace(folder.metrics_path)
    after = read_metrics(folder)
    assert after.version != before.version
    assert [row["train/loss"] for row in after.rows] == [5.0, 5.0, 5.0]


def test_file_rewritten_in_place_is_read_again(folder: RunFolder) -> None:
    finish(folder, 1, 2)
    assert epochs_of(folder) == [1, 2]
    lines = [f'{{"phase": "train", "epoch": {epoch}, "train/loss": 7.0}}\n' for epoch in range(1, 9)]
    folder.metrics_path.write_text("".join(lines), encoding="utf-8")
    assert {row["train/loss"] for row in read_metrics(folder).rows} == {7.0}


def test_events_keep_their_order_and_none_replaces_another(folder: RunFolder) -> None:
    for message in ("first", "second", "second"):
        folder.append_event("note", message)
        read_events(folder)
    assert [event["message"] for event in read_events(folder).rows] == ["first", "second", "second"]


def test_only_what_was_appended_is_read(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[bytes] = []
    decode = rows.decode_json_lines
    monkeypatch.setattr(rows, "decode_json_lines", lambda content: read.append(content) or decode(content))
    file = GrowingFile(folder.metrics_path, list)
    finish(folder, 1, 2)
    file.read()
    finish(folder, 3)
    file.read()
    file.read()
    assert b"".join(read) == folder.metrics_path.read_bytes() and len(read) == 2


def test_the_later_row_of_an_epoch_replaces_the_earlier() -> None:
    def row(phase: str, epoch: int, loss: float) -> dict[str, object]:
        return {"phase": phase, "epoch": epoch, "loss": loss}

    rows = [
        row("whole", 1, 9),
        row("whole", 2, 8),
        row("whole", 3, 7),
        row("whole", 2, 6),
        row("crops", 1, 5),
    ]
    merged = merge_metrics([*rows, row("whole", 3, 4), {"note": "no epoch"}])
    assert merged == [row("whole", 1, 9), row("whole", 2, 6), row("whole", 3, 4), row("crops", 1, 5)]
