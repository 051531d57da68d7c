"""The tab's handlers over a run that was really trained, its predictions in a process of its own."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import train
from backend.data.annotations import read_annotations
from backend.flags import run_command
from backend.run.folder import RunFolder, create_run
from ui.annotator.picture import annotator_value, heatmap_source
from ui.annotator.uploads import Uploads
from ui.predict import prediction_process
from ui.predict import tab as predict_tab
from ui.predict.parts import PredictTab
from ui.predict.runs import run_choices, run_note_html
from ui.text.say import say

pytestmark = pytest.mark.slow

SETTINGS = [
    "--image_size",
    "64",
    "64",
    "--epochs",
    "1",
    "--batch_size",
    "4",
    "--num_workers",
    "0",
    "--no-refine",
]


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory: pytest.TempPathFactory, tiny_dataset: Path) -> Path:
    runs_dir = tmp_path_factory.mktemp("runs")
    flags = ["--dataset_path", str(tiny_dataset), *SETTINGS, "--runs_dir", str(runs_dir)]
    assert run_command(train.main, flags) == 0
    (runs_dir / "without-weights").mkdir()
    return runs_dir


@pytest.fixture
def tab(runs_dir: Path) -> PredictTab:
    # a component is only what an update is addressed to, so its name serves as well
    parts: dict[str, Any] = {field.name: field.name for field in fields(PredictTab)}
    parts["answers"] = SimpleNamespace(answered="answered")
    return PredictTab(**{**parts, "runs_dir": runs_dir})


@pytest.fixture
def uploads(tab: PredictTab, tiny_dataset: Path, tmp_path: Path) -> Iterator[Uploads]:
    """Two images and one file that is none, taken in by the page."""
    held = Uploads(typed_mm_per_px=0.5)
    for name in ("00.png", "01.png"):
        shutil.copy(tiny_dataset / name, tmp_path / name)
    (tmp_path / "bad.png").write_bytes(b"nonsense")
    files = [str(tmp_path / name) for name in ("00.png", "bad.png", "01.png")]
    *steps, updates = list(predict_tab.on_upload(tab, held, files))
    assert len(steps) == 3 and "2 of 3" in steps[1][tab.note]
    assert steps[0][tab.files] is None  # the field is free for more at once
    assert "bad.png is damaged" in updates[tab.note]
    assert updates[tab.images].count("<button") == 2 and updates[tab.predict]["interactive"] is True
    yield held
    predict_tab.on_session_end(held)


def predict(tab: PredictTab, uploads: Uploads) -> tuple[list[Any], dict[Any, Any]]:
    run_id = run_choices(tab.runs_dir)[0][1]
    *steps, last = list(predict_tab.on_predict(tab, uploads, run_id))
    return steps, last


def test_the_runs_with_weights_are_offered(tab: PredictTab) -> None:
    ((label, run_id),) = run_choices(tab.runs_dir)
    assert (
        label.startswith(f"{run_id} · hrnet · tiny_dataset") and ", 3 landmarks · " in label and "mm" in label
    )
    updates = predict_tab.on_open(tab, "a run that was deleted")
    assert label.rpartition(" · ")[2] in updates[tab.run_note] and "did not" not in updates[tab.run_note]
    assert updates[tab.run]["value"] == run_id and "newest first" in updates[tab.run]["info"]
    updates = predict_tab.on_open(replace(tab, runs_dir=tab.runs_dir / "nothing"), run_id)
    assert updates[tab.run]["value"] is None and "start one on the Train tab" in updates[tab.run]["info"]


def test_a_run_that_learnt_nothing_warns_before_it_predicts(tab: PredictTab, tmp_path: Path) -> None:
    runs_dir = Path(shutil.copytree(tab.runs_dir, tmp_path / "runs"))
    run_id = run_choices(runs_dir)[0][1]
    RunFolder(runs_dir / run_id).append_event("did_not_learn", "worse than <one> place for all")
    html = run_note_html(runs_dir, run_id)
    assert 'role="alert">⚠ worse than &lt;one&gt; place for all' in html and "validation images" in html
    assert run_note_html(runs_dir, "../elsewhere") == run_note_html(runs_dir, None) == ""


def test_a_run_that_was_not_validated_says_so(tmp_path: Path) -> None:
    folder = create_run(tmp_path, {}, "bare")
    folder.checkpoint_path("best").parent.mkdir()
    folder.checkpoint_path("best").touch()
    assert run_choices(tmp_path) == [(folder.run_id, folder.run_id)]
    assert "not validated" in run_note_html(tmp_path, folder.run_id)


def test_images_are_predicted_shown_corrected_and_exported(
    tab: PredictTab, uploads: Uploads, tmp_path: Path
) -> None:
    assert annotator_value(uploads)["names"] == []  # type: ignore[index]
    steps, last = predict(tab, uploads)
    assert steps and steps[0][tab.cancel]["visible"] is True and "<progress" in steps[0][tab.note]
    assert last[tab.cancel]["visible"] is False and last[tab.export_row]["visible"] is True
    assert "2 images, 3 landmarks each" in last[tab.note] and "its own validation images" in last[tab.note]
    value = last[tab.annotator]
    assert value["names"] == ["nose", "chin", "ear"] and value["points"] == value["predicted"]
    assert value["mm_per_px_xy"] == [0.5, 0.5] and "typed" in value["spacing"]

    asked = {key: value[key] for key in ("folder", "image", "width", "height")}
    one, both = (heatmap_source({**asked, "landmark": k}) for k in (0, -1))
    assert one.startswith("data:image/png;base64,") and one != both
    assert heatmap_source({**asked, "folder": "../..", "landmark": 0}) == ""

    moved = [[10.0, 11.0], None, value["points"][2]]
    message = {"folder": value["folder"], "image": value["image"], "points": moved, "number": 3}
    assert tab.images not in predict_tab.on_moved(tab, uploads, {**message, "folder": "removed"})
    updates = predict_tab.on_moved(tab, uploads, message)
    assert updates[tab.images].count("corrected") == 1
    again = predict_tab.on_moved(tab, uploads, message)
    assert tab.images not in again, "the list is sent again only where it changed"

    updates = predict_tab.on_export(tab, uploads, "csv_zip")
    with zipfile.ZipFile(updates[tab.file]["value"]) as archive:
        archive.extractall(tmp_path / "out")
    read = read_annotations(tmp_path / "out")
    assert np.array_equal(read.points_xy_image[0, 0, :2], [[10, 11], [np.nan, np.nan]], equal_nan=True)
    assert read.images["mm_per_px_x"].tolist() == [0.5, 0.5]


def test_a_mistake_is_told_with_its_cure(tab: PredictTab, uploads: Uploads) -> None:
    (updates,) = list(predict_tab.on_predict(tab, uploads, "../outside"))
    assert "No run has weights" in updates[tab.note]
    run_id = run_choices(tab.runs_dir)[0][1]
    (updates,) = list(predict_tab.on_predict(tab, Uploads(), run_id))
    assert "no images yet" in updates[tab.note]
    assert "press Predict first" in predict_tab.on_export(tab, uploads, "csv")[tab.note]
    predict(tab, uploads)
    updates = predict_tab.on_export(tab, uploads, "aariz_zip")
    assert "fixed list of 29" in updates[tab.note] and updates[tab.file]["visible"] is False


def test_what_was_decided_while_an_image_was_read_is_said(tab: PredictTab, tmp_path: Path) -> None:
    pages = [Image.fromarray(np.full((6, 4), value, np.uint8)) for value in (10, 20)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    held = Uploads()
    *_, updates = list(predict_tab.on_upload(tab, held, [str(tmp_path / "pages.tif")]))
    assert "pages.tif: a TIFF of 2 pages: only the first is used" in updates[tab.note]
    assert "Decided while reading the files" in updates[tab.note]
    predict_tab.on_session_end(held)


def test_a_process_that_fails_says_why(tab: PredictTab, uploads: Uploads, tmp_path: Path) -> None:
    damaged = RunFolder(
        Path(shutil.copytree(tab.runs_dir, tmp_path / "runs")) / run_choices(tab.runs_dir)[0][1]
    )
    damaged.checkpoint_path("best").write_bytes(b"nonsense")
    other = replace(tab, runs_dir=tmp_path / "runs")
    *_, updates = list(predict_tab.on_predict(other, uploads, damaged.run_id))
    assert "evaluation-failed" in updates[tab.note] and "best.pt" in updates[tab.note]
    assert updates[tab.predict]["interactive"] is True


def test_a_cancelled_prediction_changes_nothing(tab: PredictTab, uploads: Uploads) -> None:
    run_id = run_choices(tab.runs_dir)[0][1]
    going = predict_tab.on_predict(tab, uploads, run_id)
    assert next(going)[tab.cancel]["visible"] is True
    process = next(iter(prediction_process._started.values()))
    predict_tab.on_cancel(uploads)
    assert process.poll() is not None
    *_, updates = list(going)
    assert "Canceled" in updates[tab.note] and updates[tab.annotator]["points"] == []


def test_an_image_is_chosen_and_all_are_removed(tab: PredictTab, uploads: Uploads) -> None:
    second = uploads.images[1].key
    updates = predict_tab.on_choose(tab, uploads, second)
    assert updates[tab.annotator]["image"] == second
    assert tab.annotator not in predict_tab.on_choose(tab, uploads, "nowhere")
    folder = uploads.folder
    updates = predict_tab.on_clear(tab, uploads)
    assert folder is not None and not folder.exists()
    assert updates[tab.annotator] is None and updates[tab.empty]["visible"] is True
    assert updates[tab.predict]["interactive"] is False


def test_a_pixel_size_that_is_none_is_none(tab: PredictTab, uploads: Uploads) -> None:
    for typed, held, said in (
        ("0.2", 0.2, ""),
        (" ۰٫۱ ", 0.1, "= 0.1"),
        ("0,3", 0.3, "= 0.3"),
        ("1e-1", 0.1, "= 0.1"),
        ("", None, ""),
    ):
        updates = predict_tab.on_spacing(tab, uploads, typed)
        assert uploads.typed_mm_per_px == held
        field = updates[tab.spacing]
        assert "field-error" not in field["elem_classes"] and say("predict_mm_per_px_info") in field["info"]
        assert said in field["info"] and ("= " in field["info"]) is bool(said)
        assert updates[tab.file]["visible"] is False  # an export before it has another size
    for typed in ("-1", "nan", "inf", "a lot", "0.", "1,000"):
        uploads.typed_mm_per_px = 0.2
        updates = predict_tab.on_spacing(tab, uploads, typed)
        assert uploads.typed_mm_per_px is None  # not the one before, which the field does not show any more
        assert "field-error" in updates[tab.spacing]["elem_classes"]
        assert typed in updates[tab.spacing]["info"]
