from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.run.folder import RunFolder, create_run
from backend.run.state import RunState
from ui.monitor_view import landmark_table, log_text, preview_choices, preview_figures, run_card
from ui.text import in_bytes, in_distance, in_time

STATUS = {
    "phase": "train",
    "epoch": 3,
    "num_epochs": 10,
    "step": 5,
    "steps_per_epoch": 10,
    "images_per_s": 12.0,
    "seconds_left": 65,
}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return create_run(tmp_path, {}, "test")


def test_the_card_says_state_progress_time_and_best() -> None:
    best = {"val/mre_px": 15.0, "val/mre_mm": 1.5, "epoch": 2}
    html = run_card("r", RunState.RUNNING, STATUS, [], best, None)
    for words in ("running", "epoch 3 of 10", "65 s left", "best 1.50 mm in epoch 2", 'value="0.2500"'):
        assert words in html


def test_the_card_tells_the_reason_of_an_end_and_escapes_it() -> None:
    html = run_card("r", RunState.FAILED, STATUS, [], None, {"reason": "<b>no & disk</b>"})
    assert "&lt;b&gt;no &amp; disk" in html
    assert 'value="1.0000"' in run_card("r", RunState.COMPLETED, STATUS, [], None, None)


def test_landmarks_stand_worst_first_in_mm_where_known() -> None:
    row: dict[str, Any] = {"epoch": 4, "val/mre_px": 5.0, "val/mre_mm": 0.5}
    row |= {"val/mre_px/good": 1.0, "val/mre_mm/good": 0.1, "val/mre_px/bad": 9.0, "val/mre_mm/bad": 0.9}
    row["val/mre_px/never seen"] = None
    html = landmark_table([row])
    assert html.index("bad") < html.index("good")
    assert "0.90 mm" in html and "never seen" not in html


def test_the_log_is_what_a_terminal_would_show(folder: RunFolder) -> None:
    folder.log_path.write_bytes(b"run: x\nepoch 1:  10%\repoch 1:  90%\r      \repoch 1 done\n")
    assert log_text(folder) == "run: x\nepoch 1 done"


def test_previews_map_heatmaps_and_points_into_the_original_image(folder: RunFolder) -> None:
    assert preview_figures(folder, 1, "all") == []
    display = np.zeros((50, 100), np.uint8)
    half = np.array([[0.5, 0, -0.25], [0, 0.5, -0.25]])
    truth = np.array([[[60.0, 40.0], [np.nan, np.nan]]], np.float32)
    folder.write_preview_images(
        {
            "image_ids": np.array(["007"]),
            "landmark_names": np.array(["S", "N"]),
            "truth_xy_image": truth,
            "mm_per_px_xy": np.array([[0.1, 0.1]]),
            "input_hw": np.array([32, 64]),
            "stride": np.array(2),
            "display_0": display,
            "affine_image_to_display_0": half,
            "affine_image_to_input_0": np.array([[0.32, 0, -0.34], [0, 0.32, -0.34]]),
        }
    )
    heatmaps = np.zeros((1, 2, 16, 32), np.uint8)
    heatmaps[0, 0, 6, 9] = 255
    predicted = truth + np.array([3.0, 4.0], np.float32)
    predicted[0, 1] = (10.0, 10.0)
    folder.write_preview(
        1, {"points_xy_image": predicted, "confidence": np.ones((1, 2)), "heatmaps": heatmaps}
    )
    assert [value for _, value in preview_choices(folder)] == ["off", "all", "landmark 0", "landmark 1"]
    ((title, figure),) = preview_figures(folder, 1, "landmark 0")
    assert title == "007: 0.50 mm"
    assert (figure.layout.images[0].sizex, figure.layout.images[0].sizey) == (200, 100)
    pictures = [preview_figures(folder, 1, choice)[0][1].layout.images[0].source for choice in ("off", "all")]
    assert pictures[0] != pictures[1]


def test_numbers_are_written_for_people() -> None:
    assert [in_time(5), in_time(75), in_time(600), in_time(11100)] == [
        "5.0 s",
        "75 s",
        "10 min",
        "3 h 05 min",
    ]
    assert [in_bytes(2**30 * 10.4), in_bytes(25 * 2**20)] == ["10.4 GiB", "25 MiB"]
    assert [in_distance(3.21, None), in_distance(3.2, 0.321), in_distance(None, None)] == [
        "3.2 px",
        "0.32 mm",
        "-",
    ]
