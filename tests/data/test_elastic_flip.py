"""Elastic shifts and mirrors move pictures and points alike."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from backend.data.annotations.table import IMAGE_COLUMNS
from backend.data.augmentation import Augmentation
from backend.data.crops import CropDataset
from backend.data.dataset import Batch, LandmarkDataset
from backend.data.flip_pairs import flip_order
from backend.data.image_store import ImageStore
from backend.data.samples import Samples
from backend.errors import UserError
from backend.geometry import CropFrame, displace_points, mirror

SIDE = 192
DOTS = np.array([[50.3, 80.6], [130.2, 90.4], [96.0, 140.5]])
NAMES = ("left", "right", "middle")


def draw_dots(size: int) -> npt.NDArray[np.uint8]:
    """Three Gaussians of different heights, so that one is told from the other."""
    rows, columns = np.mgrid[:size, :size]
    picture = np.full((size, size), 20.0)
    for (x, y), height in zip(DOTS, (120, 180, 230), strict=True):
        picture += height * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 2.5**2))
    return picture.clip(0, 255).round().astype(np.uint8)


@pytest.fixture
def samples(tmp_path: Path) -> Samples:
    path = tmp_path / "dots.png"
    cv2.imwrite(str(path), draw_dots(SIDE))
    row = ("dots", str(path), "train", "", "", np.nan, np.nan, SIDE, SIDE)
    return Samples(pd.DataFrame([row], columns=list(IMAGE_COLUMNS)), DOTS[None].astype(np.float32))


def brightest(picture: npt.NDArray[np.float32], near_xy: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Sub-pixel centre of the spot within five pixels of a point."""
    rows, columns = np.mgrid[: picture.shape[0], : picture.shape[1]]
    close = np.hypot(columns - near_xy[0], rows - near_xy[1]) <= 5
    weight = np.where(close, picture - picture[close].min(), 0.0) ** 2
    return np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum()


def height_at(picture: npt.NDArray[np.float32], xy: npt.NDArray[np.float64]) -> float:
    return float(picture[round(xy[1]), round(xy[0])])


def check_spots(picture: npt.NDArray[np.float32], points_xy: npt.NDArray[np.float64]) -> None:
    for point in points_xy:
        assert np.hypot(*(brightest(picture, point) - point)) < 0.35


ELASTIC = Augmentation(3.0, 0.03, 0.01, 0.0, elastic=0.02)
FLIPPING = Augmentation(3.0, 0.03, 0.01, 0.0, flip_order=(1, 0, 2))


@pytest.mark.parametrize("epoch", range(6))
def test_elastic_points_stand_on_their_spots_in_the_whole_image(samples: Samples, epoch: int) -> None:
    store = ImageStore(samples.paths, [(1.0,)], 10**8)
    dataset = LandmarkDataset(samples, (SIDE, SIDE), resize="stretch", store=store, augmentation=ELASTIC)
    sample = dataset[(epoch, 0)]
    check_spots(sample.images[0].numpy(), sample.points_xy_input.double().numpy())


@pytest.mark.parametrize("epoch", range(4))
def test_elastic_points_stand_on_their_spots_in_crops(samples: Samples, epoch: int) -> None:
    store = ImageStore(samples.paths, [(1.0, 1.0)], 10**8)
    dataset = CropDataset(
        samples, CropFrame(64, 1.0, 64 / SIDE), DOTS[None], store=store, augmentation=ELASTIC, jitter_px=3.0
    )
    sample = dataset[(epoch, 0)]
    for crop, point in zip(sample.images, sample.points_xy_input.double().numpy(), strict=True):
        check_spots(crop[0].numpy(), point[None])


def mirrored_epochs(dataset: LandmarkDataset | CropDataset) -> list[tuple[bool, Batch]]:
    found = []
    for epoch in range(12):
        sample = dataset[(epoch, 0)]
        found.append((bool(np.allclose(sample.points_xy_image[0].numpy(), DOTS[1], atol=1e-3)), sample))
    return found


def test_mirrored_images_show_each_landmark_under_its_partners_name(samples: Samples) -> None:
    store = ImageStore(samples.paths, [(1.0,)], 10**8)
    dataset = LandmarkDataset(samples, (SIDE, SIDE), resize="stretch", store=store, augmentation=FLIPPING)
    of_epochs = mirrored_epochs(dataset)
    assert {is_mirrored for is_mirrored, _ in of_epochs} == {True, False}
    for is_mirrored, sample in of_epochs:
        points = sample.points_xy_input.double().numpy()
        check_spots(sample.images[0].numpy(), points)
        assert points[0, 0] < points[1, 0]  # the one on the left is always called left
        lower, higher = (height_at(sample.images[0].numpy(), points[k]) for k in (0, 1))
        assert (lower > higher) is is_mirrored  # though it is then the right one's spot


def test_mirrored_crops_show_the_partners_spot(samples: Samples) -> None:
    store = ImageStore(samples.paths, [(1.0, 1.0)], 10**8)
    dataset = CropDataset(
        samples, CropFrame(64, 1.0, 64 / SIDE), DOTS[None], store=store, augmentation=FLIPPING, jitter_px=3.0
    )
    of_epochs = mirrored_epochs(dataset)
    assert {is_mirrored for is_mirrored, _ in of_epochs} == {True, False}
    for _, sample in of_epochs:
        for crop, point in zip(sample.images, sample.points_xy_input.double().numpy(), strict=True):
            check_spots(crop[0].numpy(), point[None])


def test_displaced_points_are_found_where_the_picture_shows_them() -> None:
    rng = np.random.default_rng(0)
    displacement = Augmentation(0, 0, 0, 0, elastic=0.05).draw_displacement(rng, (100, 140))
    assert displacement is not None and displacement.shape == (100, 140, 2)
    points = rng.uniform(20, 80, (50, 2))
    moved = displace_points(points, displacement)
    columns, rows = np.rint(moved).astype(int).T
    back = np.stack([columns, rows], -1) + displacement[rows, columns]
    assert np.abs(back - points).max() < 1.0  # what the nearest whole pixel shows
    assert np.isnan(displace_points(np.full((1, 2), np.nan), displacement)).all()


def test_a_mirror_is_its_own_inverse() -> None:
    from backend.geometry import compose

    assert np.allclose(compose(mirror((4, 7)), mirror((4, 7))), np.eye(3)[:2])


def test_flip_pairs_name_two_known_landmarks_each() -> None:
    assert flip_order(NAMES, " ") is None
    assert flip_order(NAMES, "left = right") == (1, 0, 2)
    for wrong in ("left", "left=nose", "left=right, right=middle", "left=right=middle"):
        with pytest.raises(UserError) as caught:
            flip_order(NAMES, wrong)
        assert caught.value.field == "flip_pairs"
