from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from backend.data.augmentation import (
    MAX_DEVIATIONS,
    Augmentation,
    apply_photometric,
    build_photometric,
    rng_for,
)
from backend.geometry import apply_affine, mean_scale

INPUT_HW = (96, 128)
CENTRE = np.array([63.5, 47.5])
NOTHING = Augmentation(rotation_deg=0, scale_jitter=0, shift_jitter=0, photometric=0)
IDENTITY = np.array([[1.0, 0, 0], [0, 1, 0]])


def draws(augmentation: Augmentation, number: int = 400) -> list[np.ndarray[Any, Any]]:
    return [augmentation.draw_affine(rng_for(0, 0, index), INPUT_HW) for index in range(number)]


def angles_deg(affines: list[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    return np.array([np.degrees(np.arctan2(affine[1, 0], affine[0, 0])) for affine in affines])


def test_without_strength_nothing_moves() -> None:
    assert all(np.allclose(affine, IDENTITY) for affine in draws(NOTHING, 20))


def test_rotation_has_the_asked_deviation_keeps_the_centre_and_is_bounded() -> None:
    affines = draws(Augmentation(rotation_deg=8, scale_jitter=0, shift_jitter=0, photometric=0))
    angles = angles_deg(affines)
    assert 7 < angles.std() < 9 and abs(angles.mean()) < 1.5
    assert np.abs(angles).max() <= 8 * MAX_DEVIATIONS + 1e-9
    assert all(np.allclose(apply_affine(affine, CENTRE), CENTRE) for affine in affines)
    assert all(mean_scale(affine) == pytest.approx(1) for affine in affines)


def test_scaling_is_as_often_up_as_down_and_bounded() -> None:
    affines = draws(Augmentation(rotation_deg=0, scale_jitter=0.1, shift_jitter=0, photometric=0))
    logs = np.log([mean_scale(affine) for affine in affines])
    assert 0.085 < logs.std() < 0.115 and abs(logs.mean()) < 0.02
    assert np.abs(logs).max() <= 0.1 * MAX_DEVIATIONS + 1e-9
    assert all(np.allclose(apply_affine(affine, CENTRE), CENTRE) for affine in affines)


def test_shift_is_a_share_of_each_side() -> None:
    affines = draws(Augmentation(rotation_deg=0, scale_jitter=0, shift_jitter=0.05, photometric=0))
    shifts = np.array([affine[:, 2] for affine in affines])
    assert shifts.std(axis=0) == pytest.approx([0.05 * 128, 0.05 * 96], rel=0.15)
    assert all(np.allclose(affine[:, :2], np.eye(2)) for affine in affines)


def test_no_augmentation_ever_mirrors() -> None:
    affines = draws(Augmentation(rotation_deg=60, scale_jitter=0.3, shift_jitter=0.2, photometric=0))
    assert all(np.linalg.det(affine[:, :2]) > 0 for affine in affines)


def test_random_numbers_depend_only_on_seed_epoch_and_index() -> None:
    augmentation = Augmentation(rotation_deg=5, scale_jitter=0.1, shift_jitter=0.1, photometric=1)

    def draw(*key: int) -> tuple[float, ...]:
        np.random.default_rng().random()
        return tuple(augmentation.draw_affine(rng_for(*key), INPUT_HW).ravel())

    keys = [(seed, epoch, index) for seed in (0, 1) for epoch in (0, 1, 2) for index in (0, 1, 2)]
    first = {key: draw(*key) for key in keys}
    assert len(set(first.values())) == len(keys)
    assert {key: draw(*key) for key in reversed(keys)} == first


@pytest.mark.parametrize("shape", [(48, 64), (48, 64, 3)])
def test_photometric_changes_values_keeps_form_and_repeats_itself(shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).integers(40, 200, shape, dtype=np.uint8)
    pipeline = build_photometric(1.0)
    assert pipeline is not None
    changed = [apply_photometric(pipeline, image, rng_for(0, 0, index)) for index in range(12)]
    assert all(picture.shape == shape and picture.dtype == np.uint8 for picture in changed)
    assert sum(not np.array_equal(picture, image) for picture in changed) >= 9
    assert len({picture.tobytes() for picture in changed}) >= 9
    # another pipeline, another order: the same pictures
    other = build_photometric(1.0)
    assert other is not None
    for index in (7, 2, 11, 0):
        assert np.array_equal(apply_photometric(other, image, rng_for(0, 0, index)), changed[index])


def test_photometric_moves_no_point() -> None:
    image = np.full((64, 64), 60, np.uint8)
    image[20, 45] = 250
    pipeline = build_photometric(1.0)
    assert pipeline is not None
    for index in range(20):
        picture = apply_photometric(pipeline, image, rng_for(1, 0, index))
        assert np.unravel_index(picture.argmax(), picture.shape) == (20, 45)


def test_photometric_strength_of_zero_is_off_and_of_three_still_valid() -> None:
    assert build_photometric(0) is None
    strongest = build_photometric(3.0)
    assert strongest is not None
    image = np.random.default_rng(0).integers(0, 256, (48, 64), dtype=np.uint8)
    for index in range(10):
        assert apply_photometric(strongest, image, rng_for(0, 0, index)).shape == image.shape
