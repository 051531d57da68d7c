from __future__ import annotations

import logging
import math
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import train
from backend import worker
from backend.config import RunConfig
from backend.device.gpu import Driver
from backend.device.machine import Machine
from backend.device.unusable import Card, TorchBuild, find_unusable
from backend.errors import UserError
from backend.files import Row
from backend.flags import run_command
from backend.run.folder import RunFolder, list_runs
from backend.run.previews import PreviewFolder
from backend.run.process import ProcessIdentity
from backend.run.rows import merge_metrics
from backend.run.state import RunState, derive_state
from backend.training import build, progress, recorder
from backend.training.checkpoint import load_checkpoint
from backend.training.engine import Trainer
from backend.training.inference import load_predictor
from backend.training.loop_state import Ending
from backend.training.stability import LossWatch
from backend.training.task import LandmarkTask
from backend.worker import train_run
from tests.tiny_network import TinyNetwork
from tests.training.tiny_runs import create_tiny_run
from ui.api import _describe_run
from ui.predict.runs import own_error_html, run_choices
from ui.run_rows import find_best, runs_table

pytestmark = pytest.mark.slow

LANDMARKS = ("nose", "chin", "ear")


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        build, "build_model", lambda name, num_landmarks, output_stride: TinyNetwork(num_landmarks)
    )


def new_run(runs_dir: Path, dataset: Path, **values: Any) -> RunFolder:
    return create_tiny_run(runs_dir, dataset, **{"warmup_epochs": 0, **values})


def ask_after(monkeypatch: pytest.MonkeyPatch, epoch: int, ask: Any) -> None:
    """Call `ask(folder)` right after the row of an epoch was written."""
    append = RunFolder.append_metrics

    def append_and_ask(folder: RunFolder, row: Row) -> None:
        append(folder, row)
        if row["epoch"] == epoch:
            ask(folder)

    monkeypatch.setattr(RunFolder, "append_metrics", append_and_ask)


def rows_of(folder: RunFolder) -> list[Row]:
    return merge_metrics(folder.read_metrics()[0])


def test_a_run_that_waited_ends_at_once_where_its_coordinates_cannot_be_meant(
    dataset_in_shares: Path, tmp_path: Path
) -> None:
    """The data may have been changed since the run was made."""
    folder = new_run(tmp_path / "runs", dataset_in_shares)
    assert train_run(folder) == 2
    assert "accept_implausible: in shares: all coordinates" in outcome_of(folder)["reason"]
    assert train_run(new_run(tmp_path / "runs", dataset_in_shares, accept_implausible=True)) == 0


def outcome_of(folder: RunFolder) -> Row:
    outcome = folder.read_outcome()
    assert outcome is not None
    return outcome


# A run that completes


@pytest.fixture(scope="module")
def completed(tmp_path_factory: pytest.TempPathFactory, tiny_dataset: Path) -> RunFolder:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "build_model", lambda name, num, output_stride: TinyNetwork(num))
        folder = new_run(tmp_path_factory.mktemp("runs"), tiny_dataset)
        assert train_run(folder) == 0
    return folder


def test_completed_run_says_so_last(completed: RunFolder) -> None:
    outcome = outcome_of(completed)
    assert outcome["state"] == "completed" and outcome["traceback"] == ""
    assert "2 of 2 epochs" in outcome["reason"] and "px" in outcome["reason"] and "mm" in outcome["reason"]
    state = derive_state(completed)
    assert "completed" in str(getattr(state, "state", state))


def test_every_epoch_has_a_row_with_the_documented_names(completed: RunFolder) -> None:
    rows = rows_of(completed)
    assert [row["epoch"] for row in rows] == [1, 2]
    assert [row["global_step"] for row in rows] == [3, 6]
    names = {"time", "phase", "train/loss", "lr", "images_per_s", "train_s", "epoch_s", "val/loss"}
    names |= {"val/mre_px", "val/mre_mm", "val/sdr_2mm", "val/sdr_2.5mm", "val/sdr_3mm", "val/sdr_4mm"}
    names |= {f"val/mre_{unit}/{name}" for unit in ("px", "mm") for name in LANDMARKS}
    for row in rows:
        assert names <= set(row)
        assert all(math.isfinite(row[name]) for name in names - {"phase"})
        assert row["val/mre_mm"] == pytest.approx(0.5 * row["val/mre_px"])
        each = [row[f"val/mre_px/{name}"] for name in LANDMARKS]
        assert row["val/mre_px"] == pytest.approx(sum(each) / 3)
        assert 0 <= row["val/sdr_2mm"] <= row["val/sdr_4mm"] <= 1
        assert row["memory_bytes"] > 50 * 2**20  # this process holds torch


def test_status_tells_where_the_training_stands(completed: RunFolder) -> None:
    status = completed.read_status()
    assert status is not None
    assert status["num_epochs"] == 2 and status["steps_per_epoch"] == 3
    assert (status["epoch"], status["global_step"], status["seconds_left"]) == (2, 6, 0)
    assert 0 <= status["step"] <= 3 and status["heartbeat"] > 0 and status["phase"]
    best = min(rows_of(completed), key=lambda row: row["val/mre_px"])
    assert status["best_epoch"] == best["epoch"]
    assert (status["best_mre_px"], status["best_mre_mm"]) == (best["val/mre_px"], best["val/mre_mm"])


def test_previews_show_the_fixed_images_with_truth_and_predictions(completed: RunFolder) -> None:
    images = completed.previews.read_images()
    assert images is not None and completed.previews.list_keys() == [("train", 1), ("train", 2)]
    num = len(images["image_ids"])
    assert num == 3 and list(images["landmark_names"]) == list(LANDMARKS)
    assert images["split"] == "valid"
    assert images["truth_xy_image"].shape == (num, 3, 2)
    for number in range(num):
        assert images[f"display_{number}"].shape == (96, 80)
        assert np.array_equal(images[f"affine_image_to_display_{number}"], [[1, 0, 0], [0, 1, 0]])
    for epoch in (1, 2):
        preview = completed.previews.read(("train", epoch))
        assert preview is not None
        assert preview["heatmaps"].shape == (num, 3, 64, 64) and preview["heatmaps"].dtype == np.uint8
        assert preview["heatmaps"].max() == 255
        assert preview["affine_heatmap_to_image"].shape == (num, 1, 2, 3)
        assert preview["confidence"].shape == (num, 3)
        errors = np.linalg.norm(preview["points_xy_image"] - images["truth_xy_image"], axis=-1)
        row = rows_of(completed)[epoch - 1]
        assert errors.mean() == pytest.approx(row["val/mre_px"], rel=1e-3)  # here all of validation is shown


def test_checkpoints_have_the_documented_content(completed: RunFolder) -> None:
    names = {"format_version", "phase", "epoch", "model_state_dict", "raw_model_state_dict"}
    names |= {"optimizer_state_dict", "scheduler", "scaler", "rng", "loop", "best_mre", "best_mre_mm"}
    names |= {"val_metrics", "args", "landmark_names", "preprocessing", "sigma", "output_stride", "networks"}
    rows = rows_of(completed)
    for kind in ("best", "last"):
        content = load_checkpoint(completed.checkpoint_path(kind))  # type: ignore[arg-type]
        assert names <= set(content)
        assert content["landmark_names"] == list(LANDMARKS)
        assert (content["sigma"], content["output_stride"]) == (0.75, 1)
        assert content["args"] == completed.read_config()
        assert content["preprocessing"]["image_size"] == [64, 64]
        row = rows[content["epoch"] - 1]
        assert content["val_metrics"]["val/mre_px"] == row["val/mre_px"]
        TinyNetwork(3).load_state_dict(content["model_state_dict"])
    best = load_checkpoint(completed.checkpoint_path("best"))
    assert best["best_mre"] == min(row["val/mre_px"] for row in rows) == rows[best["epoch"] - 1]["val/mre_px"]
    assert load_checkpoint(completed.checkpoint_path("last"))["epoch"] == 2


def test_without_validation_the_best_weights_are_the_last(tmp_path: Path, tiny_dataset: Path) -> None:
    folder = new_run(tmp_path, tiny_dataset, val_fraction=0)
    assert train_run(folder) == 0
    assert not [name for name in rows_of(folder)[0] if name.startswith("val/")]
    best, last = (load_checkpoint(folder.checkpoint_path(kind)) for kind in ("best", "last"))
    assert best["epoch"] == last["epoch"] == 2
    for name, tensor in last["model_state_dict"].items():
        assert torch.equal(tensor, best["model_state_dict"][name])
    assert folder.previews.list_keys() == [("train", 1), ("train", 2)]
    images = folder.previews.read_images()
    assert images is not None and images["split"] == "train"


# A run that is ended, and goes on


def test_stopped_run_goes_on_with_exactly_the_losses_of_an_undisturbed_one(
    tmp_path: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"epochs": 4, "gradient_accumulation_steps": 2}
    whole = new_run(tmp_path, tiny_dataset, **options)
    assert train_run(whole) == 0

    folder = new_run(tmp_path, tiny_dataset, **options)
    with monkeypatch.context() as patch:
        ask_after(patch, 2, lambda run: run.request("stop"))
        assert train_run(folder) == 130
    assert outcome_of(folder)["state"] == "stopped" and "after epoch 2" in outcome_of(folder)["reason"]

    folder.archive_outcome()
    folder.clear_requests()
    assert train_run(folder) == 0
    assert outcome_of(folder)["state"] == "completed"
    assert "resumed" in [event["kind"] for event in folder.read_events()[0]]

    def losses(run: RunFolder) -> list[tuple[Any, ...]]:
        names = ("epoch", "global_step", "lr", "train/loss", "val/loss", "val/mre_px")
        return [tuple(row[name] for name in names) for row in rows_of(run)]

    assert losses(folder) == losses(whole)
    assert len(folder.read_metrics()[0]) == 4  # and no epoch stands twice


def test_finish_ends_early_keeps_the_best_and_can_go_on(
    tmp_path: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = new_run(tmp_path, tiny_dataset, epochs=50)
    ask_after(monkeypatch, 1, lambda run: run.request("finish"))
    assert train_run(folder) == 0
    assert outcome_of(folder)["state"] == "finished_early"
    assert [row["epoch"] for row in rows_of(folder)] == [1]
    assert load_checkpoint(folder.checkpoint_path("last"))["epoch"] == 1


def test_save_now_is_answered_once_and_training_goes_on(
    tmp_path: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[int] = []
    save = recorder.Recorder.save_last

    def counting(watcher: Any, trainer: Any) -> None:
        saved.append(trainer.loop.global_step)
        save(watcher, trainer)

    monkeypatch.setattr(recorder.Recorder, "save_last", counting)
    ask_after(monkeypatch, 1, lambda run: run.request("save_now"))
    folder = new_run(tmp_path, tiny_dataset)
    assert train_run(folder) == 0
    assert saved.count(4) == 1 and 5 not in saved
    assert not folder.requested("save_now")
    assert "last.pt saved in epoch 2, step 4, as requested" in [
        event["message"] for event in folder.read_events()[0]
    ]


def test_preview_now_is_kept_as_one_within_its_epoch_until_the_epoch_has_its_own(
    tmp_path: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[tuple[int, int, int]] = []
    write = PreviewFolder.write

    def noting(previews: PreviewFolder, phase: str, epoch: int, arrays: Any) -> None:
        kept.append((epoch, arrays["step"], arrays["steps_per_epoch"]))
        write(previews, phase, epoch, arrays)

    monkeypatch.setattr(PreviewFolder, "write", noting)
    ask_after(monkeypatch, 1, lambda run: run.request("preview_now"))
    folder = new_run(tmp_path, tiny_dataset, preview_every=1)
    assert train_run(folder) == 0
    assert kept == [(1, 3, 3), (2, 1, 3), (2, 3, 3)]
    assert folder.previews.list_keys() == [("train", 1), ("train", 2)] and not folder.requested("preview_now")
    kinds = [event["kind"] for event in folder.read_events()[0]]
    assert kinds.count("preview_now") == 1


def test_what_two_readers_differ_by_is_kept_and_of_one_reader_nothing(
    completed: RunFolder, tmp_path: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert completed.read_readers() is None
    read = build.build_splits

    def with_another_reader(config: RunConfig) -> Any:
        """Who marks everything 3 px to the right and 4 px further down."""
        splits = read(config)
        points = splits.annotations.points_xy_image
        both = np.concatenate([points, points + np.array([3.0, 4.0], np.float32)], axis=1)
        annotations = replace(splits.annotations, points_xy_image=both, reader_names=("senior", "junior"))
        return replace(splits, annotations=annotations)

    monkeypatch.setattr(build, "build_splits", with_another_reader)
    folder = new_run(tmp_path, tiny_dataset, epochs=1)
    assert train_run(folder) == 0
    readers = folder.read_readers()
    assert readers is not None and readers["reader_names"] == ["senior", "junior"]
    assert readers["num_images"] == 3
    assert (readers["mre_px"], readers["mre_mm"]) == (pytest.approx(5.0), pytest.approx(2.5))
    assert readers["per_landmark"]["chin"]["mre_mm"] == pytest.approx(2.5)


def test_time_left_is_told_by_whole_epochs_of_this_process_alone(
    tmp_path: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped within epoch 3 of 4 and resumed much later: the pause does not count."""
    noted: list[list[float]] = []
    status = progress.PhaseProgress.status

    def noting(watched: Any, *values: Any) -> dict[str, Any]:
        noted.append(list(watched._epoch_seconds))
        return status(watched, *values)

    monkeypatch.setattr(progress.PhaseProgress, "status", noting)
    folder = new_run(tmp_path, tiny_dataset, epochs=4)
    on_step = recorder.Recorder.on_step

    def step_and_ask(watcher: Any, loop: Any, *rest: Any) -> None:
        on_step(watcher, loop, *rest)
        if loop.global_step == 7:
            folder.request("stop")

    monkeypatch.setattr(recorder.Recorder, "on_step", step_and_ask)
    assert train_run(folder) == 130
    assert [len(seconds) for seconds in noted if seconds] == [1, 2]
    folder.archive_outcome()
    folder.clear_requests()
    noted.clear()
    assert train_run(folder) == 0
    assert noted[-2] == [] and len(noted[-1]) == 1  # after the rest of epoch 3; after epoch 4


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot send itself these signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_stops_before_the_next_step_and_the_old_handler_comes_back(
    tmp_path: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    before = signal.getsignal(number)
    during: list[Any] = []

    def send(folder: RunFolder) -> None:
        during.append(signal.getsignal(number))
        os.kill(os.getpid(), number)

    ask_after(monkeypatch, 1, send)
    folder = new_run(tmp_path, tiny_dataset, epochs=50)
    assert train_run(folder) == 130
    assert outcome_of(folder)["state"] == "stopped"
    assert load_checkpoint(folder.checkpoint_path("last"))["loop"]["global_step"] == 3
    assert during != [before] and signal.getsignal(number) == before


# A run that fails


FAR_TOO_HIGH: dict[str, Any] = {"lr": 10, "weight_decay": 1, "loss": "mse", "clip_norm": 1e30}


def are_finite(folder: RunFolder, kind: Any) -> bool:
    content = load_checkpoint(folder.checkpoint_path(kind))
    states = content["optimizer_state_dict"].get("state", {}).values()
    parts = [content["model_state_dict"], content["raw_model_state_dict"], *states]
    return all(bool(torch.isfinite(tensor).all()) for part in parts for tensor in part.values())


@pytest.mark.parametrize("on_divergence", ["retry", "stop"])
def test_learning_rate_far_too_high_recovers_or_diverges_and_keeps_what_was_good(
    tmp_path: Path, tiny_dataset: Path, on_divergence: str
) -> None:
    folder = new_run(tmp_path, tiny_dataset, epochs=60, on_divergence=on_divergence, **FAR_TOO_HIGH)
    code, outcome = train_run(folder), outcome_of(folder)
    cuts = [event for event in folder.read_events()[0] if event["kind"] == "lr_lowered"]
    has_diverged = outcome["state"] == "diverged"
    assert code == (4 if has_diverged else 0) and outcome["traceback"] == ""
    assert has_diverged or 0 < len(cuts) <= 3  # so wild a training ends well by going back only
    assert len(cuts) == 3 or not has_diverged or on_divergence == "stop"
    assert (has_diverged and not cuts) or on_divergence == "retry"
    if has_diverged:
        assert "learning rate" in outcome["reason"] and "1e-4" in outcome["reason"]
        assert "\n" not in outcome["reason"]
    assert are_finite(folder, "last") and are_finite(folder, "best")
    for cut in cuts:
        assert cut["new_lr"] == pytest.approx(cut["old_lr"] / 3) and cut["step"] > 0 and cut["why"]
        assert cut["back_to_epoch"] < cut["epoch"] and cut["message"]
    last = load_checkpoint(folder.checkpoint_path("last"))
    assert last["loop"]["num_recoveries"] == len(cuts)
    assert all(row["train/loss"] is not None and math.isfinite(row["train/loss"]) for row in rows_of(folder))
    samples = build.build_splits(RunConfig.from_dict(folder.read_config())).by_split["valid"]
    predicted = load_predictor(folder.checkpoint_path("last"), "cpu").predict(samples)
    assert np.isfinite(predicted.points_xy_image).all()


def test_a_run_that_diverged_is_resumed_at_a_third_of_the_rate_once(
    tmp_path: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the same rate it would diverge again in the same step."""
    folder = new_run(tmp_path, tiny_dataset, epochs=2, on_divergence="stop")
    compute_loss, is_spoiled = LandmarkTask.compute_loss, [True]

    def spoiled(task: LandmarkTask, outputs: Any, batch: Any) -> Any:
        loss = compute_loss(task, outputs, batch)
        return loss * math.nan if is_spoiled[0] else loss

    monkeypatch.setattr(LandmarkTask, "compute_loss", spoiled)
    assert train_run(folder) == 4
    folder.archive_outcome()
    assert train_run(folder) == 4  # whatever the rate
    assert load_checkpoint(folder.checkpoint_path("last"))["loop"]["lr_scale"] == pytest.approx(1 / 3)
    folder.archive_outcome()
    is_spoiled[0] = False
    ask_after(monkeypatch, 1, lambda run: run.request("stop"))
    assert train_run(folder) == 130
    folder.archive_outcome()
    folder.clear_requests()
    assert train_run(folder) == 0
    cuts = [event for event in folder.read_events()[0] if event["kind"] == "lr_lowered"]
    assert [cut["after_outcome"] for cut in cuts] == [1, 2]  # stopping by hand lowers nothing
    assert cuts[1]["new_lr"] == pytest.approx(cuts[0]["old_lr"] / 9)
    assert rows_of(folder)[-1]["lr"] < cuts[0]["old_lr"] / 8


def test_training_recovers_from_one_bad_step_and_the_curve_shows_it(
    tmp_path: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses_asked: list[bool] = []
    compute_loss = LandmarkTask.compute_loss

    def once_nan(task: LandmarkTask, outputs: Any, batch: Any) -> Tensor:
        loss = compute_loss(task, outputs, batch)
        losses_asked.append(torch.is_grad_enabled())
        return loss * math.nan if losses_asked[-1] and sum(losses_asked) == 8 else loss

    monkeypatch.setattr(LandmarkTask, "compute_loss", once_nan)
    folder = new_run(tmp_path, tiny_dataset, epochs=4)
    assert train_run(folder) == 0
    assert outcome_of(folder)["state"] == "completed"
    rows = rows_of(folder)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    (event,) = [event for event in folder.read_events()[0] if event["kind"] == "lr_lowered"]
    assert event["phase"] == rows[0]["phase"]
    first, whole = new_run(tmp_path, tiny_dataset, epochs=4), rows
    monkeypatch.setattr(LandmarkTask, "compute_loss", compute_loss)
    assert train_run(first) == 0
    shares = [row["lr"] / calm["lr"] for row, calm in zip(whole, rows_of(first), strict=True)]
    changed = event["back_to_epoch"]
    assert shares == pytest.approx([1.0] * changed + [1 / 3] * (4 - changed))


def test_after_a_cut_of_the_rate_every_place_names_the_error_of_best_pt(
    tmp_path: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Epoch 3 has the best weights and a high loss, epoch 4 a loss of NaN: training returns to the end of
    epoch 2. The rows of epochs 3 and 4 are those of what was trained from there."""
    errors = iter([5.0, 4.0, 1.0, 3.0, 2.0])
    compute_loss, calls = LandmarkTask.compute_loss, []

    def wild(task: LandmarkTask, outputs: Any, batch: Any) -> Tensor:
        calls.append(batch)
        loss = compute_loss(task, outputs, batch)
        return loss * math.nan if len(calls) == 10 else loss

    def validate(_trainer: Trainer) -> dict[str, float]:
        error = next(errors)
        return {"loss": 1.0, "mre_px": error, "mre_mm": error / 10}

    monkeypatch.setattr(LandmarkTask, "compute_loss", wild)
    monkeypatch.setattr(Trainer, "validate", validate)
    monkeypatch.setattr(LossWatch, "is_calm", property(lambda _watch: len(calls) != 9))
    folder = new_run(tmp_path, tiny_dataset, epochs=4)
    assert train_run(folder) == 0
    (event,) = [event for event in folder.read_events()[0] if event["kind"] == "lr_lowered"]
    assert (event["epoch"], event["back_to_epoch"]) == (4, 2)
    assert [row["val/mre_px"] for row in rows_of(folder)] == [5.0, 4.0, 3.0, 2.0]

    best = load_checkpoint(folder.checkpoint_path("best"))
    assert (best["epoch"], best["best_mre"], best["best_mre_mm"]) == (3, 1.0, 0.1)
    status, found = folder.read_status(), find_best(folder)
    assert status is not None and (status["best_epoch"], status["best_mre_mm"]) == (3, 0.1)
    assert "best in epoch 3: 1.00 px, 0.10 mm" in outcome_of(folder)["reason"]
    assert found is not None and (found["epoch"], found["val/mre_mm"]) == (3, 0.1)
    assert _describe_run(folder)["best"] == {"mre_px": 1.0, "mre_mm": 0.1, "epoch": 3, "phase": "train"}
    (row,) = runs_table(tmp_path)
    assert "0.10 mm" in row.cells and row.error == (0, 0.1)
    assert "0.10 mm" in own_error_html(folder) and "0.10 mm" in run_choices(tmp_path)[0][0]
    folder.checkpoint_path("best").unlink()  # then the rows are all that is left
    found = find_best(folder)
    assert found is not None and found["val/mre_mm"] == 0.2


def test_patience_ends_a_run_early_and_the_outcome_says_why(tmp_path: Path, tiny_dataset: Path) -> None:
    """At a tiny learning rate the averaged weights hardly improve on their first error."""
    folder = new_run(tmp_path, tiny_dataset, epochs=50, patience=3, lr=1e-12, weight_decay=0, ema_decay=0)
    assert train_run(folder) == 0
    outcome = outcome_of(folder)
    assert outcome["state"] == "finished_early"
    assert outcome["reason"].startswith("no lower validation error for 3 epochs: ended early after ")
    assert derive_state(folder).value == "finished_early"
    (event,) = [event for event in folder.read_events()[0] if event["kind"] == "early_stop"]
    last = load_checkpoint(folder.checkpoint_path("last"))
    assert event["epoch"] == last["epoch"] == rows_of(folder)[-1]["epoch"] < 50
    assert event["best_epoch"] == last["loop"]["best"]["epoch"] == event["epoch"] - 3


def test_patience_without_validation_images_is_the_users_mistake(tmp_path: Path, tiny_dataset: Path) -> None:
    folder = new_run(tmp_path, tiny_dataset, patience=3, val_fraction=0)
    assert train_run(folder) == 2
    assert outcome_of(folder)["reason"].startswith("patience: there are no validation images")
    assert rows_of(folder) == []


class DeafNetwork(TinyNetwork):
    """Finds nothing: the same flat maps for every image."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) * 0.0


def test_a_collapsed_network_is_told_once_and_not_again_after_a_resume(
    tmp_path: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "build_model", lambda name, num, output_stride: DeafNetwork(num))
    folder = new_run(tmp_path, tiny_dataset, epochs=16, loss="mse")
    with monkeypatch.context() as patch:
        ask_after(patch, 10, lambda run: run.request("stop"))
        assert train_run(folder) == 130
    (event,) = folder.read_events()[0]
    assert event["kind"] == "flat_heatmaps" and event["epoch"] == 8 and "the loss kl" in event["message"]
    folder.archive_outcome()
    folder.clear_requests()
    assert train_run(folder) == 0
    assert [event["kind"] for event in folder.read_events()[0]] == [
        "flat_heatmaps",
        "resumed",
        "did_not_learn",
    ]
    resumed = folder.read_events()[0][1]
    assert resumed["epoch"] == 10 and resumed["step"] > 0


def test_a_run_that_learned_nothing_says_so(tmp_path: Path, tiny_dataset: Path) -> None:
    folder = new_run(tmp_path, tiny_dataset, epochs=1, lr=1e-9)
    assert train_run(folder) == 0
    (event,) = folder.read_events()[0]
    assert (
        event["kind"] == "did_not_learn" and "mm, is not below that of the mean position" in event["message"]
    )
    assert outcome_of(folder)["state"] == "completed" and event["message"] in outcome_of(folder)["reason"]


def test_a_run_whose_maps_find_something_raises_no_alarm_on_its_way(
    tmp_path: Path, tiny_dataset: Path
) -> None:
    folder = new_run(tmp_path, tiny_dataset, epochs=20, sigma=2.0)  # so small a network needs a broad target,
    assert train_run(folder) == 0
    # and even so ends above the error of the mean positions
    assert [event["kind"] for event in folder.read_events()[0]] == ["did_not_learn"]


@pytest.mark.parametrize(
    ("error", "state", "code"),
    [
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "out_of_memory", 3),
        (torch.OutOfMemoryError("no room"), "out_of_memory", 3),
        (MemoryError(), "out_of_memory", 3),
        (RuntimeError("shapes differ\nby far"), "failed", 1),
        (KeyError("nose"), "failed", 1),
    ],
    ids=["cuda", "torch", "python", "bug", "key"],
)
def test_any_error_becomes_an_outcome_with_its_traceback(
    tmp_path: Path,
    tiny_dataset: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    state: str,
    code: int,
) -> None:
    def fail(*_arguments: Any, **_options: Any) -> None:
        raise error

    monkeypatch.setattr(build, "build_trainer", fail)
    before = signal.getsignal(signal.SIGINT)
    folder = new_run(tmp_path, tiny_dataset)
    assert train_run(folder) == code
    outcome = outcome_of(folder)
    assert outcome["state"] == state and "\n" not in outcome["reason"]
    assert type(error).__name__ in outcome["traceback"]
    assert signal.getsignal(signal.SIGINT) == before


def test_users_mistake_becomes_an_outcome_without_a_traceback(tmp_path: Path) -> None:
    folder = new_run(tmp_path, tmp_path / "gone")
    assert train_run(folder) == 2
    outcome = outcome_of(folder)
    assert outcome["state"] == "failed" and outcome["traceback"] == ""
    assert outcome["reason"].startswith("dataset_path: ")


def test_damaged_image_ends_the_run_naming_the_file(tmp_path: Path, tiny_dataset: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(tiny_dataset, copy)
    for path in copy.glob("*.png"):
        path.write_bytes(path.read_bytes()[:60])  # the header is whole, the pixels are gone
    folder = new_run(tmp_path, copy)
    assert train_run(folder) == 2
    assert ".png" in outcome_of(folder)["reason"]


def test_run_that_is_trained_already_is_left_alone(
    tmp_path: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "LOCK_WAIT_S", 0.05)
    folder = new_run(tmp_path, tiny_dataset)
    with folder.lock(), pytest.raises(UserError, match="another process"):
        train_run(RunFolder(folder.path))
    assert folder.read_outcome() is None and folder.read_metrics()[0] == []


def test_the_lock_of_a_run_is_released_when_its_training_ends(
    tmp_path: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = new_run(tmp_path, tiny_dataset)
    lock = folder.lock()  # kept here: it is not released only because nothing refers to it any more
    monkeypatch.setattr(RunFolder, "lock", lambda _folder: lock)
    monkeypatch.setattr(worker, "_train", lambda _folder: (Ending.COMPLETED, "done"))
    assert train_run(folder) == 0 and not lock.is_locked


@pytest.mark.parametrize("was_launched", [False, True])
def test_a_worker_that_is_started_by_hand_records_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, was_launched: bool
) -> None:
    folder = new_run(tmp_path, tmp_path / "gone")
    if was_launched:
        folder.write_launched(ProcessIdentity(2**22 + 1, 1.0), [])
        folder.write_outcome("stopped", "an earlier process")
    seen: list[RunState] = []
    monkeypatch.setattr(worker, "train_run", lambda folder: seen.append(derive_state(folder)) or 0)
    assert worker.main([str(folder.path)]) == 0
    launched = folder.read_launched()
    assert launched is not None and launched["pid"] == os.getpid()
    assert seen == [RunState.RUNNING]  # and not what an earlier process ended with
    assert worker.main([str(folder.path)]) == 0 and folder.read_launched() == launched


def test_worker_needs_the_folder_of_a_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a run"):
        worker.main([str(tmp_path)])


def test_an_image_that_is_cut_off_is_told_and_left_out(tiny_dataset: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(tiny_dataset, tmp_path / "data"))
    broken = data / "03.png"
    broken.write_bytes(broken.read_bytes()[:200])
    flags = ["--dataset_path", str(data), "--image_size", "32", "32", "--batch_size", "4", "--epochs", "1"]
    flags += ["--no-refine", "--device", "cpu"]
    assert run_command(train.main, [*flags, "--runs_dir", str(tmp_path / "runs")]) == 0
    (folder,) = list_runs(tmp_path / "runs")
    (event,) = folder.read_events()[0]
    assert event["kind"] == "image_left_out" and "03.png" in event["message"]


def test_an_image_in_two_splits_is_told_once_with_its_cure(
    tiny_dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "backend")
    data = Path(shutil.copytree(tiny_dataset, tmp_path / "data"))
    shutil.copyfile(data / "03.png", data / "04.png")
    header, *lines = (data / "annotations.csv").read_text(encoding="utf-8").splitlines()
    rows = [f"{line},{'test' if line.startswith('04') else 'train'}" for line in lines]
    (data / "annotations.csv").write_text("\n".join([f"{header},split", *rows]) + "\n", encoding="utf-8")
    folder = new_run(tmp_path / "runs", data, epochs=1, val_fraction=0, refine=False)
    assert train_run(folder) == 0
    printed = caplog.text
    assert "leak: 03.png (train) = 04.png (test): same bytes" in printed and "--exclude FILE" in printed
    (event,) = folder.read_events()[0]
    assert event["kind"] == "leaks" and event["count"] == 1
    assert event["pairs"] == [["03.png", "04.png", "train", "test", "same bytes", 0.0]]
    assert "04.png" in event["message"]

    folder.archive_outcome()
    caplog.clear()
    assert train_run(folder) == 0  # goes on from last.pt, which holds all epochs
    assert "program: " in caplog.text and "leak" not in caplog.text


def test_a_run_on_the_cpu_beside_a_gpu_that_torch_cannot_use_says_so_in_its_first_lines(
    tmp_path: Path,
    tiny_dataset: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "backend")
    cards = [Card("cuda:0", "RTX A", (8, 6))]
    build_of_torch = TorchBuild("2.13.0+cpu", None, ())
    unusable = find_unusable(cards, Driver("580", (13, 0)), build_of_torch, "")
    machine = Machine((), 2, "2.13.0+cpu", cpu_bfloat16=False, unusable=unusable)
    monkeypatch.setattr(worker, "describe_machine", lambda: machine)
    folder = new_run(tmp_path, tiny_dataset, epochs=1)
    assert train_run(folder) == 0
    first = caplog.text.splitlines()[0]
    event = folder.read_events()[0][0]
    assert event["kind"] == "gpu_unusable" and event["message"] in first
    assert "RTX A (cuda:0) cannot be used" in first and "pip install" in first
    assert train_run(folder) == 0
    assert [event["kind"] for event in folder.read_events()[0]].count("gpu_unusable") == 1
