from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from backend.run.folder import RunFolder, create_run
from backend.run.state import RunState
from ui.monitor.run_card import epochs_since_best, log_text, run_card
from ui.text.say import in_bytes, in_distance, in_time

STATUS = {
    "phase": "train",
    "epoch": 3,
    "num_epochs": 10,
    "step": 5,
    "steps_per_epoch": 10,
    "images_per_s": 12.0,
    "seconds_left": 65,
    "share_done": 0.25,
    "refinement_follows": False,
}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return create_run(tmp_path, {}, "test")


def test_the_card_says_state_progress_time_and_best() -> None:
    best = {"val/mre_px": 15.0, "val/mre_mm": 1.5, "epoch": 2}
    html = run_card(RunState.RUNNING, STATUS, [best], None, best)
    for text in (
        "running",
        "training: epoch 3 of 10",
        "65 s left",
        "best 1.50 mm in epoch 2",
        'value="0.2500"',
    ):
        assert text in html


def test_the_card_names_the_phase_and_what_follows() -> None:
    first = run_card(RunState.RUNNING, {**STATUS, "refinement_follows": True}, [], None)
    assert "training: epoch 3 of 10" in first and "65 s left, then the refinement" in first
    status = {**STATUS, "phase": "refine", "share_done": 0.875}
    second = run_card(RunState.RUNNING, status, [], None)
    assert "refinement: epoch 3 of 10" in second and "65 s left<" in second and 'value="0.8750"' in second
    stopped = run_card(RunState.STOPPED, status, [{"epoch": 2, "phase": "refine"}], None)
    assert "refinement: epoch 2 of 10" in stopped and "left" not in stopped and 'value="0.8750"' in stopped


def errors(phase: str, *values: float | None) -> list[dict[str, Any]]:
    return [
        {"phase": phase, "epoch": epoch, "val/mre_px": value} for epoch, value in enumerate(values, start=1)
    ]


def test_epochs_since_the_best_are_counted_over_both_phases_where_there_was_a_validation() -> None:
    rows = [*errors("train", 5.0, 3.0, 4.0, None, 3.5), *errors("refine", 3.2, 3.1)]
    assert epochs_since_best(rows[:2], rows[1]) == 0
    assert epochs_since_best(rows, rows[1]) == 4
    assert "epochs since the best: 4" in run_card(RunState.RUNNING, STATUS, rows, None, rows[1])
    assert "since the best" not in run_card(RunState.RUNNING, STATUS, rows[:2], None, rows[1])


def test_the_card_names_a_best_that_is_another_runs_first_network() -> None:
    best = {"phase": "train", "epoch": None, "val/mre_px": 3.0, "val/mre_mm": 0.3}
    html = run_card(RunState.RUNNING, STATUS, errors("refine", 9.0, 8.0), None, best)
    assert "best 0.30 mm, of the first network" in html and "epochs since the best: 2" in html


def test_a_run_that_prepares_has_done_nothing_yet() -> None:
    html = run_card(RunState.RUNNING, {"phase": "preparing"}, [], None)
    assert "preparing" in html and 'value="0.0000"' in html


def test_the_card_says_how_many_images_are_computed_at_once_where_memory_ran_out() -> None:
    html = run_card(RunState.RUNNING, {**STATUS, "micro_batch": 8}, [], None)
    assert "in parts of 8 images" in html
    assert "in parts" not in run_card(RunState.RUNNING, {**STATUS, "micro_batch": None}, [], None)


def test_the_card_tells_the_reason_of_an_end_and_escapes_it() -> None:
    html = run_card(RunState.FAILED, STATUS, [], {"reason": "<b>no & disk</b>"})
    assert "&lt;b&gt;no &amp; disk" in html
    assert 'value="1.0000"' in run_card(RunState.COMPLETED, STATUS, [], None)


def test_the_card_of_a_run_that_has_ended_well_says_what_to_do_next() -> None:
    assert "on the Runs tab" in run_card(RunState.COMPLETED, STATUS, [], None)
    assert "Next:" not in run_card(RunState.RUNNING, STATUS, [], None)


def test_the_log_is_what_a_terminal_would_show(folder: RunFolder) -> None:
    folder.log_path.write_bytes(b"run: x\nepoch 1:  10%\repoch 1:  90%\r      \repoch 1 done\n")
    assert log_text(folder) == "run: x\nepoch 1 done"


def test_numbers_are_written_for_people() -> None:
    assert [in_time(5), in_time(75), in_time(600), in_time(11100)] == [
        "5.0 s",
        "75 s",
        "10 min",
        "3 h 05 min",
    ]
    assert [in_bytes(n) for n in (2**30 * 10.4, 25 * 2**20, 310 * 2**10)] == ["10.4 GiB", "25 MiB", "310 KiB"]
    assert [in_distance(3.21, None), in_distance(3.2, 0.321), in_distance(None, None)] == [
        "3.2 px",
        "0.32 mm",
        "-",
    ]
