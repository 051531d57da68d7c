from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import default_collate

from backend.data.augmentation import Augmentation
from backend.data.dataset import Batch, Batches, EpochBatches, LandmarkDataset, standardize
from backend.data.image_store import HEADROOM, ImageStore, input_scale, reduce_image, warp
from backend.data.samples import Samples, load_splits
from backend.errors import UserError
from backend.geometry import RESIZES, apply_affine, invert_affine

Array = np.ndarray[Any, Any]

MOVING = Augmentation(rotation_deg=15, scale_jitter=0.1, shift_jitter=0.05, photometric=0)
FULL = Augmentation(rotation_deg=5, scale_jitter=0.08, shift_jitter=0.025, photometric=1)


def draw_dot(image_hw: tuple[int, int], xy: tuple[float, float], sigma_px: float) -> Array:
    """A bright Gaussian at a sub-pixel position on a dark ground."""
    y, x = np.mgrid[: image_hw[0], : image_hw[1]]
    squares = (x - xy[0]) ** 2 + (y - xy[1]) ** 2
    return np.round(20 + 230 * np.exp(-squares / (2 * sigma_px**2))).astype(np.uint8)


def centroid_xy(picture: Array) -> Array:
    """Where the one bright dot of a picture is."""
    weights = picture.astype(np.float64) - picture.min()
    weights[weights < 0.25 * weights.max()] = 0
    y, x = np.mgrid[: picture.shape[0], : picture.shape[1]]
    return np.array([(weights * x).sum(), (weights * y).sum()]) / weights.sum()


def samples_of(paths: list[Path], sizes_hw: list[tuple[int, int]], points_xy: Array) -> Samples:
    table = pd.DataFrame(
        {
            "image_id": [path.stem for path in paths],
            "path": [str(path) for path in paths],
            "split": "train",
            "group": "",
            "height": [height for height, _ in sizes_hw],
            "width": [width for _, width in sizes_hw],
            "mm_per_px_x": 0.1,
            "mm_per_px_y": 0.2,
        }
    )
    return Samples(table, points_xy.astype(np.float32))


def store_of(samples: Samples, input_hw: tuple[int, int], budget_bytes: int = 10**9) -> ImageStore:
    scales = [[input_scale(size_hw, input_hw)] for size_hw in samples.sizes_hw]
    return ImageStore(samples.paths, scales, budget_bytes)


def dataset_of(
    samples: Samples, input_hw: tuple[int, int] = (64, 64), *, resize: str = "letterbox", **options: Any
) -> LandmarkDataset:
    return LandmarkDataset(samples, input_hw, resize=resize, store=store_of(samples, input_hw), **options)


@pytest.fixture(scope="module")
def dots(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    """Large images in portrait, landscape and at the input's own size, each with one dot."""
    folder = tmp_path_factory.mktemp("dots")
    sizes_hw = [(900, 620), (500, 777), (128, 128)]
    points_xy = np.array([[[211.3, 640.8]], [[402.25, 130.6]], [[70.4, 51.7]]])
    paths = []
    for number, (size_hw, xy) in enumerate(zip(sizes_hw, points_xy[:, 0], strict=True)):
        paths.append(folder / f"{number}.png")
        cv2.imwrite(str(paths[-1]), draw_dot(size_hw, tuple(xy), sigma_px=2.5 * max(size_hw) / 128))
    return samples_of(paths, sizes_hw, points_xy)


@pytest.fixture(scope="module")
def tiny(tiny_dataset: Path) -> Samples:
    return load_splits(
        tiny_dataset, dataset_format="auto", annotation_type="mean", val_fraction=0, seed=0
    ).train


@pytest.mark.parametrize("resize", ["letterbox", "stretch"])
@pytest.mark.parametrize("augmentation", [None, MOVING], ids=["plain", "augmented"])
@pytest.mark.parametrize("input_hw", [(128, 128), (128, 96)])
def test_landmark_lies_on_the_pixels_that_it_marks(
    dots: Samples, resize: str, augmentation: Augmentation | None, input_hw: tuple[int, int]
) -> None:
    dataset = dataset_of(dots, input_hw, resize=resize, augmentation=augmentation)
    for epoch in range(4 if augmentation else 1):
        for index in range(len(dots)):
            sample = dataset[(epoch, index)]
            found = centroid_xy(sample.images[0].numpy())
            assert np.abs(found - sample.points_xy_input[0].numpy()).max() < 0.12, (epoch, index)


def test_augmentation_really_moves_the_points(dots: Samples) -> None:
    plain, moving = dataset_of(dots, (128, 128)), dataset_of(dots, (128, 128), augmentation=MOVING)
    distances = [
        float((moving[(epoch, 0)].points_xy_input - plain[(epoch, 0)].points_xy_input).norm())
        for epoch in range(6)
    ]
    assert max(distances) > 5 and len(set(distances)) == 6


@pytest.mark.parametrize("augmentation", [None, MOVING])
def test_sample_affine_maps_points_back_to_the_image(
    dots: Samples, augmentation: Augmentation | None
) -> None:
    dataset = dataset_of(dots, (128, 96), augmentation=augmentation)
    for index in range(len(dots)):
        sample = dataset[(1, index)]
        back = apply_affine(sample.affine_input_to_image[0].numpy(), sample.points_xy_input.double().numpy())
        assert np.allclose(back, dots.points_xy_image[index], atol=2e-3)
        assert np.array_equal(sample.points_xy_image.numpy(), dots.points_xy_image[index])
        assert sample.mm_per_px_xy.tolist() == [0.1, 0.2]
        assert sample.rows.item() == index


def test_letterbox_keeps_a_round_dot_round_and_stretch_does_not(dots: Samples) -> None:
    def widths(resize: str) -> tuple[int, int]:
        picture = dataset_of(dots, (128, 128), resize=resize)[(0, 1)].images[0].numpy()
        bright = picture > (picture.max() + picture.min()) / 2
        return int(bright.any(axis=0).sum()), int(bright.any(axis=1).sum())

    across, down = widths("letterbox")
    assert abs(across - down) <= 1
    across, down = widths("stretch")
    assert down >= across + 2


def test_sample_depends_on_seed_epoch_and_index(tiny: Samples) -> None:
    dataset, again = (dataset_of(tiny, augmentation=FULL, seed=3) for _ in range(2))
    again[(5, 2)]
    first, second = dataset[(1, 4)], again[(1, 4)]
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.points_xy_input, second.points_xy_input)
    assert not torch.equal(first.images, dataset[(2, 4)].images)
    assert not torch.equal(first.points_xy_input, dataset[(2, 4)].points_xy_input)
    other_seed = dataset_of(tiny, augmentation=FULL, seed=4)[(1, 4)]
    assert not torch.equal(first.points_xy_input, other_seed.points_xy_input)


def test_without_augmentation_every_epoch_is_the_same(tiny: Samples) -> None:
    dataset = dataset_of(tiny)
    assert torch.equal(dataset[(0, 1)].images, dataset[(7, 1)].images)


def test_missing_landmark_and_unknown_spacing_stay_nan(dots: Samples) -> None:
    points = np.concatenate([dots.points_xy_image, np.full_like(dots.points_xy_image, np.nan)], axis=1)
    samples = Samples(dots.images.assign(mm_per_px_x=np.nan, mm_per_px_y=np.nan), points)
    sample = dataset_of(samples, augmentation=FULL)[(0, 0)]
    assert torch.isfinite(sample.points_xy_input).all(-1).tolist() == [True, False]
    assert torch.isfinite(sample.points_xy_image).all(-1).tolist() == [True, False]
    assert torch.isnan(sample.mm_per_px_xy).all()


# Pixels


def test_grey_picture_is_standardised_and_repeated_to_three_channels(tiny: Samples) -> None:
    images = dataset_of(tiny, augmentation=FULL)[(0, 0)].images
    assert images.shape == (3, 64, 64) and images.dtype == torch.float32
    assert torch.equal(images[0], images[1]) and torch.equal(images[0], images[2])
    assert images.mean().item() == pytest.approx(0, abs=1e-4)
    assert images[0].std().item() == pytest.approx(1, abs=1e-4)


def test_color_image_is_standardized_over_all_channels() -> None:
    picture = np.random.default_rng(0).integers(0, 80, (32, 48, 3), dtype=np.uint8)
    picture[..., 0] += 150
    images = standardize(picture)
    assert images.shape == (3, 32, 48)
    assert images[0].mean() > 1 > 0 > images[1].mean()
    assert images.mean().item() == pytest.approx(0, abs=1e-4)
    assert images.std().item() == pytest.approx(1, abs=1e-4)


def test_standardising_does_not_see_brightness_and_contrast() -> None:
    picture = np.random.default_rng(0).integers(0, 100, (32, 48), dtype=np.uint8)
    assert torch.allclose(standardize(picture), standardize(picture * 2 + 40), atol=1e-4)


def test_black_picture_stays_finite() -> None:
    assert torch.equal(standardize(np.zeros((32, 48), np.uint8)), torch.zeros(3, 32, 48))


@pytest.mark.parametrize("scale", [0.9, 0.5, 0.37, 0.11])
def test_reduced_image_and_its_affine_belong_together(scale: float) -> None:
    xy = (300.4, 121.7)
    reduced = reduce_image(draw_dot((400, 610), xy, sigma_px=14), scale)
    assert reduced.pixels.shape == (round(400 * scale), round(610 * scale))
    expected = apply_affine(reduced.affine_from_image, np.array(xy))
    assert np.abs(centroid_xy(reduced.pixels) - expected).max() < 0.05
    corner = np.array([609.5, 399.5])
    height, width = reduced.pixels.shape
    assert np.allclose(apply_affine(reduced.affine_from_image, corner), (width - 0.5, height - 0.5))


def test_image_is_never_enlarged() -> None:
    image = draw_dot((40, 60), (20, 20), 3)
    reduced = reduce_image(image, 1.7)
    assert reduced.pixels is image
    assert np.array_equal(reduced.affine_from_image, [[1, 0, 0], [0, 1, 0]])


@pytest.mark.parametrize("channels", [(), (3,)])
def test_margins_take_the_images_mean(channels: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 32, *channels), dtype=np.uint8)
    picture = warp(reduce_image(image, 1), RESIZES["letterbox"]((64, 32), (64, 64)), (64, 64))
    assert picture.shape == (64, 64, *channels)
    assert np.abs(picture[:, :15] - image.mean(axis=(0, 1))).max() <= 1
    assert np.array_equal(picture[:, 16:48], image)


# The store


def test_store_reads_each_file_once_near_input_size(dots: Samples, monkeypatch: pytest.MonkeyPatch) -> None:
    from backend.data import image_store

    reads: list[Path] = []
    real = image_store.read_image

    def counting(path: Path) -> Array:
        reads.append(path)
        return real(path)

    monkeypatch.setattr(image_store, "read_image", counting)
    store = store_of(dots, (128, 128))
    store.preload()
    for _ in range(3):
        for index in range(len(store)):
            height, width = store.get(index)[0].pixels.shape
            full_height, full_width = dots.sizes_hw[index]
            assert min(height, width) == min(round(128 * HEADROOM), full_height, full_width)
    assert sorted(reads) == sorted(dots.paths)


@pytest.mark.parametrize("num_that_fit", [0, 1, 5, 11])
def test_store_keeps_no_more_than_its_budget_and_still_gives_everything(
    tiny: Samples, num_that_fit: int
) -> None:
    whole = store_of(tiny, (64, 64))
    each = whole.get(0)[0].pixels.nbytes
    budget = num_that_fit * each + each // 2
    store = store_of(tiny, (64, 64), budget)
    store.preload()
    for index in range(len(store)):
        assert np.array_equal(store.get(index)[0].pixels, whole.get(index)[0].pixels)
    kept = [index for index in range(len(store)) if store.get(index) is store.get(index)]
    assert len(kept) == num_that_fit


def test_store_names_a_damaged_image(tmp_path: Path) -> None:
    path = tmp_path / "cut.png"
    path.write_bytes(b"\x89PNG no picture")
    store = ImageStore([path], [[1.0]], 10**6)
    with pytest.raises(UserError, match=r"cut\.png"):
        store.get(0)
    assert "cut.png" in str(store.preload()[0])


# Which samples make up a batch


def indices(batches: Iterable[list[tuple[int, int]]]) -> list[list[int]]:
    return [[index for _, index in batch] for batch in batches]


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 90), st.integers(1, 20), st.integers(0, 3))
def test_every_sample_comes_once_in_batches_of_nearly_equal_size(
    num_samples: int, batch_size: int, epoch: int
) -> None:
    sampler = EpochBatches(num_samples, batch_size, shuffle_seed=1)
    sampler.start_at(epoch)
    assert len(sampler) == sampler.num_batches
    drawn = list(sampler)
    assert {key[0] for batch in drawn for key in batch} == {epoch}
    groups = indices(drawn)
    assert sorted(index for group in groups for index in group) == list(range(num_samples))
    sizes = [len(group) for group in groups]
    assert len(sizes) == len(sampler) == -(-num_samples // batch_size)
    assert max(sizes) <= batch_size and max(sizes) - min(sizes) <= 1
    unavoidable = num_samples == 1 or batch_size == 1 or (batch_size == 2 and num_samples % 2 == 1)
    assert (1 in sizes) == unavoidable


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(1, 12), st.data())
def test_starting_at_a_batch_gives_the_rest_of_the_same_epoch(
    num_samples: int, batch_size: int, data: st.DataObject
) -> None:
    whole = EpochBatches(num_samples, batch_size, shuffle_seed=5)
    whole.start_at(2)
    first = data.draw(st.integers(0, whole.num_batches))
    rest = EpochBatches(num_samples, batch_size, shuffle_seed=5)
    rest.start_at(2, first)
    assert list(rest) == list(whole)[first:]
    assert len(rest) == whole.num_batches - first


def test_order_depends_on_epoch_and_seed() -> None:
    def order(seed: int | None, epoch: int) -> list[list[int]]:
        sampler = EpochBatches(40, 8, shuffle_seed=seed)
        sampler.start_at(epoch)
        return indices(sampler)

    assert order(0, 1) == order(0, 1)
    assert order(0, 1) != order(0, 2) != order(1, 2)
    assert order(None, 0) == order(None, 3) == [list(range(k, k + 8)) for k in range(0, 40, 8)]


# Batches


def batches_of(samples: Samples, num_workers: int) -> Batches:
    dataset = dataset_of(samples, (32, 32), augmentation=FULL, seed=1)
    sampler = EpochBatches(len(samples), 5, shuffle_seed=1)
    return Batches(dataset, sampler, num_workers=num_workers, pin_memory=False)


def assert_same(first: list[Batch], second: list[Batch]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        for name, value in one._asdict().items():
            assert torch.equal(value, getattr(other, name)), name


def test_batch_holds_its_samples_in_order(tiny: Samples) -> None:
    batches = batches_of(tiny, 0)
    dataset = dataset_of(tiny, (32, 32), augmentation=FULL, seed=1)
    assert len(batches) == 3
    drawn = list(batches.iterate_epoch(4))
    assert [len(batch.rows) for batch in drawn] == [4, 4, 4]
    for batch in drawn:
        again = default_collate([dataset[(4, index)] for index in batch.rows.tolist()])
        assert_same([batch], [again])
    first = drawn[0]
    assert first.images.dtype == first.points_xy_input.dtype == torch.float32
    assert first.affine_input_to_image.dtype == first.points_xy_image.dtype == torch.float64
    assert first.images.shape == (4, 3, 32, 32) and first.points_xy_input.shape == (4, 3, 2)
    assert_same(list(batches.iterate_epoch(4, 1)), drawn[1:])
    assert list(batches.iterate_epoch(4, 3)) == []


def test_batch_moves_what_the_network_and_the_loss_need(tiny: Samples) -> None:
    batch = next(batches_of(tiny, 0).iterate_epoch(0))
    moved = batch.to(torch.device("cpu"))
    assert torch.equal(moved.images, batch.images)
    assert moved.images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(moved.points_xy_input, batch.points_xy_input)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine of one core
def test_worker_processes_prepare_the_same_batches(tiny: Samples) -> None:
    alone, together = batches_of(tiny, 0), batches_of(tiny, 2)
    for epoch, first_batch in ((0, 0), (3, 1)):
        assert_same(
            list(together.iterate_epoch(epoch, first_batch)), list(alone.iterate_epoch(epoch, first_batch))
        )


def test_drawing_batches_leaves_torchs_random_numbers_alone(tiny: Samples) -> None:
    """A resumed epoch starts its batches once more; dropout must not notice."""
    before = torch.get_rng_state()
    next(batches_of(tiny, 0).iterate_epoch(0))
    assert torch.equal(torch.get_rng_state(), before)


def test_data_set_can_be_sent_to_a_worker_process(tiny: Samples) -> None:
    import pickle

    dataset = dataset_of(tiny, (32, 32), augmentation=FULL, seed=1)
    copied = pickle.loads(pickle.dumps(dataset))
    assert_same([copied[(2, 3)]], [dataset[(2, 3)]])
    assert np.allclose(
        invert_affine(dataset[(2, 3)].affine_input_to_image[0].numpy()),
        invert_affine(copied[(2, 3)].affine_input_to_image[0].numpy()),
    )
