from __future__ import annotations

import json
from pathlib import Path

import pytest

from ui.runs import looks
from ui.runs.looks import MAX_RUNS, Look, assign_looks

RUNS = [f"run {number}" for number in range(40)]


def test_a_run_keeps_its_look_whichever_others_are_chosen_beside_it(tmp_path: Path) -> None:
    first = assign_looks(tmp_path, ["run 1", "run 3"], RUNS)
    assert assign_looks(tmp_path, ["run 3"], RUNS) == {"run 3": first["run 3"]}
    more = assign_looks(tmp_path, ["run 0", "run 3", "run 2", "run 1"], RUNS)
    assert {run_id: more[run_id] for run_id in first} == first
    assert len({look.color for look in more.values()}) == 4


def test_looks_last_over_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = assign_looks(tmp_path, RUNS[3:6], RUNS)
    monkeypatch.setattr(looks, "_unwritten", {})
    assert assign_looks(tmp_path, RUNS[:6], RUNS).items() >= before.items()


def test_a_run_that_is_chosen_for_the_first_time_takes_a_color_that_none_beside_it_has(
    tmp_path: Path,
) -> None:
    for number in range(MAX_RUNS):  # each alone: six numbers are given out
        assign_looks(tmp_path, [RUNS[number]], RUNS)
    beside = assign_looks(tmp_path, ["run 0", "run 20", "run 21"], RUNS)
    assert len({look.color for look in beside.values()}) == 3


def test_36_runs_differ_in_color_or_in_dash(tmp_path: Path) -> None:
    looks = [assign_looks(tmp_path, [run_id], RUNS)[run_id] for run_id in RUNS[:36]]
    assert len({(look.color, look.dash) for look in looks}) == 36
    assert all(Look.of(number).color == Look.of(number + MAX_RUNS).color for number in range(MAX_RUNS))


def test_the_look_of_a_deleted_run_is_free_again(tmp_path: Path) -> None:
    assign_looks(tmp_path, RUNS[:6], RUNS)
    left = [run_id for run_id in RUNS if run_id != "run 2"]
    assert assign_looks(tmp_path, ["run 9"], left)["run 9"] == Look.of(2)


@pytest.mark.parametrize("content", ["no json", '{"numbers": [1]}', '{"numbers": {"run 1": -5}}'])
def test_a_damaged_file_gives_looks_all_the_same(tmp_path: Path, content: str) -> None:
    (tmp_path / "looks.json").write_text(content, encoding="utf-8")
    assert assign_looks(tmp_path, ["run 1"], RUNS) == {"run 1": Look.of(0)}
    assert json.loads((tmp_path / "looks.json").read_text())["numbers"] == {"run 1": 0}


def test_a_folder_that_cannot_be_written_to_has_looks_while_the_program_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(looks, "write_json_atomic", refuse)
    before = assign_looks(tmp_path, ["run 5", "run 6"], RUNS)
    assert assign_looks(tmp_path, ["run 4", "run 6"], RUNS)["run 6"] == before["run 6"]
