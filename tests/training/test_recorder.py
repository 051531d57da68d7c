"""What a training leaves in its run folder: status, previews, and requests that it answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.files import Row
from backend.run.folder import RunFolder
from backend.training.out_of_memory import MemoryShortage, MemoryShortageError
from backend.training.recorder import Recorder
from backend.worker import train_run
from tests.training.tiny_runs import (
    last_of,
    losses,
    new_run,
    outcome_of,
    resume,
    rows_by_phase,
    rows_of,
)

pytestmark = pytest.mark.usefixtures("tiny_network")


def test_status_leads_from_0_to_1_through_both_phases(completed: RunFolder, statuses: list[Row]) -> None:
    known = [status for status in statuses if "share_done" in status]
    shares = [status["share_done"] for status in known]
    assert shares == sorted(shares) and 0 < shares[0] < 0.2 and shares[-1] == 1.0
    assert [status["phase"] for status in known] == sorted((s["phase"] for s in known), reverse=True)
    assert {s["phase"]: s["refinement_follows"] for s in known} == {"train": True, "refine": False}
    ends = {status["phase"]: status for status in known}
    assert ends["train"]["share_done"] == pytest.approx(2 / 5)
    assert ends["refine"]["steps_per_epoch"] == 5 and ends["refine"]["num_epochs"] == 3
    status = completed.read_status()
    assert status is not None and (status["phase"], status["epoch"], status["seconds_left"]) == (
        "refine",
        3,
        0,
    )


def test_previews_of_a_refinement_are_maps_of_crops_about_the_first_networks_points(
    completed: RunFolder,
) -> None:
    keys = completed.preview_keys()
    assert keys == [("train", 1), ("train", 2), ("refine", 1), ("refine", 2), ("refine", 3)]
    images = completed.read_preview_images()
    assert images is not None
    before, after = completed.read_preview(("train", 2)), completed.read_preview(("refine", 3))
    assert before is not None and after is not None
    num = len(images["image_ids"])
    assert before["affine_heatmap_to_image"].shape == (num, 1, 2, 3)
    assert after["affine_heatmap_to_image"].shape == (num, 3, 2, 3)
    assert after["heatmaps"].shape == (num, 3, 16, 16) and after["heatmaps"].max() == 255
    # here all of validation is shown
    errors = np.linalg.norm(after["points_xy_image"] - images["truth_xy_image"], axis=-1)
    assert errors.mean() == pytest.approx(rows_by_phase(completed)["refine"][2]["val/mre_px"], rel=1e-3)
    # a crop of 32 pixels of 0.5 mm: the finest there is. Its map spans 16 cells of 2 of them
    corners = np.array([[-0.5, -0.5, 1], [15.5, 15.5, 1]])
    spans = corners @ after["affine_heatmap_to_image"].swapaxes(-1, -2)
    assert np.allclose(spans[..., 1, :] - spans[..., 0, :], 32)
    assert (np.abs(spans.mean(axis=-2) - after["points_xy_image"]) < 16.01).all()


def test_an_epoch_whose_preview_finds_no_memory_is_done_and_kept(
    completed: RunFolder, tmp_path: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: Any) -> None:
        raise MemoryShortageError("the prediction after epoch 1", 1, 3, MemoryShortage("no room", "no room"))

    folder = new_run(tmp_path, tiny_dataset)
    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "write_preview", fail)
        assert train_run(folder) == 3
    assert outcome_of(folder)["reason"].startswith("out of memory in the prediction after epoch 1")
    assert losses(folder) == losses(completed)[:1] and last_of(folder)["epoch"] == 1
    resume(folder)
    assert losses(folder) == losses(completed) and len(folder.read_metrics()[0]) == len(rows_of(completed))
