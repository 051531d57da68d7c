"""The heatmap task: its loss, its points in the original image, and its scores, on maps made by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from backend.data.dataset import Batch
from backend.training.heatmaps import as_logits, encode_heatmaps
from backend.training.task import (
    LandmarkScorer,
    LandmarkTask,
    Predictions,
    concatenate_predictions,
    mean_predictions,
)

NAN = math.nan
SIZE = 32
POINTS = [[[10.25, 6.5], [20.0, 24.75]], [[5.0, 27.0], [NAN, NAN]]]


def task_with(loss: str = "mse", decoder: str = "dark", stride: int = 1) -> LandmarkTask:
    return LandmarkTask(("nose", "chin"), (SIZE, SIZE), stride, 2.0, loss, decoder)


def batch_of(points: list[list[list[float]]], *, scale: float = 1.0, spacing: float = 0.5) -> Batch:
    """Images `scale` times as large as the input, pixel centres at integers."""
    points_xy = torch.tensor(points)
    num = len(points)
    affine = torch.tensor([[scale, 0, (scale - 1) / 2], [0, scale, (scale - 1) / 2]], dtype=torch.float64)
    return Batch(
        images=torch.zeros(num, 3, SIZE, SIZE),
        points_xy_input=points_xy,
        points_xy_image=((points_xy.double() + 0.5) * scale - 0.5),
        affine_input_to_image=affine.expand(num, 1, 2, 3),
        mm_per_px_xy=torch.full((num, 2), spacing, dtype=torch.float64),
        rows=torch.arange(num),
    )


def perfect_maps(task: LandmarkTask, batch: Batch) -> torch.Tensor:
    maps = encode_heatmaps(batch.points_xy_input, task.input_hw, task.stride, task.sigma_px)
    return as_logits(maps) if task.loss_name == "kl" else maps


@pytest.mark.parametrize("loss", ["mse", "adaptive_wing", "kl"])
def test_perfect_maps_have_no_loss_and_flat_ones_do(loss: str) -> None:
    task, batch = task_with(loss), batch_of(POINTS)
    maps = perfect_maps(task, batch)
    assert task.compute_loss(maps, batch).item() == pytest.approx(
        0, abs=0.01
    )  # a Gaussian is cut off at the edge
    assert task.compute_loss(torch.zeros_like(maps), batch).item() > 0.01


def test_targets_are_the_known_landmarks_within_the_input() -> None:
    points = [[[-0.5, 31.5], [-0.6, 3.0]], [[3.0, 31.6], [NAN, NAN]]]
    assert task_with().count_targets(batch_of(points)) == 1
    assert task_with().count_targets(batch_of(POINTS)) == 3


@pytest.mark.parametrize("loss", ["mse", "adaptive_wing", "kl"])
def test_what_the_map_of_a_missing_landmark_shows_changes_no_loss(loss: str) -> None:
    task, batch = task_with(loss), batch_of(POINTS)
    maps = torch.rand(2, 2, SIZE, SIZE)
    before = task.compute_loss(maps, batch)
    maps[1, 1] += torch.rand(SIZE, SIZE)
    assert torch.equal(task.compute_loss(maps, batch), before)
    maps[1, 0, 3, 3] += 1
    assert not torch.equal(task.compute_loss(maps, batch), before)


def test_the_loss_of_several_stacks_is_their_mean() -> None:
    task, batch = task_with(), batch_of(POINTS)
    first, second = torch.rand(2, 2, 2, SIZE, SIZE).unbind()
    each = [task.compute_loss(maps, batch).item() for maps in (first, second)]
    assert task.compute_loss([first, second], batch).item() == pytest.approx(sum(each) / 2)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("loss", "decoder"), [("mse", "dark"), ("kl", "dark"), ("kl", "expectation"), ("mse", "expectation")]
)
def test_points_come_back_in_the_pixels_of_the_original_image(loss: str, decoder: str, stride: int) -> None:
    """Any decoder reads the maps of any loss."""
    task, batch = task_with(loss, decoder, stride), batch_of(POINTS, scale=3.0)
    found = task.predict(perfect_maps(task, batch), batch)
    true = batch.points_xy_image.numpy()
    known = np.isfinite(true)
    np.testing.assert_allclose(found.points_xy_image[known], true[known], atol=0.3)
    assert found.confidence.shape == (2, 2) and ((found.confidence >= 0) & (found.confidence <= 1)).all()


def test_each_landmark_of_a_crop_has_an_affine_of_its_own() -> None:
    task, batch = task_with(), batch_of(POINTS)
    affine = torch.eye(3, dtype=torch.float64)[:2].repeat(2, 2, 1, 1)
    affine[:, 1, :, 2] = torch.tensor([100.0, 200.0])
    crops = batch._replace(affine_input_to_image=affine)
    moved = task.predict(perfect_maps(task, batch), crops).points_xy_image
    still = task.predict(perfect_maps(task, batch), batch).points_xy_image
    np.testing.assert_allclose(moved[0, 0], still[0, 0])
    np.testing.assert_allclose(moved[0, 1], still[0, 1] + [100, 200])


@pytest.mark.parametrize("loss", ["mse", "kl"])
def test_maps_for_the_eye_are_bytes_with_their_place_in_the_image(loss: str) -> None:
    task, batch = task_with(loss, stride=2), batch_of([[[10.5, 6.5], [20.5, 24.5]]], scale=3.0)
    maps, affines = task.small_maps(perfect_maps(task, batch), batch)
    assert maps.dtype == np.uint8 and maps.shape == (1, 2, 16, 16) and affines.shape == (1, 1, 2, 3)
    for k, true in enumerate(batch.points_xy_image[0].numpy()):
        row, column = np.unravel_index(maps[0, k].argmax(), (16, 16))
        assert maps[0, k, row, column] == 255
        np.testing.assert_allclose(affines[0, 0] @ [column, row, 1], true)


def test_the_contrast_of_a_flat_map_is_0_under_any_loss() -> None:
    flat = torch.full((1, 2, SIZE, SIZE), 0.7)
    for loss in ("mse", "kl"):
        task, batch = task_with(loss), batch_of(POINTS)
        assert task.contrast(flat) == pytest.approx(np.zeros((1, 2)), abs=1e-6)
        assert (task.contrast(perfect_maps(task, batch))[0] > 0.5).all()


def test_a_scorer_reports_all_batches_at_once_and_each_landmark() -> None:
    task = task_with()
    scorer = task.new_scorer()
    for shift, points in ((0.0, POINTS[:1]), (4.0, POINTS[1:])):
        batch = batch_of(points)
        shifted = batch._replace(points_xy_input=batch.points_xy_input + torch.tensor([shift, 0.0]))
        scorer.add(perfect_maps(task, shifted), batch)
    metrics = scorer.metrics()
    assert metrics["mre_px"] == pytest.approx(4 / 3, abs=0.05) and metrics["num_images"] == 2
    assert metrics["mre_mm"] == pytest.approx(2 / 3, abs=0.03)
    assert metrics["mre_px/nose"] == pytest.approx(2, abs=0.05)
    assert metrics["mre_mm/chin"] == pytest.approx(0, abs=0.03)
    assert metrics["sdr_2mm"] == pytest.approx(1)


def test_a_scorer_gives_no_millimetres_where_an_image_has_no_pixel_size() -> None:
    task = task_with()
    scorer = task.new_scorer()
    for spacing, points in ((0.5, POINTS[:1]), (NAN, POINTS[1:])):
        batch = batch_of(points, spacing=spacing)
        scorer.add(perfect_maps(task, batch), batch)
    metrics = scorer.metrics()
    assert metrics["mre_px"] is not None
    assert {name: value for name, value in metrics.items() if "mm" in name and value is not None} == {}


def test_the_evidence_of_a_scorer_is_in_input_pixels() -> None:
    task, batch = task_with(), batch_of(POINTS, scale=3.0)
    scorer: LandmarkScorer = task.new_scorer()
    scorer.add(perfect_maps(task, batch), batch)
    evidence = scorer.evidence()
    np.testing.assert_allclose(evidence.true_xy_input, batch.points_xy_input.numpy(), atol=1e-5)
    np.testing.assert_allclose(evidence.predicted_xy_input[0], POINTS[0], atol=0.1)
    assert evidence.contrast.shape == (2, 2)


def test_predictions_are_joined_in_their_order_or_averaged() -> None:
    one = Predictions(np.zeros((1, 2, 2)), np.full((1, 2), 0.5))
    other = Predictions(np.ones((1, 2, 2)), np.full((1, 2), 0.25))
    both = concatenate_predictions([one, other])
    assert both.points_xy_image[:, 0, 0].tolist() == [0, 1] and both.spread_xy_image is None
    mean = mean_predictions([one, other])
    assert (mean.points_xy_image == 0.5).all() and (mean.confidence == 0.375).all()
    refined = replace(one, unrefined_xy_image=np.ones((1, 2, 2)))
    assert concatenate_predictions([refined, refined]).unrefined_xy_image is not None
