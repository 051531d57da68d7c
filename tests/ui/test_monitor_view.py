from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from backend.geometry import CropFrame, compose, invert_affine, scaling
from backend.run.folder import PHASES, RunFolder, create_run
from backend.run.state import RunState
from ui.monitor_view import landmark_table, log_text, preview_choices, preview_figures, run_card
from ui.text import in_bytes, in_distance, in_time, say

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
    html = run_card("r", RunState.RUNNING, STATUS, [], best, None)
    for words in (
        "running",
        "training: epoch 3 of 10",
        "65 s left",
        "best 1.50 mm in epoch 2",
        'value="0.2500"',
    ):
        assert words in html


def test_the_card_names_the_phase_and_what_follows() -> None:
    first = run_card("r", RunState.RUNNING, {**STATUS, "refinement_follows": True}, [], None, None)
    assert "training: epoch 3 of 10" in first and "65 s left, then the refinement" in first
    status = {**STATUS, "phase": "refine", "share_done": 0.875}
    second = run_card("r", RunState.RUNNING, status, [], None, None)
    assert "refinement: epoch 3 of 10" in second and "65 s left<" in second and 'value="0.8750"' in second
    stopped = run_card("r", RunState.STOPPED, status, [{"epoch": 2, "phase": "refine"}], None, None)
    assert "refinement: epoch 2 of 10" in stopped and "left" not in stopped and 'value="0.8750"' in stopped


def test_a_run_that_prepares_has_done_nothing_yet() -> None:
    html = run_card("r", RunState.RUNNING, {"phase": "preparing"}, [], None, None)
    assert "preparing" in html and 'value="0.0000"' in html


@pytest.mark.parametrize("phase", PHASES)
def test_every_phase_has_its_words(phase: str) -> None:
    name = say(f"phase_{phase}")
    assert f"of {name}:" in say("previews", phase=name, epoch=3)


def test_the_card_says_how_many_images_are_computed_at_once_where_memory_ran_out() -> None:
    html = run_card("r", RunState.RUNNING, {**STATUS, "micro_batch": 8}, [], None, None)
    assert "8 images at once" in html
    assert "at once" not in run_card("r", RunState.RUNNING, {**STATUS, "micro_batch": None}, [], None, None)


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
    assert preview_figures(folder, ("train", 1), "all") == []
    display = np.zeros((50, 100), np.uint8)
    half = np.array([[0.5, 0, -0.25], [0, 0.5, -0.25]])
    truth = np.array([[[60.0, 40.0], [np.nan, np.nan]]], np.float32)
    folder.write_preview_images(
        {
            "image_ids": np.array(["007"]),
            "landmark_names": np.array(["S", "N"]),
            "truth_xy_image": truth,
            "mm_per_px_xy": np.array([[0.1, 0.1]]),
            "display_0": display,
            "affine_image_to_display_0": half,
        }
    )
    heatmaps = np.zeros((1, 2, 16, 32), np.uint8)
    heatmaps[0, 0, 6, 9] = 255
    predicted = truth + np.array([3.0, 4.0], np.float32)
    predicted[0, 1] = (10.0, 10.0)
    folder.write_preview(
        "train",
        1,
        {
            "points_xy_image": predicted,
            "confidence": np.ones((1, 2)),
            "heatmaps": heatmaps,
            "affine_heatmap_to_image": scaling(6.25, 6.25)[None, None],
        },
    )
    assert [value for _, value in preview_choices(folder)] == ["off", "all", "landmark 0", "landmark 1"]
    ((title, figure),) = preview_figures(folder, ("train", 1), "landmark 0")
    assert title == "007: 0.50 mm"
    assert (figure.layout.images[0].sizex, figure.layout.images[0].sizey) == (200, 100)
    lit = {
        choice: lit_at(folder, ("train", 1), choice) for choice in ("off", "all", "landmark 0", "landmark 1")
    }
    assert lit["off"] is None and lit["landmark 1"] is None  # its map is empty
    # cell (9, 6) of 6.25 image pixels lies at image pixel (58.9, 40.1), display pixel half of that
    for choice in ("all", "landmark 0"):
        assert lit[choice] == pytest.approx((29.2, 19.8), abs=1.0)


def lit_at(folder: RunFolder, key: tuple[str, int], choice: str) -> tuple[float, float] | None:
    """Where in the display the heatmap shines, (x, y); None where it does not."""
    picture = decode_picture(preview_figures(folder, key, choice)[0][1])
    bright = picture.astype(float).max(axis=-1)
    bright[bright < 0.5 * max(40.0, bright.max())] = 0
    if not bright.any():
        return None
    y, x = np.mgrid[: bright.shape[0], : bright.shape[1]]
    return float((bright * x).sum() / bright.sum()), float((bright * y).sum() / bright.sum())


def decode_picture(figure: Any) -> Any:
    encoded = figure.layout.images[0].source.split(",")[1]
    return cv2.imdecode(np.frombuffer(base64.b64decode(encoded), np.uint8), cv2.IMREAD_COLOR)


def test_each_map_of_a_refined_preview_lies_over_its_own_crop(folder: RunFolder) -> None:
    display = np.zeros((100, 200), np.uint8)
    points = np.array([[[60.0, 40.0], [150.0, 70.0]]], np.float32)
    folder.write_preview_images(
        {
            "image_ids": np.array(["007"]),
            "landmark_names": np.array(["S", "N"]),
            "truth_xy_image": points,
            "mm_per_px_xy": np.array([[np.nan, np.nan]]),
            "display_0": display,
            "affine_image_to_display_0": scaling(1, 1),
        }
    )
    frame = CropFrame(32, 0.3, 0.09)
    to_image = [
        compose(invert_affine(frame.affine(centre, np.array([1.5, 1.0]))), scaling(2, 2))
        for centre in points[0]
    ]
    heatmaps = np.zeros((1, 2, 16, 16), np.uint8)
    heatmaps[0, 0, 7:9, 7:9] = 255  # in the middle of its crop
    heatmaps[0, 1, 7:9, 11:13] = 255  # 4 cells to the right: 4 * 2 * 1.5 image pixels
    folder.write_preview(
        "refine",
        2,
        {
            "points_xy_image": points + np.float32(3),
            "confidence": np.ones((1, 2)),
            "heatmaps": heatmaps,
            "affine_heatmap_to_image": np.array([to_image]),
        },
    )
    key = ("refine", 2)
    assert lit_at(folder, key, "off") is None
    assert lit_at(folder, key, "landmark 0") == pytest.approx((60, 40), abs=1.0)
    assert lit_at(folder, key, "landmark 1") == pytest.approx((162, 70), abs=1.0)
    assert lit_at(folder, key, "all") == pytest.approx((111, 55), abs=1.5)  # both
    ((title, _),) = preview_figures(folder, key, "all")
    assert title == "007: 4.2 px"


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
