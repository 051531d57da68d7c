from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.data.augmentation import MAX_DEVIATIONS, Augmentation
from backend.data.crops import TAIL_FACTOR, TAIL_SHARE, CropDataset, crop_scale, standardize_each
from backend.data.dataset import Batch, standardize
from backend.data.image_store import HEADROOM, ImageStore
from backend.data.samples import Samples
from backend.geometry import CropFrame, apply_affine

Array = np.ndarray[Any, Any]

FRAME = CropFrame(64, 0.3, 0.09)
STILL = Augmentation(rotation_deg=0, scale_jitter=0, shift_jitter=0, photometric=0)
MOVING = Augmentation(rotation_deg=15, scale_jitter=0.1, shift_jitter=0.05, photometric=0)
FULL = Augmentation(rotation_deg=5, scale_jitter=0.08, shift_jitter=0.025, photometric=1)

# size (h, w), spacing (x, y) mm; crop pixels cover 3 x 3, 3 x 1.5, 1 x 1 (no finer than the image) and,
# without a spacing, 0.09 * 1050 / 64 = 1.48 image pixels: the first is kept reduced, the others are not or
# hardly
IMAGES = [
    ((900, 700), (0.1, 0.1)),
    ((800, 900), (0.1, 0.2)),
    ((300, 260), (0.5, 0.5)),
    ((1200, 900), (np.nan, np.nan)),
    ((1300, 1500), (0.04, 0.05)),
]
POINTS = np.array(
    [
        [[211.3, 640.8], [500.6, 133.2]],
        [[402.2, 530.6], [700.1, 300.9]],
        [[170.4, 151.7], [80.9, 220.2]],
        [[433.3, 800.8], [650.5, 400.1]],
        [[1000.4, 700.6], [450.2, 1001.3]],
    ]
)


def samples_of(
    paths: list[Path], sizes_hw: list[tuple[int, int]], spacings: Array, points_xy: Array
) -> Samples:
    table = pd.DataFrame(
        {
            "image_id": [path.stem for path in paths],
            "path": [str(path) for path in paths],
            "split": "train",
            "group": "",
            "height": [height for height, _ in sizes_hw],
            "width": [width for _, width in sizes_hw],
            "mm_per_px_x": spacings[:, 0],
            "mm_per_px_y": spacings[:, 1],
        }
    )
    return Samples(table, points_xy.astype(np.float32))


def draw_dots(image_hw: tuple[int, int], points_xy: Array, sigmas_px: Array) -> Array:
    """Bright Gaussians, round in crop pixels, at sub-pixel positions on a dark ground."""
    y, x = np.mgrid[: image_hw[0], : image_hw[1]]
    bumps = [
        np.exp(-(((x - px) / sigmas_px[0]) ** 2 + ((y - py) / sigmas_px[1]) ** 2) / 2) for px, py in points_xy
    ]
    return np.round(20 + 230 * np.sum(bumps, axis=0)).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def dots(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    """Images of several sizes and spacings with a bright dot at each of their two landmarks."""
    folder = tmp_path_factory.mktemp("dots")
    paths = []
    for number, ((size_hw, spacing), points_xy) in enumerate(zip(IMAGES, POINTS, strict=True)):
        sigmas_px = 2.5 * FRAME.image_px_per_px_xy(size_hw, np.array(spacing))
        paths.append(folder / f"{number}.png")
        cv2.imwrite(str(paths[-1]), draw_dots(size_hw, points_xy, sigmas_px))
    sizes_hw, spacings = zip(*IMAGES, strict=True)
    return samples_of(paths, list(sizes_hw), np.array(spacings), POINTS)


def store_of(samples: Samples, frame: CropFrame = FRAME) -> ImageStore:
    """Two levels an image, as for a run: a tiny one for whole images, and the crops' own."""
    scales = [
        [0.1, crop_scale(frame.image_px_per_px_xy(size_hw, spacing))]
        for size_hw, spacing in zip(samples.sizes_hw, samples.mm_per_px_xy, strict=True)
    ]
    return ImageStore(samples.paths, scales, 10**9)


def crops_of(
    samples: Samples, centres: Array | None = None, frame: CropFrame = FRAME, **options: Any
) -> CropDataset:
    centres = samples.points_xy_image if centres is None else centres
    return CropDataset(samples, frame, centres, store=store_of(samples, frame), **options)


@pytest.fixture(scope="module")
def moving(dots: Samples) -> dict[int, CropDataset]:
    """Augmented and jittered crops by seed."""
    return {seed: crops_of(dots, augmentation=MOVING, jitter_px=6.0, seed=seed) for seed in range(4)}


def centroid_xy(picture: Array) -> Array:
    """Where the one bright dot of a picture is."""
    weights = picture.astype(np.float64) - picture.min()
    weights[weights < 0.25 * weights.max()] = 0
    y, x = np.mgrid[: picture.shape[0], : picture.shape[1]]
    return np.array([(weights * x).sum(), (weights * y).sum()]) / weights.sum()


# Where a crop lies


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 3), st.integers(0, 50), st.integers(0, len(IMAGES) - 1))
def test_points_of_a_crop_lead_back_to_the_image_exactly(
    moving: dict[int, CropDataset], seed: int, epoch: int, index: int
) -> None:
    sample = moving[seed][(epoch, index)]
    assert sample.affine_input_to_image.shape == (2, 2, 3)
    for affine, in_crop, in_image in zip(
        sample.affine_input_to_image.numpy(),
        sample.points_xy_input.double().numpy(),
        sample.points_xy_image.numpy(),
        strict=True,
    ):
        # the crop's points are float32 of some tens of pixels: 4e-6 of them, at most 3.2 image pixels each
        assert np.abs(apply_affine(affine, in_crop) - in_image).max() < 5e-5


@pytest.mark.parametrize(
    "options", [{}, {"augmentation": MOVING, "jitter_px": 6.0}], ids=["plain", "augmented"]
)
def test_landmark_lies_on_the_pixels_that_it_marks(dots: Samples, options: dict[str, Any]) -> None:
    dataset = crops_of(dots, **options)
    num_seen = 0
    for epoch in range(4 if options else 1):
        for index in range(len(dots)):
            sample = dataset[(epoch, index)]
            for crop, xy in zip(sample.images[:, 0].numpy(), sample.points_xy_input.numpy(), strict=True):
                if xy.min() > 8 and xy.max() < 55:  # a jitter may bring the dot to the crop's border
                    assert np.abs(centroid_xy(crop) - xy).max() < 0.12, (epoch, index)
                    num_seen += 1
    assert num_seen >= (30 if options else 10)


def test_plain_crops_stand_about_their_centres_whatever_the_truth(dots: Samples) -> None:
    centres = POINTS + np.array([5.25, -4.5])
    dataset = crops_of(dots, centres)
    for index, (size_hw, spacing) in enumerate(IMAGES):
        scale = FRAME.image_px_per_px_xy(size_hw, np.array(spacing))
        expected = 31.5 - np.array([5.25, -4.5]) / scale
        assert np.allclose(dataset[(0, index)].points_xy_input.numpy(), expected, atol=1e-3)
        middles = apply_affine(dataset[(0, index)].affine_input_to_image[1].numpy(), np.array([31.5, 31.5]))
        assert np.allclose(middles, centres[index, 1])


def test_a_crop_of_a_reduced_image_covers_its_millimetres(dots: Samples) -> None:
    """Image 0 is kept at 1.25 / 3 of its size; a crop still spans 64 * 0.3 mm = 192 of its own pixels."""
    level = store_of(dots).get(0)[-1]
    assert level.pixels.shape == (round(900 * HEADROOM / 3), round(700 * HEADROOM / 3))
    affine = crops_of(dots)[(0, 0)].affine_input_to_image[0].numpy()
    edges = apply_affine(affine, np.array([[-0.5, -0.5], [63.5, 63.5]]))
    assert np.allclose(edges[1] - edges[0], [192, 192])


def test_a_crop_beyond_the_image_takes_the_images_mean(dots: Samples) -> None:
    centres = np.array(POINTS)
    centres[0, 0] = (-500.0, -500.0)
    sample = crops_of(dots, centres)[(0, 0)]
    assert not sample.images[0].any()  # one grey value: nothing is left of it once standardised
    assert sample.points_xy_input[0].min() > 64 and sample.images[1].any()


# Jitter


def offsets_px(dataset: CropDataset, num_epochs: int) -> Array:
    """How far the centre of each crop stands off its landmark, crop pixels: (epochs * images * K, 2)."""
    found = [
        31.5 - dataset[(epoch, index)].points_xy_input.numpy()
        for epoch in range(num_epochs)
        for index in range(len(dataset))
    ]
    return np.concatenate(found)


@pytest.mark.slow
def test_jitter_has_the_spread_and_the_tail_that_are_stated(
    dots: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = crops_of(dots, augmentation=STILL, jitter_px=4.0)
    blank = np.zeros((2, *FRAME.hw), np.uint8)
    monkeypatch.setattr(dataset, "_cut", lambda *_: blank)  # only where they stand is asked
    offsets = offsets_px(dataset, 800) / 4.0  # 8000 crops
    # on both axes and each image alike: crop pixels, not image pixels
    variance = 1 + TAIL_SHARE * (TAIL_FACTOR**2 - 1)
    assert np.abs(offsets.mean(axis=0)).max() < 0.06
    assert np.allclose(offsets.var(axis=0), variance, rtol=0.1)
    # both axes of a crop belong to the same of the two Gaussians: kurtosis of the radius tells them apart
    radii = np.hypot(*offsets.T)
    far = np.exp(-(3.0**2) / 2 / np.array([1.0, TAIL_FACTOR]) ** 2) @ [1 - TAIL_SHARE, TAIL_SHARE]
    assert (radii > 3).mean() == pytest.approx(far, abs=0.01)
    assert far > 3 * np.exp(-(3.0**2) / 2)  # else the tail would not be seen here


def test_jitter_moves_by_as_many_crop_pixels_as_asked(dots: Samples) -> None:
    small, large = (
        offsets_px(crops_of(dots, augmentation=STILL, jitter_px=jitter, seed=7), 2) for jitter in (1.0, 5.0)
    )
    assert np.allclose(5 * small, large, atol=1e-3)
    assert not offsets_px(crops_of(dots, augmentation=STILL, jitter_px=0.0), 1).round(3).any()


def test_augmentation_of_crops_has_no_shift_of_its_own(dots: Samples) -> None:
    """Without a jitter a turned and scaled crop keeps its landmark in the middle."""
    dataset = crops_of(dots, augmentation=MOVING, jitter_px=0.0)
    turned = dataset[(3, 1)].affine_input_to_image.numpy()
    assert np.abs(offsets_px(dataset, 3)).max() < 1e-3
    assert np.abs(turned[:, 0, 1]).max() > 0.01  # they are turned, and each crop for itself
    assert not np.allclose(turned[0, :, :2], turned[1, :, :2])
    scales = [
        np.sqrt(np.linalg.det(dataset[(e, 0)].affine_input_to_image[0, :, :2].numpy())) for e in range(20)
    ]
    assert (
        3 * np.exp(-0.1 * MAX_DEVIATIONS) <= min(scales) < 3 < max(scales) <= 3 * np.exp(0.1 * MAX_DEVIATIONS)
    )


def assert_same(first: Batch, second: Batch) -> None:
    for name, value in first._asdict().items():
        assert torch.equal(torch.nan_to_num(value), torch.nan_to_num(getattr(second, name))), name


def test_crops_depend_on_seed_epoch_and_index(dots: Samples) -> None:
    dataset, again = (crops_of(dots, augmentation=FULL, jitter_px=4.0, seed=3) for _ in range(2))
    again[(5, 2)]
    first = dataset[(1, 4)]
    assert_same(first, again[(1, 4)])
    other_seed = crops_of(dots, augmentation=FULL, jitter_px=4.0, seed=4)
    for other in (dataset[(2, 4)], other_seed[(1, 4)]):
        assert not torch.equal(first.points_xy_input, other.points_xy_input)
        assert not torch.equal(first.images, other.images)


def test_validation_crops_are_the_same_in_every_epoch(dots: Samples) -> None:
    dataset = crops_of(dots, jitter_px=4.0)  # without augmentation there is no jitter either
    assert_same(dataset[(0, 1)], dataset[(7, 1)])
    assert not offsets_px(dataset, 1).round(3).any()


# What is missing


@pytest.mark.parametrize("augmentation", [None, MOVING], ids=["plain", "augmented"])
def test_missing_landmark_gives_an_empty_crop(dots: Samples, augmentation: Augmentation | None) -> None:
    points = dots.points_xy_image.copy()
    points[0, 0] = np.nan
    holed = Samples(dots.images, points)
    options: dict[str, Any] = {"augmentation": augmentation, "jitter_px": 3.0}
    sample, whole = crops_of(holed, **options)[(2, 0)], crops_of(dots, **options)[(2, 0)]
    assert not sample.images[0].any()
    assert torch.isnan(sample.points_xy_input[0]).all() and torch.isnan(sample.points_xy_image[0]).all()
    assert torch.equal(sample.images[1], whole.images[1])
    assert torch.equal(sample.points_xy_input[1], whole.points_xy_input[1])
    assert torch.equal(sample.affine_input_to_image[1], whole.affine_input_to_image[1])


def test_an_unknown_truth_about_a_known_centre_still_shows_its_pixels(dots: Samples) -> None:
    """Prediction: the first network says where to look, and nobody knows the truth."""
    unknown = Samples(dots.images, np.full_like(dots.points_xy_image, np.nan))
    sample, known = crops_of(unknown, POINTS)[(0, 1)], crops_of(dots, POINTS)[(0, 1)]
    assert torch.isnan(sample.points_xy_input).all()
    assert torch.equal(sample.images, known.images)
    assert torch.equal(sample.affine_input_to_image, known.affine_input_to_image)


# Pixels


def test_colour_crops_keep_their_channels(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 60, (200, 220, 3), dtype=np.uint8)
    picture[100:, :, 2] += 180  # OpenCV writes BGR: the lower half is red
    cv2.imwrite(str(tmp_path / "colour.png"), picture)
    points = np.array([[[110.0, 40.0], [110.0, 160.0], [np.nan, np.nan]]])
    samples = samples_of([tmp_path / "colour.png"], [(200, 220)], np.full((1, 2), 0.3), points)
    for augmentation in (None, FULL):
        images = crops_of(samples, augmentation=augmentation)[(0, 0)].images
        assert images.shape == (3, 3, 64, 64) and images.dtype == torch.float32
        upper, lower = images[0], images[1]
        assert lower[0].mean() > 1 > 0 > lower[1].mean()
        assert (upper.mean((1, 2)) - upper.mean()).abs().max() < 0.3
    assert not crops_of(samples)[(0, 0)].images[2].any()


def test_an_images_exposure_is_one_for_all_its_crops(dots: Samples) -> None:
    """Two crops of the same pixels stay equal under brightness, contrast and gamma (noise and blur apart)."""
    twice = Samples(dots.images, np.repeat(dots.points_xy_image[:, :1], 2, axis=1))
    bright = Augmentation(rotation_deg=0, scale_jitter=0, shift_jitter=0, photometric=1)
    dataset = crops_of(twice, augmentation=bright)
    plain = crops_of(twice)
    differences = []
    for epoch in range(12):
        images = dataset[(epoch, 0)].images
        differences.append(float((images[0] - images[1]).abs().mean()))
        assert not torch.equal(images[0], plain[(0, 0)].images[0]) or epoch
    assert np.median(differences) < 1e-6


@pytest.mark.parametrize("channels", [(), (3,)])
def test_each_crop_is_standardised_as_a_picture_of_its_own(channels: tuple[int, ...]) -> None:
    pictures = np.random.default_rng(0).integers(0, 100, (4, 32, 48, *channels), dtype=np.uint8)
    pictures[1] = pictures[1] * 2 + 40
    pictures[2] = 77
    images = standardize_each(pictures)
    assert images.shape == (4, 3, 32, 48) and images.dtype == torch.float32
    for image, picture in zip(images, pictures, strict=True):
        torch.testing.assert_close(image, standardize(picture), atol=1e-5, rtol=1e-5)
    assert not images[2].any()
    assert images[1].mean().item() == pytest.approx(0, abs=1e-4)
    assert images[1].std().item() == pytest.approx(1, abs=1e-3)


def test_crops_of_several_sizes_make_one_batch(dots: Samples) -> None:
    dataset = crops_of(dots)
    batch = torch.utils.data.default_collate([dataset[(0, index)] for index in range(len(dots))])
    assert batch.images.shape == (len(dots), 2, 3, 64, 64)
    assert batch.affine_input_to_image.shape == (len(dots), 2, 2, 3)
    assert batch.affine_input_to_image.dtype == batch.points_xy_image.dtype == torch.float64
    assert torch.equal(batch.to(torch.device("cpu")).images, batch.images)
    assert batch.rows.tolist() == list(range(len(dots)))
    assert torch.isnan(batch.mm_per_px_xy[3]).all() and batch.mm_per_px_xy[1].tolist() == [0.1, 0.2]


def test_crop_scale_is_no_larger_than_needed() -> None:
    assert crop_scale(np.array([5.0, 5.0])) == pytest.approx(HEADROOM / 5)
    assert crop_scale(np.array([5.0, 2.5])) == pytest.approx(HEADROOM / 2.5)  # by the finer axis
    assert crop_scale(np.array([1.0, 1.1])) == 1


def test_each_networks_draw_is_another_one_of_the_same_landmarks(dots: Samples) -> None:
    one = crops_of(dots, augmentation=FULL, jitter_px=6.0)[(0, 1)]
    three = crops_of(dots, augmentation=FULL, jitter_px=6.0, num_draws=3)[(0, 1)]
    num_landmarks = one.images.shape[0]
    assert three.images.shape[0] == 3 * num_landmarks
    torch.testing.assert_close(
        three.images[:num_landmarks], one.images
    )  # the first draw is what it was alone
    torch.testing.assert_close(three.points_xy_image, one.points_xy_image.repeat(3, 1))
    draws = three.points_xy_input.chunk(3)
    assert all((a - b).abs().max() > 1 for a, b in ((draws[0], draws[1]), (draws[1], draws[2])))
