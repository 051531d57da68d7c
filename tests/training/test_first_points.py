"""The predictions of the first network between the phases, and the shift of crops in training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from backend.run.folder import RunFolder
from backend.training import first_points
from backend.training.run_data import RunData
from backend.worker import train_run
from tests.training.tiny_runs import (
    DEFAULT_JITTER_PX,
    JITTER_LIMITS_PX,
    events_of,
    last_of,
    losses,
    new_run,
    oom_events,
    outcome_of,
    resume,
    rows_by_phase,
    stop_at,
)

pytestmark = [pytest.mark.usefixtures("tiny_network"), pytest.mark.slow]  # trains


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
        folder.archive_outcome()
        folder.clear_requests()
    predict, num_predicted = first_points.predict_batches, []

    def ask_and_predict(*arguments: Any, **more: Any) -> Any:
        folder.request("stop")
        found = predict(*arguments, **more)
        num_predicted.append(found)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(first_points, "predict_batches", ask_and_predict)
        assert train_run(folder) == 130
    assert num_predicted == [] and outcome_of(folder)["reason"] == (
        "stopped in the predictions of the first network; resume goes on from there"
    )
    resume(folder)
    assert losses(folder) == losses(completed)


def test_predictions_between_the_phases_are_repeated_in_parts(
    completed: RunFolder, tmp_path: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict = first_points.predict_batches

    def within_room(*arguments: Any, **more: Any) -> Any:
        if arguments[-1].limit is None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return predict(*arguments, **more)

    monkeypatch.setattr(first_points, "predict_batches", within_room)
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


def test_asked_to_stop_a_shortage_between_the_phases_ends_the_run_and_it_can_be_resumed(
    completed: RunFolder, tmp_path: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: Any, **_more: Any) -> None:
        raise MemoryError

    folder = new_run(tmp_path, tiny_dataset, on_oom="stop")
    with monkeypatch.context() as patch:
        patch.setattr(first_points, "predict_batches", fail)
        assert train_run(folder) == 3
    outcome = outcome_of(folder)
    assert outcome["state"] == "out_of_memory"
    words = "out of memory in predictions of the first network, with 3 images at once. Free memory"
    assert outcome["reason"].startswith(words) and "MemoryError" in outcome["traceback"]
    resume(folder)
    assert losses(folder) == losses(completed)


def test_too_few_validation_images_choose_no_jitter(completed: RunFolder) -> None:
    (told,) = events_of(completed, "crop_jitter")  # 3 images, 3 landmarks: 18 errors
    assert f"{DEFAULT_JITTER_PX:.1f} crop pixels" in told and "too few validation images" in told


@pytest.mark.parametrize(
    ("error_px", "jitter_px"),
    [(2.0, 1.5 * 2 / 0.6745), (0.1, JITTER_LIMITS_PX[0]), (60.0, JITTER_LIMITS_PX[1])],
)
def test_jitter_follows_the_first_networks_errors_within_limits(
    run_data: RunData, error_px: float, jitter_px: float
) -> None:
    assert run_data.valid is not None
    truth = run_data.valid.samples.points_xy_image.astype(np.float64)
    signs = np.resize([1.0, -1.0, -1.0], truth.shape)
    found = truth + error_px * signs  # a crop pixel is an image pixel here: 0.3 mm is finer than 0.5
    found[0, 0] = 1000.0  # one wild error moves the middle of 36 by nothing
    chosen = first_points.choose_jitter(run_data, first_points.FirstPoints(found, found, {}))
    assert chosen == pytest.approx(jitter_px, rel=1e-4)
    assert f"{jitter_px:.1f} crop pixels in training" in events_of(run_data.folder, "crop_jitter")[-1]


def test_jitter_is_as_asked_without_a_word(tmp_path: Path, tiny_dataset: Path) -> None:
    folder = new_run(tmp_path, tiny_dataset, crop_jitter=3.5, epochs=1, refine_epochs=1)
    assert train_run(folder) == 0
    assert last_of(folder)["networks"]["refine"]["jitter_px"] == 3.5
    assert events_of(folder, "crop_jitter") == []
