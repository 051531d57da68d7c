from __future__ import annotations

import base64
from dataclasses import fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from backend.geometry import CropFrame, compose, invert_affine, scaling
from backend.run.folder import RunFolder, create_run
from backend.run.previews import PHASES, PreviewKey
from ui.monitor import previews
from ui.monitor.previews import (
    Previews,
    describe_preview,
    draw_previews,
    preview_choices,
    preview_figures,
    shown_key,
    shown_split,
    title_text,
)
from ui.session import Session
from ui.text.say import say


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return create_run(tmp_path, {}, "test")


@pytest.fixture
def panel(folder: RunFolder) -> Previews:
    # a component is only what an update is addressed to, so its name serves as well
    parts: dict[str, Any] = {field.name: field.name for field in fields(Previews)}
    return Previews(**{**parts, "runs_dir": folder.path.parent, "plots": ("plot 0", "plot 1")})


def draw(folder: RunFolder, key: PreviewKey, heatmap: str) -> list[tuple[str, Any]]:
    images, preview = folder.previews.read_images(), folder.previews.read(key)
    return [] if images is None or preview is None else preview_figures(images, preview, heatmap)


def keep(folder: RunFolder, phase: str, *epochs: int, **more: Any) -> None:
    """Previews of one image with one landmark, which comes nearer by a pixel an epoch."""
    truth = np.array([[[10.0, 10.0]]], np.float32)
    folder.previews.write_images(
        {
            "image_ids": np.array(["007"]),
            "landmark_names": np.array(["S"]),
            "truth_xy_image": truth,
            "mm_per_px_xy": np.array([[np.nan, np.nan]]),
            "display_0": np.zeros((20, 20), np.uint8),
            "affine_image_to_display_0": scaling(1, 1),
            **({"split": more.pop("split")} if "split" in more else {}),
        }
    )
    for epoch in epochs:
        arrays = {
            "points_xy_image": truth + np.array([10 - epoch, 0], np.float32),
            "confidence": np.ones((1, 1)),
            "heatmaps": np.zeros((1, 1, 5, 5), np.uint8),
            "affine_heatmap_to_image": scaling(4, 4)[None, None],
        }
        folder.previews.write(phase, epoch, {**arrays, **more})


@pytest.mark.parametrize("phase", PHASES)
def test_every_phase_has_its_words(phase: str) -> None:
    name = say(f"phase_{phase}")
    assert f"epoch 3 of {name}" in describe_preview((phase, 3), {}, follows=False)


def test_words_tell_a_preview_within_an_epoch_from_one_after_it() -> None:
    after = describe_preview(("train", 3), {"step": 7, "steps_per_epoch": 7}, follows=True)
    assert after.startswith("After epoch 3 of training.") and "follows the training" in after
    within = describe_preview(("train", 3), {"step": 2, "steps_per_epoch": 7}, follows=False)
    assert within.startswith("Within epoch 3 of training, after step 2 of 7.") and "follows" not in within


def test_the_newest_is_shown_until_another_is_chosen_and_a_pruned_one_gives_way_to_its_neighbour() -> None:
    keys: list[PreviewKey] = [("train", 1), ("train", 5), ("train", 9), ("refine", 1)]
    assert shown_key([], None) is None and shown_key([], ("train", 1)) is None
    assert shown_key(keys, None) == ("refine", 1)
    assert shown_key(keys, ("train", 5)) == ("train", 5)
    assert shown_key(keys, ("train", 6)) == ("train", 5)
    assert shown_key(keys, ("refine", 7)) == ("refine", 1)


def test_the_slider_replays_and_follows_again_from_its_end(panel: Previews, folder: RunFolder) -> None:
    keep(folder, "train", 1, 2)
    keep(folder, "refine", 1)
    session = Session(folder.run_id)
    first = draw_previews(panel, session, folder, "all")
    assert first[panel.position]["value"] == 3 and first[panel.position]["maximum"] == 3
    assert first[panel.position]["label"] == "Replay: refinement, epoch 1"
    assert first[panel.plots[0]]["label"] == "007: 9.0 px" and first[panel.plots[1]]["visible"] is False
    assert first[panel.newest]["interactive"] is False

    back = previews.on_slide(panel, session, 2, "all")
    assert session.preview == ("train", 2)
    assert back[panel.plots[0]]["label"] == "007: 8.0 px" and back[panel.newest]["interactive"] is True
    assert "value" not in back[panel.position]  # the browser has it: nothing pulls at what is being dragged
    keep(folder, "refine", 2)
    later = draw_previews(panel, session, folder, "all")
    assert later[panel.position]["value"] == 2 and later[panel.position]["maximum"] == 4
    assert panel.plots[0] not in later  # what is shown stays

    previews.on_slide(panel, session, 4, "all")
    assert session.preview is None
    keep(folder, "refine", 3)
    followed = draw_previews(panel, session, folder, "all")
    assert followed[panel.position]["value"] == 5 and followed[panel.plots[0]]["label"] == "007: 7.0 px"
    assert draw_previews(panel, session, folder, "all") == {}


def test_newest_leads_back_to_the_training(panel: Previews, folder: RunFolder) -> None:
    keep(folder, "train", 1, 2)
    session = Session(folder.run_id, preview=("train", 1))
    assert draw_previews(panel, session, folder, "all")[panel.position]["value"] == 1
    updates = previews.on_newest(panel, session, "all")
    assert session.preview is None and updates[panel.position]["value"] == 2


def test_an_epochs_own_preview_takes_the_place_of_one_within_it(panel: Previews, folder: RunFolder) -> None:
    keep(folder, "train", 1, step=2, steps_per_epoch=7)
    session = Session(folder.run_id)
    assert "Within epoch 1" in draw_previews(panel, session, folder, "all")[panel.note]
    keep(folder, "train", 1, step=7, steps_per_epoch=7)
    assert "After epoch 1" in draw_previews(panel, session, folder, "all")[panel.note]


def test_a_zoom_lasts_over_epochs_and_not_over_runs(folder: RunFolder) -> None:
    keep(folder, "train", 1, 2)
    images = folder.previews.read_images()
    assert images is not None
    revisions = set()
    for run, epoch in (("a", 1), ("a", 2), ("b", 2)):
        preview = folder.previews.read(("train", epoch))
        assert preview is not None
        ((_, figure),) = preview_figures(images, preview, "off", revision=run)
        revisions.add(figure.layout.uirevision)
    assert revisions == {"a", "b"}


def test_without_previews_there_is_nothing_to_slide(panel: Previews, folder: RunFolder) -> None:
    session = Session(folder.run_id)
    updates = draw_previews(panel, session, folder, "all")
    assert updates[panel.controls]["visible"] is False and updates[panel.note] == say("previews_none")
    assert draw_previews(panel, session, folder, "all") == {}
    assert session.preview is None and previews.on_slide(panel, session, 1, "all")[panel.session] is session


def test_previews_map_heatmaps_and_points_into_the_original_image(folder: RunFolder) -> None:
    assert draw(folder, ("train", 1), "all") == []
    display = np.zeros((50, 100), np.uint8)
    half = np.array([[0.5, 0, -0.25], [0, 0.5, -0.25]])
    truth = np.array([[[60.0, 40.0], [np.nan, np.nan]]], np.float32)
    folder.previews.write_images(
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
    folder.previews.write(
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
    ((title, figure),) = draw(folder, ("train", 1), "landmark 0")
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
    """Return where in the display the heatmap shines, (x, y); None if it does not."""
    picture = decode_picture(draw(folder, key, choice)[0][1])
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
    folder.previews.write_images(
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
        compose(invert_affine(frame.affine(center, np.array([1.5, 1.0]))), scaling(2, 2))
        for center in points[0]
    ]
    heatmaps = np.zeros((1, 2, 16, 16), np.uint8)
    heatmaps[0, 0, 7:9, 7:9] = 255  # in the middle of its crop
    heatmaps[0, 1, 7:9, 11:13] = 255  # 4 cells to the right: 4 * 2 * 1.5 image pixels
    folder.previews.write(
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
    ((title, _),) = draw(folder, key, "all")
    assert title == "007: 4.2 px"


def test_the_title_says_which_images_are_shown(folder: RunFolder, panel: Previews) -> None:
    keep(folder, "train", 1, split=np.array("train"))
    updates = draw_previews(panel, Session(), folder, "all")
    assert updates[panel.title] == f"### {say('previews_title_train')}"
    keep(folder, "train", 1, split=np.array("valid"))
    updates = draw_previews(panel, Session(), folder, "all")
    assert updates[panel.title] == f"### {say('previews_title_valid')}"


def test_of_a_run_that_kept_no_split_its_metrics_say_which_images_are_shown(folder: RunFolder) -> None:
    images = {"image_ids": np.array(["007"])}
    measured = [{"epoch": 1, "train/loss": 1.0, "val/mre_px": 2.0}]
    assert shown_split(images, measured) == "valid"
    assert shown_split(images, [{"epoch": 1, "train/loss": 1.0, "val/mre_px": None}]) == "train"
    assert shown_split(images, []) is None and shown_split(None, measured) is None
    assert "validation" not in title_text(None)
