"""The phases of a run: completed, finished early, without validation or refinement, out of memory."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from backend.config import RunConfig
from backend.data.dataset import Batch
from backend.files import Row
from backend.run.folder import RunFolder
from backend.training import build
from backend.training.task import LandmarkTask
from backend.worker import train_run
from models import build_model
from tests.tiny_network import TinyNetwork
from tests.training.tiny_runs import (
    DEFAULT_JITTER_PX,
    LANDMARKS,
    NUM_TRAIN,
    assert_same_weights,
    best_of,
    events_of,
    last_of,
    losses,
    new_run,
    oom_events,
    outcome_of,
    resume,
    rows_by_phase,
    rows_of,
    stop_at,
)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tiny_network")]


def test_both_phases_leave_their_rows_and_the_second_one_the_firsts_errors_too(completed: RunFolder) -> None:
    rows = rows_by_phase(completed)
    assert [row["epoch"] for row in rows["train"]] == [1, 2]
    assert [row["epoch"] for row in rows["refine"]] == [1, 2, 3]
    assert [row["global_step"] for row in rows["refine"]] == [5, 10, 15]
    unrefined = {row.get("val/unrefined_mre_px") for row in rows["train"]}
    assert unrefined == {None}
    best = min(row["val/mre_px"] for row in rows["train"])  # whose weights the refinement stands on
    for row in rows["refine"]:
        assert row["val/unrefined_mre_px"] == pytest.approx(best, rel=1e-6)
        assert row["val/unrefined_mre_mm"] == pytest.approx(best / 2, rel=1e-6)
        assert row["val/mre_mm"] == pytest.approx(row["val/mre_px"] / 2)
        assert all(math.isfinite(row[f"val/mre_px/{name}"]) for name in LANDMARKS)
    assert max(row["lr"] for row in rows["refine"]) <= 2e-3 < min(row["lr"] for row in rows["train"][:1])


def test_the_best_checkpoint_holds_both_networks_once_the_second_is_better(completed: RunFolder) -> None:
    rows = rows_by_phase(completed)
    best = best_of(completed)
    refined = {row["epoch"]: row["val/mre_px"] for row in rows["refine"]}
    assert min(refined.values()) < rows["refine"][0]["val/unrefined_mre_px"], "else this run shows nothing"
    assert (best["phase"], best["best_mre"]) == ("refine", min(refined.values()))
    assert refined[best["epoch"]] == best["best_mre"]
    TinyNetwork(3).load_state_dict(best["model_state_dict"])
    second = best["networks"]["refine"]
    config = RunConfig.from_dict(best["args"])
    build.build_refiner(config, 3).load_state_dict(second["model_state_dict"])
    assert (second["sigma"], second["output_stride"], second["jitter_px"]) == (
        2.0,
        2,
        DEFAULT_JITTER_PX,
    )
    assert second["unrefined"] == {
        name: rows["refine"][0][f"val/unrefined_{name}"] for name in ("mre_px", "mre_mm")
    }
    assert best["sigma"] == 0.75 and best["output_stride"] == 1  # the first network's, as ever


def test_the_last_checkpoint_resumes_the_second_network_and_carries_the_first(completed: RunFolder) -> None:
    best, last = best_of(completed), last_of(completed)
    assert (last["phase"], last["epoch"], last["loop"]["global_step"]) == ("refine", 3, 15)
    assert_same_weights(last["model_state_dict"], best["model_state_dict"])
    assert last["raw_model_state_dict"].keys() == last["networks"]["refine"]["model_state_dict"].keys()


def test_a_resumed_completed_run_trains_no_more(completed: RunFolder, tmp_path: Path) -> None:
    folder = RunFolder(Path(shutil.copytree(completed.path, tmp_path / completed.run_id)))
    before = folder.read_metrics()[0]
    resume(folder)
    assert folder.read_metrics()[0] == before
    assert events_of(folder, "crop_jitter") == events_of(completed, "crop_jitter")[:1]


def test_a_refiner_that_never_beats_the_first_network_is_not_kept(tmp_path: Path, tiny_dataset: Path) -> None:
    # weights that hardly move from their random start, on crops of 64 pixels: far worse than any first
    # network here
    folder = new_run(tmp_path, tiny_dataset, refine_lr=1e-9, refine_epochs=1, crop_size=64)
    assert train_run(folder) == 0
    (row,) = rows_by_phase(folder)["refine"]
    assert row["val/mre_px"] > row["val/unrefined_mre_px"]
    best, last = best_of(folder), last_of(folder)
    assert (best["phase"], best["networks"]) == ("train", {})
    assert last["phase"] == "refine" and "refine" in last["networks"]
    assert last["best_mre"] == pytest.approx(best["best_mre"], rel=1e-6)
    assert "no better than the first network" in outcome_of(folder)["reason"]
    assert_same_weights(best["model_state_dict"], last["model_state_dict"])


def test_without_refinement_a_run_has_one_phase(tmp_path: Path, tiny_dataset: Path) -> None:
    folder = new_run(tmp_path, tiny_dataset, refine=False)
    assert train_run(folder) == 0
    assert {row["phase"] for row in rows_of(folder)} == {"train"}
    assert best_of(folder)["networks"] == last_of(folder)["networks"] == {}
    status = folder.read_status()
    assert status is not None and (status["share_done"], status["refinement_follows"]) == (1.0, False)


@pytest.mark.parametrize(("epochs", "asked_in"), [(5, 1), (2, 2)], ids=["in its middle", "at its end"])
def test_finish_during_the_first_phase_ends_without_a_refinement(
    tmp_path: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch, epochs: int, asked_in: int
) -> None:
    append = RunFolder.append_metrics

    def append_and_ask(folder: RunFolder, row: Row) -> None:
        append(folder, row)
        if row["epoch"] == asked_in:
            folder.request("finish")

    folder = new_run(tmp_path, tiny_dataset, epochs=epochs)
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "append_metrics", append_and_ask)
        assert train_run(folder) == 0
    assert outcome_of(folder)["state"] == "finished_early"
    assert {row["phase"] for row in rows_of(folder)} == {"train"} and len(rows_of(folder)) == asked_in
    assert best_of(folder)["networks"] == {}
    resume(folder)
    assert [row["epoch"] for row in rows_by_phase(folder)["refine"]] == [1, 2, 3]
    assert outcome_of(folder)["state"] == "completed"


def test_finish_during_the_refinement_keeps_the_best_of_both(
    tmp_path: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = RunFolder.append_metrics

    def append_and_ask(folder: RunFolder, row: Row) -> None:
        append(folder, row)
        if row["phase"] == "refine":
            folder.request("finish")

    monkeypatch.setattr(RunFolder, "append_metrics", append_and_ask)
    folder = new_run(tmp_path, tiny_dataset)
    assert train_run(folder) == 0
    assert outcome_of(folder)["state"] == "finished_early"
    assert [row["epoch"] for row in rows_by_phase(folder)["refine"]] == [1]
    assert best_of(folder)["best_mre"] == min(row["val/mre_px"] for row in rows_of(folder))


def test_without_validation_the_last_weights_of_both_networks_are_kept(
    tmp_path: Path, tiny_dataset: Path
) -> None:
    folder = new_run(tmp_path, tiny_dataset, val_fraction=0)
    assert train_run(folder) == 0
    best, last = best_of(folder), last_of(folder)
    assert best["phase"] == last["phase"] == "refine" and best["epoch"] == last["epoch"] == 3
    assert_same_weights(best["model_state_dict"], last["model_state_dict"])
    both = [content["networks"]["refine"] for content in (best, last)]
    assert_same_weights(*(second["model_state_dict"] for second in both))
    assert both[0]["jitter_px"] == DEFAULT_JITTER_PX and both[0]["unrefined"] == {}
    (told,) = events_of(folder, "crop_jitter")
    assert f"{DEFAULT_JITTER_PX:.1f} crop pixels" in told
    assert not [name for row in rows_of(folder) for name in row if name.startswith("val/")]


@pytest.mark.parametrize("batch_size", [1, 2])  # 9 images by twos: the last one is alone
def test_an_image_of_one_cell_alone_in_its_batch_is_a_mistake_with_a_cure(
    tmp_path: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch, batch_size: int
) -> None:
    monkeypatch.setattr(build, "build_model", build_model)
    settings = {"model": "unet", "image_size": (32, 32), "batch_size": batch_size, "refine": False}
    folder = new_run(tmp_path, tiny_dataset, **settings)
    assert train_run(folder) == 2
    outcome = outcome_of(folder)
    assert outcome["state"] == "failed" and "batch normalization" in outcome["reason"]
    assert "leaves no image of an epoch alone" in outcome["reason"]


def cramp(patch: pytest.MonkeyPatch, phase: str, from_call: int, room: int) -> list[list[int]]:
    """Room for so many images at once in a phase's training, from a call of the loss on. Returns the rows it
    trains."""
    compute_loss = LandmarkTask.compute_loss
    trained: list[list[int]] = []
    calls = []

    def within_room(task: LandmarkTask, outputs: Any, batch: Batch) -> Tensor:
        if not torch.is_grad_enabled() or (batch.images.ndim == 5) is not (phase == "refine"):
            return compute_loss(task, outputs, batch)
        calls.append(len(batch.rows))
        if len(calls) >= from_call and len(batch.rows) > room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        trained.append(batch.rows.tolist())
        return compute_loss(task, outputs, batch)

    patch.setattr(LandmarkTask, "compute_loss", within_room)
    return trained


def test_a_refinement_that_runs_out_of_memory_goes_on_with_single_images(
    completed: RunFolder, tmp_path: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At step 7, in its second epoch of five steps of 2 images, 6 crops: an image alone still is three of
    them."""
    trained = cramp(monkeypatch, "refine", 7, room=1)
    folder = new_run(tmp_path, tiny_dataset)
    assert train_run(folder) == 0
    (event,) = oom_events(folder)
    words = "in epoch 2, step 7: back to the state after epoch 1, a step now takes 2 parts of 1 image;"
    assert words in event["message"] and "the effective batch stays 2" in event["message"]
    assert (event["phase"], event["epoch"], event["micro_batch"]) == ("refine", 2, 1)
    rows = rows_by_phase(folder)
    assert [row["epoch"] for row in rows["refine"]] == [1, 2, 3]
    assert [row["global_step"] for row in rows["refine"]] == [5, 10, 15]
    assert [row["micro_batch"] for row in rows["refine"]] == [None, 1, 1]
    assert losses(folder)[:3] == losses(completed)[:3]  # up to the first epoch of the refinement
    repeated = trained[6:]
    assert len(repeated) == 18 and all(len(part) == 1 for part in repeated)
    for epoch in (repeated[:9], repeated[9:]):
        assert sorted(row for part in epoch for row in part) == list(range(NUM_TRAIN))
    last = last_of(folder)
    assert (last["phase"], last["loop"]["micro_batch"]) == ("refine", {"limit": 1, "num_retries": 1})
    status = folder.read_status()
    assert status is not None and status["micro_batch"] == 1


def test_resumed_after_a_shortage_a_refinement_goes_on_with_single_images(
    tmp_path: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, whole = new_run(tmp_path, tiny_dataset), new_run(tmp_path, tiny_dataset)
    with monkeypatch.context() as patch:
        cramp(patch, "refine", 7, room=1)
        assert train_run(whole) == 0
    with monkeypatch.context() as patch:
        cramp(patch, "refine", 7, room=1)
        stop_at(patch, "refine", 11)
        assert train_run(first) == 130
    resume(first)
    assert losses(first) == losses(whole) and len(oom_events(first)) == 1
    assert rows_of(first)[-1]["micro_batch"] == 1


def test_each_phase_has_parts_of_its_own(
    tmp_path: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = new_run(tmp_path, tiny_dataset, batch_size=5)
    cramp(monkeypatch, "train", 3, room=3)
    assert train_run(folder) == 0
    (event,) = oom_events(folder)
    assert (event["phase"], event["epoch"], event["largest_part"]) == ("train", 2, 3)
    rows = rows_by_phase(folder)
    assert [row["micro_batch"] for row in rows["train"]] == [None, 3]
    assert [row["micro_batch"] for row in rows["refine"]] == [None, None, None]
    assert {row["pass_micro_batch"] for row in rows_of(folder)} == {None}
