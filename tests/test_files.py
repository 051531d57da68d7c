from __future__ import annotations

import json
import math
import os
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend import files
from backend.files import (
    append_json_line,
    read_json,
    read_json_lines,
    read_tail,
    write_bytes_atomic,
    write_json_atomic,
)

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)  # newlines and any script included
ROWS = st.lists(st.dictionaries(TEXTS, TEXTS | st.integers() | st.none(), max_size=3), max_size=8)


@settings(deadline=None)
@given(rows=ROWS, data=st.data())
def test_reader_gets_every_row_once_wherever_it_looks(
    rows: list[dict[str, Any]], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        written, growing = Path(folder, "written"), Path(folder, "growing")
        for row in rows:
            append_json_line(written, row)
        content = written.read_bytes() if rows else b""
        looks = data.draw(st.lists(st.integers(0, len(content)), max_size=6).map(sorted))
        seen: list[dict[str, Any]] = []
        offset = 0
        for size in [*looks, len(content)]:
            growing.write_bytes(content[:size])
            new, offset = read_json_lines(growing, offset)
            seen += new
        assert seen == rows
        assert offset == len(content)


@settings(deadline=None)
@given(rows=ROWS.filter(len), data=st.data())
def test_kill_within_a_line_loses_that_line_alone(rows: list[dict[str, Any]], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows")
        append_json_line(path, {"before": 1})
        start = path.stat().st_size
        append_json_line(path, rows[0])
        line_size = path.stat().st_size - start
        # Up to the closing brace, which makes the row whole even without its newline.
        os.truncate(path, start + data.draw(st.integers(0, line_size - 2)))
        for row in rows[1:]:
            append_json_line(path, row)
        append_json_line(path, {"after": 1})
        assert read_json_lines(path)[0] == [{"before": 1}, *rows[1:], {"after": 1}]


def test_offset_before_a_torn_line_skips_it_once_it_is_finished(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_bytes(b'{"a": 1}\n{"b":')
    rows, offset = read_json_lines(path)
    assert (rows, offset) == ([{"a": 1}], 9)
    append_json_line(path, {"c": 3})
    assert read_json_lines(path, offset) == ([{"c": 3}], path.stat().st_size)


def test_damaged_finished_lines_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_bytes(b'{"a": 1}\n\xff\xfe\nnot json\n[1, 2]\n\n\x00\x00\n{"b": NaN}\n')
    assert read_json_lines(path)[0] == [{"a": 1}, {"b": None}]


def test_lines_of_an_absent_or_a_shortened_file(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    assert read_json_lines(path) == ([], 0)
    append_json_line(path, {"a": 1})
    assert read_json_lines(path, offset=1000) == ([{"a": 1}], path.stat().st_size)


def test_append_is_one_write_of_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows"
    path.write_bytes(b"torn")
    append_json_line(path, {"text": "two\nlines", "loss": math.nan, "x": np.float32(0.5)})
    assert path.read_bytes() == b'torn\n{"text": "two\\nlines", "loss": null, "x": 0.5}\n'


def test_json_of_numpy_paths_and_numbers_without_a_value(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    value = {
        "nan": math.nan,
        "nested": [math.inf, {"deep": -math.inf}],
        "array": np.array([1.0, np.nan], dtype=np.float32),
        "count": np.int64(3),
        "path": Path("a/b"),
        "tuple": (1, 2),
        "name": "سفالومتری",
        "undecodable": "a\udc80",
    }
    write_json_atomic(path, value)
    assert read_json(path) == {
        "nan": None,
        "nested": [None, {"deep": None}],
        "array": [1.0, None],
        "count": 3,
        "path": os.fspath(Path("a/b")),
        "tuple": [1, 2],
        "name": "سفالومتری",
        "undecodable": "a\udc80",
    }
    assert "سفالومتری" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff"])
def test_read_json_of_a_damaged_file_is_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "value.json"
    assert read_json(path) is None
    path.write_bytes(content)
    assert read_json(path) is None


def test_failed_write_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "value.json"
    write_json_atomic(path, {"old": 1})

    def fail(*_: object) -> None:
        raise OSError("no")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no"):
        write_json_atomic(path, {"new": 1})
    assert read_json(path) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_replace_waits_for_a_reader_that_holds_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, num_calls = os.replace, 0

    def held_twice(source: Path, target: Path) -> None:
        nonlocal num_calls
        num_calls += 1
        if num_calls <= 2:
            raise PermissionError("held by another process")
        replace(source, target)

    monkeypatch.setattr(os, "replace", held_twice)
    monkeypatch.setattr(files, "_PAUSE_S", 0.0)
    write_bytes_atomic(tmp_path / "file", b"content")
    assert (tmp_path / "file").read_bytes() == b"content"
    assert num_calls == 3


def test_replace_gives_up_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def always_held(*_: object) -> None:
        raise PermissionError("held")

    monkeypatch.setattr(os, "replace", always_held)
    monkeypatch.setattr(files, "_PAUSE_S", 0.0)
    with pytest.raises(PermissionError):
        write_bytes_atomic(tmp_path / "file", b"content")
    assert not list(tmp_path.iterdir())


def test_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    write_json_atomic(path, {"values": [0] * 5000})
    done = threading.Event()

    def write() -> None:
        for number in range(30):
            write_json_atomic(path, {"values": [number] * 5000})
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    num_reads = 0
    while not done.is_set() or num_reads == 0:
        values = json.loads(path.read_bytes())["values"]
        assert len(values) == 5000
        assert len(set(values)) == 1
        num_reads += 1
    writer.join()


def test_tail_is_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    assert read_tail(path, 10) == ""
    path.write_bytes(b"first\r\nsecond\nthird")
    assert read_tail(path, 1000) == "first\nsecond\nthird"
    assert read_tail(path, 10) == "third"
    assert read_tail(path, 3) == "ird"


def test_tail_cut_within_a_character_is_readable(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_bytes("é".encode() * 3)
    assert read_tail(path, 3) == "\N{REPLACEMENT CHARACTER}é"
