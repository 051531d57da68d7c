"""Both phases of a run, on the tiny data set and with a first network that is quick and wayward."""

from __future__ import annotations

import csv
import json
import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from backend.config import Choice, RunConfig, Settings
from backend.data.annotations.builder import UNKNOWN_SPACING
from backend.data.dataset import Batch
from backend.data.shape_prior import ShapePrior, fit_shape_prior
from backend.files import Row
from backend.run.best import MeanError
from backend.run.folder import RunFolder, create_run, merge_metrics
from backend.training import build, phases
from backend.training.checkpoint import load_checkpoint
from backend.training.engine import Trainer
from backend.training.inference import load_predictor, unlabelled_samples
from backend.training.loop_state import Best, LoopState
from backend.training.out_of_memory import Shortage, ShortOfMemoryError
from backend.training.recorder import Recorder
from backend.training.run_data import Job, prepare
from backend.training.task import LandmarkTask
from backend.worker import train_run
from models import build_model
from tests.tiny_network import TinyNetwork

LANDMARKS = ("nose", "chin", "ear")
NUM_TRAIN = 9  # of the tiny data set's 12 images
# of crops of 32 pixels: an eighth, and from a thirty-second to three sixteenths
DEFAULT_JITTER_PX, JITTER_LIMITS_PX = 4.0, (1.0, 6.0)


@pytest.fixture(scope="module", autouse=True)
def tiny_network() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "build_model", lambda name, num, output_stride: TinyNetwork(num, 0.1))
        yield


def new_run(runs_dir: Path, dataset: Path, **values: Any) -> RunFolder:
    """Two epochs of three steps, then three of five: 9 images, 3 and 2 of them a step."""
    defaults: dict[str, Any] = {
        "image_size": (64, 64),
        "batch_size": 3,
        "epochs": 2,
        "lr": 1e-2,
        "warmup_epochs": 0,
        "val_fraction": 0.25,
        "refine_epochs": 3,
        "num_refiners": 1,
        "prediction_crops": 1,
        "refine_crops": 6,
        "crop_size": 32,
    }
    settings = Settings(**{**defaults, **values}, dataset_path=str(dataset), device="cpu", num_workers=0)
    chosen = {"dataset_path": Choice(str(dataset), "as asked"), "mixed_precision": Choice(False, "a CPU")}
    return create_run(runs_dir, RunConfig(settings, chosen).to_dict(), "tiny")


def rows_of(folder: RunFolder) -> list[Row]:
    return merge_metrics(folder.read_metrics()[0])


def rows_by_phase(folder: RunFolder) -> dict[str, list[Row]]:
    rows = rows_of(folder)
    return {phase: [row for row in rows if row["phase"] == phase] for phase in ("train", "refine")}


def losses(folder: RunFolder) -> list[tuple[Any, ...]]:
    names = ("phase", "epoch", "global_step", "lr", "train/loss", "val/loss", "val/mre_px")
    return [tuple(row.get(name) for name in names) for row in rows_of(folder)]


def outcome_of(folder: RunFolder) -> Row:
    outcome = folder.read_outcome()
    assert outcome is not None
    return outcome


def best_of(folder: RunFolder) -> dict[str, Any]:
    return load_checkpoint(folder.checkpoint_path("best"))


def last_of(folder: RunFolder) -> dict[str, Any]:
    return load_checkpoint(folder.checkpoint_path("last"))


def events_of(folder: RunFolder, kind: str) -> list[str]:
    return [event["message"] for event in folder.read_events()[0] if event["kind"] == kind]


def resume(folder: RunFolder) -> None:
    folder.set_outcome_aside()
    folder.clear_requests()
    assert train_run(folder) == 0


def assert_same_weights(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


# A run that completes


@pytest.fixture(scope="module")
def statuses() -> list[Row]:
    """What the completed run said of itself, filled by it."""
    return []


@pytest.fixture(scope="module")
def completed(tmp_path_factory: pytest.TempPathFactory, tiny_dataset: Path, statuses: list[Row]) -> RunFolder:
    folder = new_run(tmp_path_factory.mktemp("runs"), tiny_dataset)
    write = RunFolder.write_status

    def write_and_note(run: RunFolder, status: Row) -> None:
        statuses.append(dict(status))
        write(run, status)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "write_status", write_and_note)
        assert train_run(folder) == 0
    return folder


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


def test_too_few_validation_images_choose_no_jitter(completed: RunFolder) -> None:
    (told,) = events_of(completed, "crop_jitter")  # 3 images, 3 landmarks: 18 errors
    assert f"{DEFAULT_JITTER_PX:.1f} crop pixels" in told and "too few validation images" in told


def test_a_resumed_completed_run_trains_no_more(completed: RunFolder, tmp_path: Path) -> None:
    before = completed.read_metrics()[0]
    resume(completed)
    assert completed.read_metrics()[0] == before
    assert events_of(completed, "crop_jitter") == events_of(completed, "crop_jitter")[:1]


# A second network that is no better


def test_a_refiner_that_never_beats_the_first_network_is_not_kept(tmp_path: Path, tiny_dataset: Path) -> None:
    # weights that hardly move from their random start, on crops of 64 pixels: far worse than any first network here
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


# Interrupted, and gone on with


def stop_at(patch: pytest.MonkeyPatch, phase: str, global_step: int) -> None:
    """Ask for a stop after a step of a phase."""
    on_step = Recorder.on_step

    def step_and_ask(recorder: Recorder, loop: LoopState, *rest: Any) -> None:
        on_step(recorder, loop, *rest)
        if recorder._phase.name == phase and loop.global_step == global_step:
            recorder._folder.request("stop")

    patch.setattr(Recorder, "on_step", step_and_ask)


@pytest.mark.parametrize(
    ("phase", "global_step"),
    [("train", 2), ("train", 3), ("train", 6), ("refine", 1), ("refine", 7), ("refine", 10)],
    ids=[
        "in the first phase",
        "at its epoch's end",
        "at its end",
        "refining",
        "in its middle",
        "at an epoch's end",
    ],
)
def test_a_run_stopped_in_either_phase_goes_on_with_exactly_the_losses_of_an_undisturbed_one(
    completed: RunFolder, tmp_path: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch, phase: str,
    global_step: int,
) -> None:  # fmt: skip
    folder = new_run(tmp_path, tiny_dataset)
    with monkeypatch.context() as patch:
        stop_at(patch, phase, global_step)
        assert train_run(folder) == 130
    last = last_of(folder)
    assert (last["phase"], last["loop"]["global_step"]) == (phase, global_step)
    resume(folder)
    assert events_of(folder, "resumed")[0].endswith(f"of phase {phase}")
    assert losses(folder) == losses(completed)
    assert_same_weights(
        best_of(folder)["networks"]["refine"]["model_state_dict"],
        best_of(completed)["networks"]["refine"]["model_state_dict"],
    )


def ask_in_a_pass(patch: pytest.MonkeyPatch, phase: str, epoch: int, owner: Any, name: str, ask: Any) -> None:
    """Ask for something at the beginning of a pass of an epoch: `Trainer.validate` or `Recorder.write_preview`."""
    run = getattr(owner, name)

    def asked(first: Any, *rest: Any) -> Any:
        recorder = first if isinstance(first, Recorder) else first._observer
        trainer = rest[0] if rest else first
        if (recorder._phase.name, trainer.loop.epoch) == (phase, epoch):
            ask(recorder)
        return run(first, *rest)

    patch.setattr(owner, name, asked)


ASKS = [
    pytest.param(lambda recorder: recorder._folder.request("stop"), id="request"),
    pytest.param(lambda recorder: recorder._stop.set(), id="signal"),
]


@pytest.mark.parametrize("ask", ASKS)
@pytest.mark.parametrize(("phase", "epoch"), [("train", 0), ("train", 1), ("refine", 1)])
def test_cancel_during_a_validation_gives_it_up_and_loses_no_step(
    completed: RunFolder, tmp_path: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch, phase: str,
    epoch: int, ask: Any,
) -> None:  # fmt: skip
    folder = new_run(tmp_path, tiny_dataset)
    with monkeypatch.context() as patch:
        ask_in_a_pass(patch, phase, epoch, Trainer, "validate", ask)
        assert train_run(folder) == 130
    before = losses(folder)
    assert before == losses(completed)[: len(before)] and len(before) == epoch + 2 * (phase == "refine")
    last = last_of(folder)
    assert last["loop"]["global_step"] == (epoch + 1) * {"train": 3, "refine": 5}[phase]
    assert outcome_of(folder)["reason"].startswith(f"stopped in epoch {epoch + 1} of ")
    resume(folder)
    assert losses(folder) == losses(completed) and len(folder.read_metrics()[0]) == 5
    assert best_of(folder)["best_mre"] == best_of(completed)["best_mre"]
    assert_same_weights(last_of(folder)["raw_model_state_dict"], last_of(completed)["raw_model_state_dict"])


@pytest.mark.parametrize("phase", ["train", "refine"])
def test_cancel_during_a_preview_closes_the_epoch_without_it(
    completed: RunFolder, tmp_path: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    folder = new_run(tmp_path, tiny_dataset)
    with monkeypatch.context() as patch:
        stop = lambda recorder: recorder._folder.request("stop")  # noqa: E731
        ask_in_a_pass(patch, phase, 1, Recorder, "write_preview", stop)
        assert train_run(folder) == 130
    assert losses(folder) == losses(completed)[: 1 if phase == "train" else 3]
    assert (phase, 1) not in folder.preview_keys() and last_of(folder)["epoch"] == 1
    assert outcome_of(folder)["reason"].startswith("stopped after epoch 1 of ")
    resume(folder)
    assert losses(folder) == losses(completed) and len(folder.read_metrics()[0]) == 5


@pytest.mark.parametrize("resumes", [False, True])
def test_cancel_during_the_predictions_of_the_first_network_is_heeded(
    completed: RunFolder, tmp_path: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch, resumes: bool
) -> None:
    """At the change of phase, and when a refinement goes on."""
    folder = new_run(tmp_path, tiny_dataset)
    if resumes:
        with monkeypatch.context() as patch:
            stop_at(patch, "refine", 7)
            assert train_run(folder) == 130
        folder.set_outcome_aside()
        folder.clear_requests()
    predict, num_predicted = phases.predict_batches, []

    def ask_and_predict(*arguments: Any, **more: Any) -> Any:
        folder.request("stop")
        found = predict(*arguments, **more)
        num_predicted.append(found)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(phases, "predict_batches", ask_and_predict)
        assert train_run(folder) == 130
    assert num_predicted == [] and outcome_of(folder)["reason"] == (
        "stopped in the predictions of the first network; resume goes on from there"
    )
    resume(folder)
    assert losses(folder) == losses(completed)


def die(*_arguments: Any) -> None:
    raise RuntimeError("killed")


def killed_between_the_phases(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(phases, "_build_refinement", die)


def killed_before_the_refiner_was_saved(patch: pytest.MonkeyPatch) -> None:
    """Its first epoch is in the metrics and maybe in best.pt, but last.pt is the first phase's."""
    save_last = Recorder.save_last

    def save_or_die(recorder: Recorder, trainer: Any) -> None:
        if recorder._phase.name == "refine":
            die()
        save_last(recorder, trainer)

    patch.setattr(Recorder, "save_last", save_or_die)


@pytest.mark.parametrize("killed", [killed_between_the_phases, killed_before_the_refiner_was_saved])
def test_a_run_killed_about_the_change_of_phase_goes_on_as_if_nothing_had_happened(
    completed: RunFolder, tmp_path: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch,
    killed: Callable[[pytest.MonkeyPatch], None],
) -> None:  # fmt: skip
    folder = new_run(tmp_path, tiny_dataset)
    with monkeypatch.context() as patch:
        killed(patch)
        assert train_run(folder) == 1
    last = last_of(folder)
    assert (last["phase"], last["epoch"]) == ("train", 2)
    resume(folder)
    assert losses(folder) == losses(completed)
    assert best_of(folder)["best_mre"] == best_of(completed)["best_mre"]


# What best.pt holds


def killed_with_an_old_last(patch: pytest.MonkeyPatch, phase: str, saved: int, killed: int) -> None:
    """Killed when an epoch of a phase has its best.pt but no row yet; last.pt was not written after epoch `saved`."""
    save_last, append = Recorder.save_last, RunFolder.append_metrics

    def save_first_ones(recorder: Recorder, trainer: Any) -> None:
        if recorder._phase.name != phase or trainer.loop.epoch <= saved:
            save_last(recorder, trainer)

    def append_or_die(folder: RunFolder, row: Row) -> None:
        if (row["phase"], row["epoch"]) == (phase, killed):
            die()
        append(folder, row)

    patch.setattr(Recorder, "save_last", save_first_ones)
    patch.setattr(RunFolder, "append_metrics", append_or_die)


LONG: dict[str, Any] = {"epochs": 5, "refine_epochs": 5, "lr": 3e-3, "refine_lr": 1e-3}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, tiny_dataset: Path) -> RunFolder:
    folder = new_run(tmp_path_factory.mktemp("runs"), tiny_dataset, **LONG)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    assert train_run(folder) == 0
    torch.set_num_threads(before)
    return folder


@pytest.mark.parametrize("saved", [0, 1])
@pytest.mark.parametrize("phase", ["train", "refine"])
def test_a_killed_run_never_replaces_its_best_weights_by_worse_ones(
    undisturbed: RunFolder, tmp_path: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch, phase: str,
    saved: int,
) -> None:  # fmt: skip
    """last.pt is two or three epochs older than best.pt; then stopped after the next epoch, and gone on with."""
    folder = new_run(tmp_path, tiny_dataset, **LONG)
    with monkeypatch.context() as patch:
        killed_with_an_old_last(patch, phase, saved, killed=3)
        assert train_run(folder) == 1
    held = best_of(folder)
    assert (held["phase"], held["epoch"]) == (phase, 3), "else this run shows nothing"
    folder.set_outcome_aside()
    folder.clear_requests()
    with monkeypatch.context() as patch:
        steps = {"train": 3, "refine": 5}[phase]
        stop_at(patch, phase, (saved + 1) * steps + 1)
        assert train_run(folder) == 130
    assert best_of(folder)["best_mre"] == held["best_mre"] and best_of(folder)["epoch"] == 3
    resume(folder)
    ours, theirs = best_of(folder), best_of(undisturbed)
    for key in ("phase", "epoch", "best_mre", "best_mre_mm", "val_metrics"):
        assert ours[key] == theirs[key], key
    assert_same_weights(ours["model_state_dict"], theirs["model_state_dict"])
    assert_same_weights(*(c["networks"]["refine"]["model_state_dict"] for c in (ours, theirs)))
    assert losses(folder) == losses(undisturbed)
    assert last_of(folder)["loop"] == last_of(undisturbed)["loop"]
    assert outcome_of(folder)["reason"] == outcome_of(undisturbed)["reason"]


@pytest.mark.parametrize("phase", ["train", "refine"])
def test_without_validation_a_killed_run_ends_with_the_last_weights(
    tmp_path: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    folder = new_run(tmp_path, tiny_dataset, val_fraction=0, epochs=4, refine_epochs=4)
    with monkeypatch.context() as patch:
        killed_with_an_old_last(patch, phase, saved=1, killed=3)
        assert train_run(folder) == 1
    resume(folder)
    best, last = best_of(folder), last_of(folder)
    assert (best["phase"], best["epoch"]) == (last["phase"], last["epoch"]) == ("refine", 4)
    assert_same_weights(*(c["networks"]["refine"]["model_state_dict"] for c in (best, last)))


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:500])])
@pytest.mark.parametrize("phase", ["train", "refine"])
def test_a_best_file_that_is_gone_or_damaged_is_made_anew_from_the_last(
    undisturbed: RunFolder, tmp_path: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch, phase: str,
    damage: Callable[[Path], Any],
) -> None:  # fmt: skip
    """Stopped in epoch 3; what comes after it is the best that is left, whatever was lost."""
    folder = new_run(tmp_path, tiny_dataset, **LONG)
    with monkeypatch.context() as patch:
        stop_at(patch, phase, {"train": 7, "refine": 11}[phase])
        assert train_run(folder) == 130
    damage(folder.checkpoint_path("best"))
    resume(folder)
    assert len(events_of(folder, "best_restored")) == 1
    rows = rows_by_phase(folder)["refine"]
    assert (
        losses(folder)[: 5 if phase == "train" else 7] == losses(undisturbed)[: 5 if phase == "train" else 7]
    )
    expected = min(rows[2 if phase == "refine" else 0 :], key=lambda row: row["val/mre_mm"])
    assert (best_of(folder)["epoch"], best_of(folder)["best_mre"]) == (
        expected["epoch"],
        expected["val/mre_px"],
    )


def test_a_best_file_that_cannot_be_read_at_this_moment_is_not_replaced(
    tmp_path: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = new_run(tmp_path, tiny_dataset)
    with monkeypatch.context() as patch:
        stop_at(patch, "train", 4)
        assert train_run(folder) == 130
    before, load = folder.checkpoint_path("best").read_bytes(), torch.load

    def refuse(path: Path, **more: Any) -> Any:
        if path.name == "best.pt":
            raise PermissionError("another program holds it")
        return load(path, **more)

    folder.set_outcome_aside()
    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", refuse)
        assert train_run(folder) == 2
    assert folder.checkpoint_path("best").read_bytes() == before


def test_a_refinement_killed_before_it_was_first_saved_keeps_what_it_has_on_anothers_first_network(
    undisturbed: RunFolder, tmp_path: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no last.pt yet: the first network is not taken over once more in place of the refined one."""
    folder = new_run(tmp_path, tiny_dataset, **LONG, **first_of(undisturbed))
    with monkeypatch.context() as patch:
        killed_with_an_old_last(patch, "refine", saved=0, killed=3)
        assert train_run(folder) == 1
    held = best_of(folder)
    assert held["phase"] == "refine" and not folder.checkpoint_path("last").exists()
    folder.set_outcome_aside()
    with monkeypatch.context() as patch:
        stop_at(patch, "refine", 6)
        assert train_run(folder) == 130
    assert best_of(folder)["best_mre"] == held["best_mre"]
    resume(folder)
    assert best_of(folder)["best_mre"] == best_of(undisturbed)["best_mre"]


# Out of memory


def cramp(patch: pytest.MonkeyPatch, phase: str, from_call: int, room: int) -> list[list[int]]:
    """Room for so many images at once in a phase's training, from a call of the loss on. Returns the rows it trains."""
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


def oom_events(folder: RunFolder) -> list[Row]:
    return [event for event in folder.read_events()[0] if event["kind"] == "oom_retry"]


def test_a_refinement_that_runs_out_of_memory_goes_on_with_single_images(
    completed: RunFolder, tmp_path: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At step 7, in its second epoch of five steps of 2 images, 6 crops: an image alone still is three of them."""
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


def test_predictions_between_the_phases_are_repeated_in_parts(
    completed: RunFolder, tmp_path: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict = phases.predict_batches

    def within_room(*arguments: Any, **more: Any) -> Any:
        if arguments[-1].limit is None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return predict(*arguments, **more)

    monkeypatch.setattr(phases, "predict_batches", within_room)
    folder = new_run(tmp_path, tiny_dataset)
    assert train_run(folder) == 0
    previews, valid = oom_events(folder)
    assert previews["message"] == valid["message"]
    assert previews["message"] == (
        "out of memory in predictions of the first network: 2 images at once now (retry 1 of 3)"
    )
    rows, expected = rows_by_phase(folder)["refine"], rows_by_phase(completed)["refine"]
    for row, whole in zip(rows, expected, strict=True):
        assert row["val/unrefined_mre_px"] == pytest.approx(whole["val/unrefined_mre_px"], rel=1e-5)


def test_an_epoch_whose_preview_finds_no_memory_is_done_and_kept(
    completed: RunFolder, tmp_path: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: Any) -> None:
        raise ShortOfMemoryError("the prediction after epoch 1", 1, 3, Shortage("no room", "no room"))

    folder = new_run(tmp_path, tiny_dataset)
    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "write_preview", fail)
        assert train_run(folder) == 3
    assert outcome_of(folder)["reason"].startswith("out of memory in the prediction after epoch 1")
    assert losses(folder) == losses(completed)[:1] and last_of(folder)["epoch"] == 1
    resume(folder)
    assert losses(folder) == losses(completed) and len(folder.read_metrics()[0]) == len(rows_of(completed))


def test_asked_to_stop_a_shortage_between_the_phases_ends_the_run_and_it_can_be_resumed(
    completed: RunFolder, tmp_path: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: Any, **_more: Any) -> None:
        raise MemoryError

    folder = new_run(tmp_path, tiny_dataset, on_oom="stop")
    with monkeypatch.context() as patch:
        patch.setattr(phases, "predict_batches", fail)
        assert train_run(folder) == 3
    outcome = outcome_of(folder)
    assert outcome["state"] == "out_of_memory"
    words = "out of memory in predictions of the first network, with 3 images at once. Free memory"
    assert outcome["reason"].startswith(words) and "MemoryError" in outcome["traceback"]
    resume(folder)
    assert losses(folder) == losses(completed)


# Ended early


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


# Without validation


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


# The jitter


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, tiny_dataset: Path) -> Job:
    """Six validation images of three landmarks: 36 errors."""
    folder = new_run(tmp_path_factory.mktemp("runs"), tiny_dataset, val_fraction=0.5)
    return prepare(folder, RunConfig.from_dict(folder.read_config()), threading.Event())


@pytest.mark.parametrize(
    ("error_px", "jitter_px"),
    [(2.0, 1.5 * 2 / 0.6745), (0.1, JITTER_LIMITS_PX[0]), (60.0, JITTER_LIMITS_PX[1])],
)
def test_jitter_follows_the_first_networks_errors_within_limits(
    job: Job, error_px: float, jitter_px: float
) -> None:
    assert job.valid is not None
    truth = job.valid.samples.points_xy_image.astype(np.float64)
    signs = np.resize([1.0, -1.0, -1.0], truth.shape)
    found = truth + error_px * signs  # a crop pixel is an image pixel here: 0.3 mm is finer than 0.5
    found[0, 0] = 1000.0  # one wild error moves the middle of 36 by nothing
    chosen = phases._choose_jitter(job, phases._FirstPoints(found, found, {}))
    assert chosen == pytest.approx(jitter_px, rel=1e-4)
    assert f"{jitter_px:.1f} crop pixels off in training" in events_of(job.folder, "crop_jitter")[-1]


def test_jitter_is_as_asked_without_a_word(tmp_path: Path, tiny_dataset: Path) -> None:
    folder = new_run(tmp_path, tiny_dataset, crop_jitter=3.5, epochs=1, refine_epochs=1)
    assert train_run(folder) == 0
    assert last_of(folder)["networks"]["refine"]["jitter_px"] == 3.5
    assert events_of(folder, "crop_jitter") == []


# Other data


def copy_of(
    dataset: Path, folder: Path, change: Callable[[int, dict[str, str], np.ndarray[Any, Any]], Any]
) -> Path:
    """The tiny data set with each row and image changed; `change` returns the image."""
    folder.mkdir()
    with (dataset / "annotations.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows):
        image = cv2.imread(str(dataset / row["image"]), cv2.IMREAD_UNCHANGED)
        assert image is not None
        cv2.imwrite(str(folder / row["image"]), change(number, row, image))
    with (folder / "annotations.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return folder


def test_a_landmark_marked_on_no_training_image_is_neither_learnt_nor_in_the_checkpoint(
    tmp_path: Path, tiny_dataset: Path
) -> None:
    def without_chin(_number: int, row: dict[str, str], image: np.ndarray[Any, Any]) -> Any:
        row["chin_x"] = row["chin_y"] = ""
        return image

    folder = new_run(tmp_path / "runs", copy_of(tiny_dataset, tmp_path / "data", without_chin))
    assert train_run(folder) == 0
    assert best_of(folder)["landmark_names"] == ["nose", "ear"]
    for row in rows_of(folder):
        assert math.isfinite(row["val/mre_px/ear"]) and "val/mre_px/chin" not in row
    (told,) = events_of(folder, "landmarks_left_out")
    assert "chin" in told


def test_images_of_several_sizes_without_a_spacing_are_refined(tmp_path: Path, tiny_dataset: Path) -> None:
    def resized(number: int, row: dict[str, str], image: np.ndarray[Any, Any]) -> Any:
        scale = 1 + number % 3
        for name in row:
            if name.endswith(("_x", "_y")):
                row[name] = str((float(row[name]) + 0.5) * scale - 0.5)
        row["mm_per_px"] = ""
        return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)

    data = copy_of(tiny_dataset, tmp_path / "data", resized)
    folder = new_run(tmp_path / "runs", data, crop_share=0.4, refine_epochs=2)
    assert train_run(folder) == 0
    for row in rows_by_phase(folder)["refine"]:
        assert math.isfinite(row["train/loss"]) and math.isfinite(row["val/mre_px"])
        assert row["val/mre_mm"] is None and row["val/unrefined_mre_mm"] is None
    preview = folder.read_preview(("refine", 2))
    assert preview is not None
    sides = preview["affine_heatmap_to_image"][:, 0, 0, 0] * 16
    # mean sides of 88, 176 and 264 pixels: a crop covers 0.4 of them, but no pixel is split
    assert set(np.round(sides, 3)) <= {35.2, 70.4, 105.6}


def test_coco_keypoints_of_images_of_several_sizes_are_refined(tmp_path: Path, tiny_dataset: Path) -> None:
    data = tmp_path / "data"
    content: dict[str, list[Any]] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 1, "name": "face", "keypoints": list(LANDMARKS)}],
    }

    def as_coco(number: int, row: dict[str, str], image: np.ndarray[Any, Any]) -> Any:
        scale = 1 + number % 3
        content["images"].append({"id": number, "file_name": row["image"]})
        values = [
            (float(row[f"{name}_{axis}"]) + 0.5) * scale - 0.5 if axis != "v" else 2
            for name in LANDMARKS
            for axis in "xyv"
        ]
        values[3:6] = values[3:6] if number % 4 else [0, 0, 0]  # the chin is not marked everywhere
        content["annotations"].append(
            {"id": number, "image_id": number, "category_id": 1, "keypoints": values}
        )
        return cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)

    copy_of(tiny_dataset, data, as_coco)
    (data / "annotations.csv").unlink()
    (data / "result.json").write_text(json.dumps(content), encoding="utf-8")
    folder = new_run(tmp_path / "runs", data, crop_share=0.4, epochs=1, refine_epochs=1)
    assert train_run(folder) == 0
    rows = rows_of(folder)
    assert [row["phase"] for row in rows] == ["train", "refine"]
    for row in rows:
        assert math.isfinite(row["train/loss"]) and math.isfinite(row["val/mre_px"])
        assert row["val/mre_mm"] is None
    assert best_of(folder)["landmark_names"] == list(LANDMARKS)
    preview = folder.read_preview(("refine", 1))
    assert preview is not None and preview["affine_heatmap_to_image"].shape[1:] == (3, 2, 3)


def test_stating_a_pixel_size_moves_no_point_of_a_network_trained_without_any(
    tmp_path: Path, tiny_dataset: Path
) -> None:
    """Also where points are drawn to shapes that were learned in pixels, and a pixel is not square."""

    def without_size(number: int, row: dict[str, str], image: np.ndarray[Any, Any]) -> Any:
        row["mm_per_px"] = ""
        return image

    data = copy_of(tiny_dataset, tmp_path / "data", without_size)
    folder = new_run(tmp_path / "runs", data, crop_share=0.4, epochs=1, refine_epochs=1, val_fraction=0)
    assert train_run(folder) == 0
    predictor = load_predictor(folder.checkpoint_path("best"), "cpu")
    assert predictor.refiner is not None
    prior = ShapePrior(np.array([[0.0, 0.0], [30.0, 10.0], [10.0, 40.0]]), 4 * np.eye(6))
    predictor = replace(predictor, shape_prior=prior)
    paths = sorted(data.glob("*.png"))[:3]
    found = [
        predictor.predict(unlabelled_samples(paths, 3, [spacing] * 3)).points_xy_image
        for spacing in (UNKNOWN_SPACING, (0.05, 0.05), (3.3, 3.3), (0.1, 0.2))
    ]
    for points in found[1:]:
        np.testing.assert_array_equal(points, found[0])


def test_where_an_image_has_no_pixel_size_both_phases_report_and_choose_in_px(
    tmp_path: Path, tiny_dataset: Path
) -> None:
    """Of the three validation images one has none: the mm of the other two are not those of all."""
    with_spacing = new_run(tmp_path, tiny_dataset)
    samples = build.build_splits(RunConfig.from_dict(with_spacing.read_config())).by_split["valid"]
    without = str(samples.images["image_id"].iloc[0])

    def without_one(_number: int, row: dict[str, str], image: np.ndarray[Any, Any]) -> Any:
        row["mm_per_px"] = "" if row["image"] == without else row["mm_per_px"]
        return image

    data = copy_of(tiny_dataset, tmp_path / "data", without_one)
    folder = new_run(tmp_path / "runs", data)
    assert train_run(folder) == 0
    for row in rows_of(folder):
        assert math.isfinite(row["val/mre_px"])
        assert {row[name] for name in row if name.startswith("val/") and "mm" in name} == {None}
    best = best_of(folder)
    assert best["best_mre"] == min(row["val/mre_px"] for row in rows_of(folder))
    assert best["best_mre_mm"] is None and "mm" not in outcome_of(folder)["reason"]


def test_a_training_that_beats_the_mean_positions_in_mm_has_learned_something(job: Job) -> None:
    """Whatever its error is in px: that of the largest images counts most there."""
    trainer: Any = SimpleNamespace(loop=LoopState(best=Best(1, MeanError(100.0, 0.1))))
    assert phases._find_nothing_learned(job, trainer) is None
    trainer.loop.best = Best(1, MeanError(0.1, 100.0))
    event = phases._find_nothing_learned(job, trainer)
    assert event is not None and "100.00 mm" in event.message
    trainer.loop.best = Best(1, MeanError(100.0))
    event = phases._find_nothing_learned(job, trainer)
    assert event is not None and "100.0 px" in event.message


def test_a_real_data_set_without_spacing_is_refined(shared_data: Path, tmp_path: Path) -> None:
    folder = new_run(
        tmp_path, shared_data / "openfield", batch_size=8, epochs=1, refine_epochs=1, refine_crops=32
    )
    assert train_run(folder) == 0
    rows = rows_of(folder)
    assert [row["phase"] for row in rows] == ["train", "refine"]
    assert all(math.isfinite(row["val/mre_px"]) and row["val/mre_mm"] is None for row in rows)
    assert JITTER_LIMITS_PX[0] <= last_of(folder)["networks"]["refine"]["jitter_px"] <= JITTER_LIMITS_PX[1]


@pytest.mark.parametrize("batch_size", [1, 2])  # 9 images by twos: the last one is alone
def test_an_image_of_one_cell_alone_in_its_batch_is_a_mistake_with_a_cure(
    tmp_path: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch, batch_size: int
) -> None:
    monkeypatch.setattr(build, "build_model", build_model)
    settings = {"model": "unet", "image_size": (32, 32), "batch_size": batch_size, "refine": False}
    folder = new_run(tmp_path, tiny_dataset, **settings)
    assert train_run(folder) == 2
    outcome = outcome_of(folder)
    assert outcome["state"] == "failed" and "batch normalisation" in outcome["reason"]
    assert "leaves no image of an epoch alone" in outcome["reason"]


# The first network of another run


def first_of(folder: RunFolder) -> dict[str, Any]:
    """The setting of a run that takes over another one's first network."""
    return {"first_network": str(folder.checkpoint_path("best"))}


def test_only_the_refinement_is_trained_on_the_first_network_of_another_run(
    completed: RunFolder, tmp_path: Path, tiny_dataset: Path
) -> None:
    folder = new_run(tmp_path, tiny_dataset, **first_of(completed), refine_lr=1e-3)
    assert train_run(folder) == 0
    rows = rows_by_phase(folder)
    assert not rows["train"] and [row["epoch"] for row in rows["refine"]] == [1, 2, 3]
    for name in ("best", "last"):
        kept = load_checkpoint(folder.checkpoint_path(name))
        assert_same_weights(kept["model_state_dict"], best_of(completed)["model_state_dict"])
        assert kept["first_args"] == best_of(completed)["args"] != kept["args"]
    assert "first_args" not in best_of(completed)
    again = new_run(tmp_path, tiny_dataset, **first_of(folder), refine_epochs=1)
    assert train_run(again) == 0
    assert best_of(again)["first_args"] == best_of(completed)["args"]  # who trained it, not who passed it on


def test_what_is_taken_over_of_a_refined_run_is_what_is_known_of_its_first_network(
    completed: RunFolder, tmp_path: Path, tiny_dataset: Path
) -> None:
    """best.pt as it is until the refinement beats the first network; here it never does."""
    hopeless: dict[str, Any] = {"refine_lr": 1e-9, "refine_epochs": 1, "crop_size": 64}
    theirs = best_of(completed)
    for name in ("best", "last"):
        path = str(completed.checkpoint_path(name))  # type: ignore[arg-type]
        folder = new_run(tmp_path, tiny_dataset, first_network=path, **hopeless)
        assert train_run(folder) == 0
        kept, unrefined = best_of(folder), theirs["networks"]["refine"]["unrefined"]
        assert kept["best_mre"] == unrefined["mre_px"] > theirs["best_mre"]
        assert kept["best_mre_mm"] == unrefined["mre_mm"] > theirs["best_mre_mm"]
        assert kept["val_metrics"] == {f"val/{name}": value for name, value in unrefined.items()}
        assert (kept["phase"], kept["epoch"], kept["networks"], kept["loop"]) == ("train", None, {}, {})
        for key in (
            "raw_model_state_dict",
            "optimizer_state_dict",
            "scheduler",
            "scaler",
            "rng",
            "last_good",
        ):
            assert not kept[key], key
        assert kept.keys() == theirs.keys() | {"first_args", "first_learned_from"}
        assert_same_weights(kept["model_state_dict"], theirs["model_state_dict"])
        # and so on, however often it is handed on
        again = new_run(tmp_path, tiny_dataset, **first_of(folder), **hopeless)
        assert train_run(again) == 0
        assert best_of(again)["best_mre"] == unrefined["mre_px"]


def test_what_is_taken_over_of_a_run_with_one_network_is_that_network(
    tmp_path: Path, tiny_dataset: Path
) -> None:
    """Of its last.pt too, whose weights are not those that its best error is of."""
    first = new_run(tmp_path, tiny_dataset, refine=False)
    assert train_run(first) == 0
    assert best_of(first)["epoch"] == 2
    error = rows_of(first)[1]["val/mre_px"]
    for name, expected in (("best", error), ("last", None)):
        path = str(first.checkpoint_path(name))  # type: ignore[arg-type]
        folder = new_run(
            tmp_path, tiny_dataset, first_network=path, refine_lr=1e-9, refine_epochs=1, crop_size=64
        )
        assert train_run(folder) == 0
        kept = best_of(folder)
        assert (kept["phase"], kept["epoch"], kept["best_mre"]) == ("train", 2, expected)
        assert kept["val_metrics"].get("val/mre_px") == expected
        assert not kept["optimizer_state_dict"] and not kept["raw_model_state_dict"] and not kept["loop"]


def test_a_first_network_that_has_seen_the_validation_images_is_refused(
    completed: RunFolder, tmp_path: Path, tiny_dataset: Path
) -> None:
    folder = new_run(tmp_path, tiny_dataset, **first_of(completed), seed=1)
    assert train_run(folder) == 2
    reason = outcome_of(folder)["reason"]
    assert "of the 3 validation images of this run" in reason and "seed 0 and val_fraction 0.25" in reason
    assert not folder.checkpoint_path("best").exists()
    without = new_run(tmp_path, tiny_dataset, **first_of(completed), seed=1, val_fraction=0, refine_epochs=1)
    assert train_run(without) == 0


def test_that_what_a_first_network_has_seen_cannot_be_known_is_told(
    completed: RunFolder, tmp_path: Path, tiny_dataset: Path
) -> None:
    content = best_of(completed)
    content["args"]["settings"]["dataset_path"] = str(tmp_path / "gone")
    content["args"]["chosen"].pop("dataset_path")
    from_fingerprints, older = tmp_path / "first.pt", tmp_path / "older.pt"
    torch.save(content, from_fingerprints)
    torch.save({key: value for key, value in content.items() if key != "learned_from"}, older)
    for path, words in ((from_fingerprints, "only files equal"), (older, "is not known")):
        folder = new_run(tmp_path, tiny_dataset, first_network=str(path), refine_epochs=1)
        assert train_run(folder) == 0
        assert any(words in message for message in events_of(folder, "first_network"))


def with_brow(_number: int, row: dict[str, str], image: np.ndarray[Any, Any]) -> Any:
    """A fourth landmark, above the nose."""
    row["brow_x"], row["brow_y"] = row["nose_x"], str(float(row["nose_y"]) - 15)
    return image


@pytest.mark.parametrize("phase", ["train", "refine"])
def test_the_shapes_of_the_training_images_stand_in_the_checkpoint(
    tmp_path: Path, tiny_dataset: Path, phase: str
) -> None:
    data = copy_of(tiny_dataset, tmp_path / "data", with_brow)
    folder = new_run(
        tmp_path / "runs",
        data,
        val_fraction=0,
        epochs=1,
        shape_prior=True,
        refine_epochs=1,
        refine=phase == "refine",
    )
    assert train_run(folder) == 0
    (told,) = events_of(folder, "shape_prior")
    assert told == "predictions are drawn to the shapes that 12 training images make likely"
    content = best_of(folder)
    assert content["phase"] == phase
    predictor = load_predictor(folder.checkpoint_path("best"), "cpu")
    train = build.build_splits(predictor.config).train
    expected = fit_shape_prior(train.points_xy_image * 0.5)
    assert expected is not None and predictor.shape_prior is not None
    np.testing.assert_allclose(predictor.shape_prior.covariance, expected.covariance)
    np.testing.assert_allclose(predictor.shape_prior.mean_xy, expected.mean_xy)
    assert predictor.predict(train).unshaped_xy_image is not None


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"loss": "mse"}, "maps of mse do not tell how sure they are"),
        ({"val_fraction": 0.25}, "the training images have too few landmarks in common"),
    ],
)
def test_why_predictions_are_not_drawn_to_shapes_is_told(
    tmp_path: Path, tiny_dataset: Path, values: dict[str, Any], why: str
) -> None:
    data = copy_of(tiny_dataset, tmp_path / "data", with_brow)
    asked = {"val_fraction": 0, "epochs": 1, "refine": False, "shape_prior": True}
    folder = new_run(tmp_path / "runs", data, **{**asked, **values})
    assert train_run(folder) == 0
    assert events_of(folder, "shape_prior") == [f"predictions are not drawn to likely shapes: {why}"]
    assert best_of(folder)["shape_prior"] == {}
    assert load_predictor(folder.checkpoint_path("best"), "cpu").shape_prior is None


def test_predictions_are_not_drawn_to_shapes_unless_asked(tmp_path: Path, tiny_dataset: Path) -> None:
    data = copy_of(tiny_dataset, tmp_path / "data", with_brow)
    folder = new_run(tmp_path / "runs", data, val_fraction=0, epochs=1, refine=False)
    assert train_run(folder) == 0
    assert events_of(folder, "shape_prior") == []
    assert load_predictor(folder.checkpoint_path("best"), "cpu").shape_prior is None


def test_a_run_on_anothers_first_network_has_shapes_of_its_own(tmp_path: Path, tiny_dataset: Path) -> None:
    data = copy_of(tiny_dataset, tmp_path / "data", with_brow)
    first = new_run(tmp_path / "runs", data, val_fraction=0, epochs=1, refine=False)
    assert train_run(first) == 0
    path = str(first.checkpoint_path("best"))
    folder = new_run(
        tmp_path / "runs", data, val_fraction=0, refine_epochs=1, shape_prior=True, first_network=path
    )
    assert train_run(folder) == 0
    assert load_predictor(folder.checkpoint_path("best"), "cpu").shape_prior is not None
