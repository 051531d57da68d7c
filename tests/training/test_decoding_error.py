from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from backend.config import Settings
from backend.data.samples import load_splits
from backend.training.decoding_error import decode_truth, decoding_error_on_crops, decoding_error_on_images
from backend.training.heatmaps import encode_heatmaps
from backend.training.task import LandmarkTask

MEAN_DISTANCE_IN_UNIT_SQUARE = (np.sqrt(2) + np.log(1 + np.sqrt(2))) / 6  # from its centre: 0.3826


def task(decoder: str, stride: int, sigma_px: float, loss: str = "mse") -> LandmarkTask:
    return LandmarkTask(("a",), (128, 96), stride, sigma_px, loss, decoder)


def points(num: int = 4000) -> torch.Tensor:
    """(1, num, 2) anywhere in the middle of the input."""
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.uniform([20, 20], [76, 108], (1, num, 2))).float()


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_argmax_errs_by_the_mean_distance_to_a_cell_s_centre(stride: int) -> None:
    truth = points()
    distance = (decode_truth(truth, task("argmax", stride, 2.0 * stride)) - truth).norm(dim=-1)
    assert float(distance.mean()) == pytest.approx(MEAN_DISTANCE_IN_UNIT_SQUARE * stride, rel=0.02)
    assert float(distance.max()) <= stride / np.sqrt(2) + 1e-4


@pytest.mark.parametrize("loss", ["kl", "mse"])
@pytest.mark.parametrize("decoder", ["argmax", "dark", "expectation"])
def test_a_point_on_a_cell_s_centre_comes_back(decoder: str, loss: str) -> None:
    truth = torch.tensor([[[4 * 7 + 1.5, 4 * 9 + 1.5]]])
    assert decode_truth(truth, task(decoder, 4, 8.0, loss))[0, 0] == pytest.approx(truth[0, 0], abs=1e-3)


@pytest.mark.parametrize("loss", ["kl", "mse"])
@pytest.mark.parametrize("decoder", ["dark", "expectation"])
def test_sub_cell_decoders_lose_nearly_nothing(decoder: str, loss: str) -> None:
    truth = points(500)
    assert float((decode_truth(truth, task(decoder, 2, 3.0, loss)) - truth).norm(dim=-1).max()) < 0.05


@pytest.mark.parametrize("decoder", ["argmax", "dark", "expectation"])
def test_a_decoder_does_not_change_how_sure_a_map_is(decoder: str) -> None:
    maps = encode_heatmaps(points(5), (128, 96), 2, 3.0) * torch.linspace(0.2, 0.9, 5)[:, None, None]
    for loss, usual in (("mse", "dark"), ("kl", "expectation")):
        read = maps if loss == "mse" else 3 * maps - 20  # logits are what they are up to a constant
        _, confidence = task(decoder, 2, 3.0, loss).decode(read)
        _, expected = task(usual, 2, 3.0, loss).decode(read)
        assert confidence.tolist() == expected.tolist() and 0.01 < confidence.min() < confidence.max() < 0.99


def test_a_missing_point_stays_missing() -> None:
    assert decode_truth(torch.full((1, 1, 2), torch.nan), task("dark", 4, 8.0)).isnan().all()


def test_the_floor_of_a_data_set_is_told_in_its_pixels_and_mm(tiny_dataset: Path) -> None:
    samples = load_splits(
        tiny_dataset, dataset_format="auto", annotation_type="mean", val_fraction=0.0, seed=0
    ).train
    settings = Settings(
        image_size=(64, 64), output_stride=4, loss="mse", decoder="argmax", sigma=6.0, resize="stretch"
    )
    floor = decoding_error_on_images(samples, settings)
    # 96 x 80 pixels on 64 x 64: a cell of 4 is 6 by 5 pixels of the image
    assert floor.num_images == 12
    assert 0.8 < (floor.mre_px or 0) / (MEAN_DISTANCE_IN_UNIT_SQUARE * 5.5) < 1.2
    assert floor.mre_mm == pytest.approx(0.5 * (floor.mre_px or 0))
    fine = decoding_error_on_images(samples, settings.model_copy(update={"decoder": "dark"}))
    assert (fine.mre_px or 1) < 0.1


def test_the_floor_on_crops_is_that_of_their_own_frame(tiny_dataset: Path) -> None:
    samples = load_splits(
        tiny_dataset, dataset_format="auto", annotation_type="mean", val_fraction=0.0, seed=0
    ).train
    # a crop pixel is one of the image, and a cell two: 0.38 * 2 px
    settings = Settings(loss="mse", decoder="argmax", crop_size=32, crop_mm_per_px=0.5)
    floor = decoding_error_on_crops(samples, settings)
    assert floor.mre_px == pytest.approx(MEAN_DISTANCE_IN_UNIT_SQUARE * 2, rel=0.2)
