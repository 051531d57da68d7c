from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from backend.config import Choice, RunConfig, Settings
from backend.run.folder import RunFolder, create_run
from backend.run.notes import Notes, write_notes
from backend.run.queue import add_to_queue
from backend.run.state import RunState
from ui.run_rows import ORDERS, RunRow, choose_rows, runs_table
from ui.text.say import say


def make_run(runs_dir: Path, label: str, device: str = "cpu", **settings: Any) -> RunFolder:
    chosen = {"device": Choice(device, "as asked"), "dataset_path": Choice("/data/films", "as asked")}
    return create_run(runs_dir, RunConfig(Settings(**settings), chosen).to_dict(), label)


@pytest.fixture
def rows(tmp_path: Path) -> list[RunRow]:
    """Newest first: no error; 12.5 px; 2.1 mm; 10.0 mm."""
    for number, (label, values) in enumerate(
        [
            ("hrnet", {"val/mre_px": 100.0, "val/mre_mm": 10.0}),
            ("unet", {"val/mre_px": 21.0, "val/mre_mm": 2.1}),
            ("resnet", {"val/mre_px": 12.5}),
            ("unet", {}),
        ]
    ):
        folder = make_run(tmp_path, label, model=label)
        folder.path.rename(tmp_path / f"20260101-00000{number}-{label}")
        folder = RunFolder(tmp_path / f"20260101-00000{number}-{label}")
        folder.append_metrics({"phase": "train", "epoch": 1, **values})
    write_notes(RunFolder(tmp_path / "20260101-000001-unet"), Notes(("Paper", "آزمون"), "with the NEW films"))
    add_to_queue(RunFolder(tmp_path / "20260101-000003-unet"))
    RunFolder(tmp_path / "20260101-000002-resnet").write_outcome("failed", "no reason")
    return runs_table(tmp_path)


def numbers(rows: list[RunRow]) -> list[int]:
    return [int(row.run_id[14]) for row in rows]


def test_the_columns_have_their_heads(rows: list[RunRow]) -> None:
    assert {len(row.cells) for row in rows} == {len(say("runs_columns").split(","))}
    assert {len(row.sort_keys) for row in rows} == {len(rows[0].cells)}
    assert rows[2].cells[2] == "Paper, آزمون"
    assert [row.state for row in rows] == [
        RunState.QUEUED, RunState.FAILED, RunState.CREATED, RunState.CREATED
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("newest", [3, 2, 1, 0]),
        ("oldest", [0, 1, 2, 3]),
        ("error", [1, 0, 2, 3]),  # mm, then px, then none
        ("name", [0, 2, 3, 1]),
        ("state", [1, 0, 2, 3]),
    ],
)
def test_order(rows: list[RunRow], order: str, expected: list[int]) -> None:
    assert order in ORDERS
    assert numbers(choose_rows(rows, order=order)) == expected


@pytest.mark.parametrize(
    ("search", "expected"),
    [
        ("", [3, 2, 1, 0]),
        ("UNET", [3, 1]),
        ("unet paper", [1]),
        ("new films", [1]),
        ("آزمون", [1]),
        ("x?", []),
    ],
)
def test_every_word_is_searched_in_every_column_and_in_the_notes(
    rows: list[RunRow], search: str, expected: list[int]
) -> None:
    found = choose_rows(rows, search)
    assert numbers(found) == expected


def test_one_state_alone(rows: list[RunRow]) -> None:
    assert numbers(choose_rows(rows, state="queued")) == [3]
    assert numbers(choose_rows(rows, "hrnet", "created")) == [0]
    assert choose_rows(rows, state="running") == []
