"""The crop of a refinement on the sample picture, and the words under it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from backend.config import Settings
from backend.data.samples import SampleSplits, load_splits
from ui.datasets import crop_sides, sigma_words
from ui.pictures import plot_sample


@pytest.fixture(scope="module")
def splits(tiny_dataset: Path) -> SampleSplits:
    return load_splits(tiny_dataset, dataset_format="auto", annotation_type="mean", val_fraction=0.25, seed=0)


def test_a_crop_is_told_in_pixels_of_the_image(splits: SampleSplits) -> None:
    settings = Settings(crop_size=64, crop_mm_per_px=1.5)
    assert crop_sides(settings, splits.train) == pytest.approx(
        np.array([192.0, 192.0])
    )  # 96 mm of 0.5 mm a pixel
    assert "a crop of 64 x 64 covers 192 x 192 px of this image" in sigma_words(settings, splits.train).words


def test_without_refinement_there_is_no_crop(splits: SampleSplits) -> None:
    settings = Settings(refine=False)
    assert crop_sides(settings, splits.train) is None
    assert "crop" not in sigma_words(settings, splits.train).words


def test_one_crop_is_outlined_to_scale_about_the_known_landmark_in_the_middle() -> None:
    points = np.array([[10.0, 20.0], [200.0, 250.0], [np.nan, np.nan], [390.0, 480.0]])
    names = ["Sella", "Nasion", "Porion", "Menton"]
    display = np.zeros((50, 40), np.uint8)
    figure = plot_sample(display, (500, 400), points, names, 7.0, np.array([192.0, 96.0]))
    (outline,) = [trace for trace in figure.data if trace.name == "crop about Nasion"]
    assert (min(outline.x), max(outline.x)) == (104.0, 296.0)
    assert (min(outline.y), max(outline.y)) == (202.0, 298.0)
    assert (outline.x[0], outline.y[0]) == (outline.x[-1], outline.y[-1])
    nothing = plot_sample(display, (500, 400), np.full((2, 2), np.nan), names[:2], 7.0, np.array([9.0, 9.0]))
    assert len(nothing.data) == 2
