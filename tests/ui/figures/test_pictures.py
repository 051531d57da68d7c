"""Pictures of images with landmarks: crops, readers, a window, sigma over the cells."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from backend.config import Settings
from backend.data.samples import SampleSplits, load_splits
from backend.geometry import scaling
from ui.datasets import crop_sides, describe_sigma
from ui.figures.pictures import plot_marks, plot_sample, plot_sigma, zoom_in


@pytest.fixture(scope="module")
def splits(tiny_dataset: Path) -> SampleSplits:
    return load_splits(tiny_dataset, dataset_format="auto", annotation_type="mean", val_fraction=0.25, seed=0)


def test_a_crop_is_told_in_pixels_of_the_image(splits: SampleSplits) -> None:
    settings = Settings(crop_size=64, crop_mm_per_px=1.5)
    # 96 mm at 0.5 mm per pixel
    assert crop_sides(settings, splits.train) == pytest.approx(np.array([192.0, 192.0]))
    text = describe_sigma(settings, splits.train).text
    assert "a crop of 64 x 64 covers 192 x 192 px of this image" in text


def test_without_refinement_there_is_no_crop(splits: SampleSplits) -> None:
    settings = Settings(refine=False)
    assert crop_sides(settings, splits.train) is None
    assert "crop" not in describe_sigma(settings, splits.train).text


def test_one_crop_is_outlined_to_scale_about_the_known_landmark_in_the_middle() -> None:
    points = np.array([[10.0, 20.0], [200.0, 250.0], [np.nan, np.nan], [390.0, 480.0]])
    names = ["Sella", "Nasion", "Porion", "Menton"]
    display = np.zeros((50, 40), np.uint8)
    figure = plot_sample(display, (500, 400), points, names, 7.0, np.array([192.0, 96.0]))
    (outline,) = [trace for trace in figure.data if trace.name == "crop around Nasion"]
    assert (min(outline.x), max(outline.x)) == (104.0, 296.0)
    assert (min(outline.y), max(outline.y)) == (202.0, 298.0)
    assert figure.layout.showlegend
    assert [trace.name for trace in figure.data] == [
        "circle of 1 sigma",
        "crop around Nasion",
        "ground truth",
    ]
    assert (outline.x[0], outline.y[0]) == (outline.x[-1], outline.y[-1])
    nothing = plot_sample(display, (500, 400), np.full((2, 2), np.nan), names[:2], 7.0, np.array([9.0, 9.0]))
    assert len(nothing.data) == 2


def test_readers_differ_in_shape_and_their_mean_in_another() -> None:
    readers = np.array([[[10.0, 10.0], [50.0, 60.0]], [[20.0, 10.0], [50.0, 80.0]]])
    figure = plot_marks(np.zeros((100, 100), np.uint8), (100, 100), readers, ["a", "b"], ["Ann", "Bea"])
    assert [trace.name for trace in figure.data] == ["Ann", "Bea", "mean"]
    assert len({trace.marker.symbol for trace in figure.data}) == 3
    assert (list(figure.data[2].x), list(figure.data[2].y)) == ([15.0, 50.0], [10.0, 70.0])
    alone = plot_marks(np.zeros((100, 100), np.uint8), (100, 100), readers[:1], ["a", "b"], ["Ann"])
    assert [trace.name for trace in alone.data] == ["Ann"]


def test_a_window_shows_the_image_s_own_pixels_where_they_lie() -> None:
    pixels = np.zeros((400, 300), np.uint8)
    figure = plot_marks(np.zeros((200, 150), np.uint8), (400, 300), np.zeros((1, 1, 2)), ["a"], ["Ann"])
    zoom_in(figure, pixels, np.array([10.0, 200.0]), 80.0)
    assert tuple(figure.layout.xaxis.range) == (-0.5, 50.5)  # cut at the border
    assert tuple(figure.layout.yaxis.range) == (240.5, 159.5)
    detail = figure.layout.images[1]
    assert (detail.x, detail.y, detail.sizex, detail.sizey) == (-0.5, 159.5, 51, 81)


def test_sigma_and_cells_lie_on_the_image_as_the_input_lies_on_it() -> None:
    affine = scaling(0.25, 0.5)  # an image of 400 x 400 on an input of 200 x 100
    figure = plot_sigma(
        np.zeros((400, 400), np.uint8), np.array([[201.5, 101.5]]), ["a"], 0, affine, stride=2, sigma_px=3.0
    )
    ring = next(trace for trace in figure.data if trace.name == "1 sigma")
    assert (min(ring.x), max(ring.x)) == pytest.approx((201.5 - 12, 201.5 + 12), abs=0.01)
    assert (min(ring.y), max(ring.y)) == pytest.approx((101.5 - 6, 101.5 + 6), abs=0.01)
    cells = next(trace for trace in figure.data if trace.name == "heatmap cells")
    upright = sorted({x for x, other in zip(cells.x[::3], cells.x[1::3], strict=True) if x == other})
    # borders at every second input pixel: 8 pixels of the image, one of them at its left edge
    assert np.diff(upright) == pytest.approx(8.0) and (np.array(upright) + 0.5) % 8 == pytest.approx(0.0)
