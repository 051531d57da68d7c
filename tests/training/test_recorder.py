"""What a training leaves in its run folder: status, previews, and requests that it answers."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backend.config import RunConfig
from backend.data.dataset import Batch
from backend.files import Row
from backend.run.folder import RunFolder
from backend.training import build
from backend.training.loop_state import LoopState, StopAskedError
from backend.training.out_of_memory import MemoryShortageError
from backend.training.phase import Phase
from backend.training.previews import PreviewImages, load_preview_batch
from backend.training.protocols import Metrics
from backend.training.recorder import Recorder
from backend.training.run_data import RunData
from backend.training.task import LandmarkTask
from backend.worker import train_run
from tests.training.tiny_runs import (
    LANDMARKS,
    best_of,
    last_of,
    losses,
    new_run,
    outcome_of,
    resume,
    rows_by_phase,
    rows_of,
)

CPU = torch.device("cpu")
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
    keys = completed.previews.list_keys()
    assert keys == [("train", 1), ("train", 2), ("refine", 1), ("refine", 2), ("refine", 3)]
    images = completed.previews.read_images()
    assert images is not None
    before, after = completed.previews.read(("train", 2)), completed.previews.read(("refine", 3))
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
        raise MemoryShortageError("the prediction after epoch 1", 1, 3, "no room")

    folder = new_run(tmp_path, tiny_dataset)
    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "write_preview", fail)
        assert train_run(folder) == 3
    assert outcome_of(folder)["reason"].startswith("out of memory in the prediction after epoch 1")
    assert losses(folder) == losses(completed)[:1] and last_of(folder)["epoch"] == 1
    resume(folder)
    assert losses(folder) == losses(completed) and len(folder.read_metrics()[0]) == len(rows_of(completed))


# A recorder with a training made by hand


@dataclass
class HandMade:
    """A training that predicts and knows its state, but learns nothing."""

    task: LandmarkTask
    loop: LoopState
    device: torch.device = CPU
    steps_per_epoch: int = 3
    last_scorer: Any = None

    def state_dict(self) -> dict[str, Any]:
        return {
            "model_state_dict": {"weight": torch.ones(1)},
            "raw_model_state_dict": {"weight": torch.zeros(1)},
        }

    def predict(self, batch: Batch) -> torch.Tensor:
        return torch.zeros(len(batch.rows), 3, *self.task.input_hw)


@pytest.fixture
def recorded(run_data: RunData, tmp_path: Path, tiny_dataset: Path) -> tuple[Recorder, HandMade, RunFolder]:
    folder = new_run(tmp_path, tiny_dataset)
    config = RunConfig.from_dict(folder.read_config())
    folder.checkpoint_path("last").parent.mkdir()
    task = build.build_task(config, LANDMARKS)
    images = build.build_images(config.settings, run_data.previews.samples, run_data.previews.store)
    previews = PreviewImages(run_data.previews.samples, load_preview_batch(images), "valid")
    phase = Phase("train", build.first_schedule(config.settings), 0.0, 1.0)
    data = replace(
        run_data,
        folder=folder,
        config=config,
        shape_prior=None,
        origin={"made_with": {}},
        stop=threading.Event(),
    )
    recorder = Recorder(data, phase, task, previews)
    return recorder, HandMade(task, LoopState(epoch=1, global_step=3)), folder


METRICS: Metrics = {"train/loss": 0.5, "images_per_s": 2.0, "epoch_s": 1.0, "val/mre_px": 3.0}


def test_the_best_epoch_is_saved_without_what_only_a_resume_needs(recorded: Any) -> None:
    recorder, training, folder = recorded
    recorder.on_epoch(training, METRICS, is_best=False)
    assert not folder.checkpoint_path("best").exists()
    recorder.on_epoch(training, METRICS, is_best=True)
    best = best_of(folder)
    assert best["model_state_dict"].keys() == {"weight"} and best["raw_model_state_dict"] == {}
    assert best["val_metrics"] == {"val/mre_px": 3.0} and best["landmark_names"] == list(LANDMARKS)
    recorder.save_last(training)
    assert last_of(folder)["raw_model_state_dict"].keys() == {"weight"}


def test_an_epoch_leaves_its_row_and_its_status(recorded: Any) -> None:
    recorder, training, folder = recorded
    recorder.on_epoch(training, METRICS, is_best=False)
    (row,) = folder.read_metrics()[0]
    assert (row["epoch"], row["phase"], row["val/mre_px"]) == (1, "train", 3.0)
    status = folder.read_status()
    assert status is not None and (status["epoch"], status["step"], status["images_per_s"]) == (2, 0, 2.0)


def test_what_is_requested_once_is_done_once_and_is_an_event(recorded: Any) -> None:
    recorder, training, folder = recorded
    training.loop.batch_index = 2
    folder.request("save_now")
    folder.request("preview_now")
    recorder.answer(training, recorder.poll())
    assert recorder.poll() == set() and folder.checkpoint_path("last").exists()
    preview = folder.previews.read(("train", 2))  # of the epoch under way
    assert preview is not None and (int(preview["step"]), int(preview["steps_per_epoch"])) == (2, 3)
    events = folder.read_events()[0]
    assert [event["kind"] for event in events] == ["save_now", "preview_now"]
    assert {event["phase"] for event in events} == {"train"}


def test_a_preview_that_is_stopped_is_no_event_and_leaves_no_file(recorded: Any, monkeypatch: Any) -> None:
    recorder, training, folder = recorded

    def stopped(_batch: Batch) -> torch.Tensor:
        raise StopAskedError

    monkeypatch.setattr(training, "predict", stopped)
    folder.request("preview_now")
    recorder.answer(training, recorder.poll())
    assert folder.read_events()[0] == [] and folder.previews.list_keys() == []
    recorder.on_epoch(training, METRICS, is_best=False)
    assert len(folder.read_metrics()[0]) == 1 and folder.previews.list_keys() == []


def test_a_status_is_written_at_most_once_a_second(recorded: Any, monkeypatch: Any) -> None:
    recorder, training, folder = recorded
    written = []
    monkeypatch.setattr(folder.__class__, "write_status", lambda _folder, status: written.append(status))
    for _ in range(5):
        recorder.on_step(training.loop, 3, 0.5, 2.0)
    assert len(written) == 1


def test_last_is_saved_as_often_as_it_costs_a_tenth_of_the_time(recorded: Any, monkeypatch: Any) -> None:
    recorder, training, _folder = recorded
    saved = []
    monkeypatch.setattr(recorder, "save_last", saved.append)
    recorder._save_cost_s = 3600.0
    recorder.on_epoch(training, METRICS, is_best=False)
    assert saved == []
    recorder._save_cost_s = 0.0
    recorder.on_epoch(training, METRICS, is_best=False)
    assert saved == [training]
    recorder._save_cost_s, training.loop.epoch = 3600.0, 2  # the last epoch
    recorder.on_epoch(training, METRICS, is_best=False)
    assert len(saved) == 2


def test_preview_images_are_up_to_four_with_their_annotations(recorded: Any) -> None:
    recorder, _training, folder = recorded
    recorder.write_preview_images()
    images = folder.previews.read_images()
    assert images is not None and len(images["image_ids"]) == 4
    assert images["truth_xy_image"].shape == (4, 3, 2) and str(images["split"]) == "valid"
    assert images["display_0"].ndim >= 2
