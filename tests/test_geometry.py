from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.geometry import (
    RESIZES,
    CropFrame,
    adaptive_sigma,
    apply_affine,
    compose,
    inside,
    invert_affine,
    letterbox,
    mean_scale,
    output_stride_for,
    rotate_scale_shift,
    scaling,
    sigma_in_force,
    stretch,
)

Array = np.ndarray[Any, Any]

sizes_hw = st.tuples(st.integers(40, 4000), st.integers(40, 4000))
inputs_hw = st.tuples(st.integers(1, 16), st.integers(1, 16)).map(lambda hw: (32 * hw[0], 32 * hw[1]))
coordinates = st.floats(-500, 5000)
points = st.lists(st.tuples(coordinates, coordinates), min_size=1, max_size=8).map(np.array)
affines = st.builds(
    rotate_scale_shift,
    inputs_hw,
    st.floats(-180, 180),
    st.floats(0.2, 4),
    st.tuples(st.floats(-100, 100), st.floats(-100, 100)),
)


def corners(frame_hw: tuple[int, int]) -> Array:
    """The outer corners of a frame's first and last pixel."""
    height, width = frame_hw
    return np.array([(-0.5, -0.5), (width - 0.5, -0.5), (-0.5, height - 0.5), (width - 0.5, height - 0.5)])


@pytest.mark.parametrize(
    ("x", "scale", "expected"), [(0, 2, 0.5), (1, 2, 2.5), (-0.5, 3, -0.5), (3, 0.25, 0.375), (7, 1, 7)]
)
def test_frame_rule_keeps_the_edge_and_moves_centres(x: float, scale: float, expected: float) -> None:
    xy = np.array([x, x])
    assert apply_affine(scaling(scale, scale), xy) == pytest.approx(np.array([expected, expected]))


def test_four_pixels_of_a_doubled_image_are_centred_on_their_parent() -> None:
    parents = np.array([[0.0, 0.0], [5.0, 2.0]])
    for parent in parents:
        children = np.array([2 * parent + (dx, dy) for dx in (0, 1) for dy in (0, 1)])
        assert apply_affine(scaling(2, 2), parent) == pytest.approx(children.mean(axis=0))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(RESIZES)), sizes_hw, inputs_hw, points)
def test_image_to_input_and_back_is_the_identity(
    resize: str, image_hw: tuple[int, int], input_hw: tuple[int, int], points_xy: Array
) -> None:
    affine = RESIZES[resize](image_hw, input_hw)
    there_and_back = apply_affine(invert_affine(affine), apply_affine(affine, points_xy))
    assert np.abs(there_and_back - points_xy).max() < 1e-8


@settings(max_examples=60, deadline=None)
@given(sizes_hw, inputs_hw)
def test_stretched_corners_are_the_inputs_corners(
    image_hw: tuple[int, int], input_hw: tuple[int, int]
) -> None:
    mapped = apply_affine(stretch(image_hw, input_hw), corners(image_hw))
    assert np.allclose(mapped, corners(input_hw), atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(sizes_hw, inputs_hw)
def test_letterboxed_corners_fill_one_axis_and_are_centred_on_the_other(
    image_hw: tuple[int, int], input_hw: tuple[int, int]
) -> None:
    affine = letterbox(image_hw, input_hw)
    left_top, _, _, right_bottom = apply_affine(affine, corners(image_hw))
    margins_before = left_top + 0.5
    margins_after = np.array([input_hw[1], input_hw[0]]) - 0.5 - right_bottom
    assert np.allclose(margins_before, margins_after, atol=1e-9)
    assert margins_before.min() == pytest.approx(0, abs=1e-9)
    assert affine[0, 0] == affine[1, 1] and affine[0, 1] == affine[1, 0] == 0


def test_letterbox_of_a_portrait_by_hand() -> None:
    # 200 x 100 into 64 x 64: scale 0.32, content 64 x 32, margins of 16 left and right
    affine = letterbox((200, 100), (64, 64))
    mapped = apply_affine(affine, np.array([[-0.5, -0.5], [99.5, 199.5], [0.0, 0.0]]))
    expected = np.array([[15.5, -0.5], [47.5, 63.5], [15.66, -0.34]])
    assert np.allclose(mapped, expected)


@settings(max_examples=60, deadline=None)
@given(affines, affines, affines, points)
def test_compose_applies_first_then_second_and_is_associative(
    first: Array, second: Array, third: Array, points_xy: Array
) -> None:
    one_by_one = apply_affine(third, apply_affine(second, apply_affine(first, points_xy)))
    for composed in (compose(third, compose(second, first)), compose(compose(third, second), first)):
        assert np.allclose(apply_affine(composed, points_xy), one_by_one, rtol=1e-9, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(affines, affines)
def test_inverse_composes_to_the_identity_on_both_sides_and_reverses_order(
    first: Array, second: Array
) -> None:
    identity = np.array([[1.0, 0, 0], [0, 1, 0]])
    inverse = invert_affine(first)
    assert np.allclose(compose(inverse, first), identity, atol=1e-8)
    assert np.allclose(compose(first, inverse), identity, atol=1e-8)
    inverse_of_both = invert_affine(compose(second, first))
    assert np.allclose(inverse_of_both, compose(inverse, invert_affine(second)), rtol=1e-7, atol=1e-6)


def test_a_missing_point_stays_missing_and_leaves_the_others_alone() -> None:
    points_xy = np.array([[1.0, 2.0], [np.nan, np.nan]])
    mapped = apply_affine(letterbox((50, 80), (64, 64)), points_xy)
    assert np.isfinite(mapped[0]).all() and np.isnan(mapped[1]).all()


@settings(max_examples=40, deadline=None)
@given(inputs_hw, st.floats(-180, 180), st.floats(0.3, 3))
def test_rotation_and_scaling_keep_the_centre_and_multiply_lengths(
    frame_hw: tuple[int, int], degrees: float, scale: float
) -> None:
    affine = rotate_scale_shift(frame_hw, degrees, scale, (0.0, 0.0))
    centre = np.array([(frame_hw[1] - 1) / 2, (frame_hw[0] - 1) / 2])
    assert np.allclose(apply_affine(affine, centre), centre, atol=1e-9)
    arm = apply_affine(affine, centre + np.array([10.0, 0.0])) - centre
    assert np.hypot(*arm) == pytest.approx(10 * scale)
    assert np.degrees(np.arctan2(arm[1], arm[0])) % 360 == pytest.approx(degrees % 360, abs=1e-6) or (
        abs(degrees) < 1e-6
    )
    assert mean_scale(affine) == pytest.approx(scale)


def test_shift_is_in_pixels_of_the_frame_after_rotation() -> None:
    affine = rotate_scale_shift((65, 65), 90, 1.0, (3.0, -2.0))
    assert np.allclose(apply_affine(affine, np.array([[32.0, 32.0], [42.0, 32.0]])), [[35, 30], [35, 40]])


@pytest.mark.parametrize(
    ("size", "expected"), [(64, 0.75), (128, 0.75), (192, 1.125), (256, 1.5), (512, 3.0), (1024, 6.0)]
)
def test_adaptive_sigma_follows_the_image_size(size: int, expected: float) -> None:
    assert adaptive_sigma(size, size) == expected


def test_adaptive_sigma_takes_the_mean_of_both_sides() -> None:
    assert adaptive_sigma(512, 256) == adaptive_sigma(256, 512) == pytest.approx(2.25)


@pytest.mark.parametrize(
    ("size", "expected"), [(64, 1), (128, 1), (256, 2), (384, 2), (512, 4), (768, 4), (1024, 4)]
)
def test_output_stride_follows_the_image_size(size: int, expected: int) -> None:
    assert output_stride_for(size, size) == expected


@settings(max_examples=60, deadline=None)
@given(inputs_hw)
def test_a_grid_cell_never_outgrows_the_automatic_sigma(input_hw: tuple[int, int]) -> None:
    sigma, stride = adaptive_sigma(*input_hw), output_stride_for(*input_hw)
    assert sigma / stride >= 0.7
    assert stride == 4 or sigma / (2 * stride) < 0.7


def test_sigma_in_force_is_the_users_else_the_rule_else_the_least_that_the_grid_holds() -> None:
    assert sigma_in_force("auto", (128, 128), 1) == 0.75
    assert sigma_in_force("auto", (256, 256), 2) == 1.5
    assert sigma_in_force("auto", (512, 512), 4) == 3.0
    assert sigma_in_force("auto", (256, 256), 4) == pytest.approx(2.8)
    assert sigma_in_force(2.25, (256, 256), 4) == 2.25
    assert output_stride_for(256, 256) == 2  # whatever sigma the user asks for


def test_inside_reaches_to_the_outer_edge_of_the_last_pixel() -> None:
    points_xy = np.array([[-0.5, -0.5], [63.5, 31.5], [63.6, 0], [0, 31.6], [-0.6, 0], [np.nan, np.nan]])
    assert inside(points_xy, (32, 64)).tolist() == [True, True, False, False, False, False]


# Crops


crop_frames = st.builds(
    CropFrame, st.integers(1, 8).map(lambda n: 32 * n), st.floats(0.02, 5), st.floats(0.01, 1)
)
spacings = st.tuples(st.floats(0.02, 2), st.floats(0.02, 2)).map(np.array)
unknown_spacings = st.sampled_from([np.array([np.nan, np.nan]), np.array([0.1, np.nan])])
centres = st.tuples(coordinates, coordinates).map(np.array)


@settings(max_examples=200, deadline=None)
@given(crop_frames, sizes_hw, spacings | unknown_spacings, centres, affines, points)
def test_image_to_crop_and_back_is_exact(
    frame: CropFrame, image_hw: tuple[int, int], spacing: Array, centre: Array, augment: Array, xy: Array
) -> None:
    to_crop = compose(augment, frame.affine(centre, frame.image_px_per_px_xy(image_hw, spacing)))
    assert np.allclose(apply_affine(invert_affine(to_crop), apply_affine(to_crop, xy)), xy, atol=1e-6)


@settings(max_examples=100, deadline=None)
@given(crop_frames, sizes_hw, spacings | unknown_spacings, centres, st.floats(-180, 180), st.floats(0.5, 2))
def test_the_centre_comes_to_the_crops_middle_however_it_is_turned(
    frame: CropFrame, image_hw: tuple[int, int], spacing: Array, centre: Array, degrees: float, scale: float
) -> None:
    plain = frame.affine(centre, frame.image_px_per_px_xy(image_hw, spacing))
    turned = compose(rotate_scale_shift(frame.hw, degrees, scale, (0.0, 0.0)), plain)
    middle = (frame.side_px - 1) / 2
    for affine in (plain, turned):
        assert apply_affine(affine, centre) == pytest.approx(np.array([middle, middle]), abs=1e-6)


@settings(max_examples=100, deadline=None)
@given(crop_frames, sizes_hw, spacings, centres)
def test_a_crop_pixel_has_its_millimetres_on_each_axis_but_never_splits_a_pixel(
    frame: CropFrame, image_hw: tuple[int, int], spacing: Array, centre: Array
) -> None:
    px_per_px = frame.image_px_per_px_xy(image_hw, spacing)
    assert px_per_px.min() >= 1 - 1e-12
    # one crop pixel to the right and one down, measured in the image
    back = invert_affine(frame.affine(centre, px_per_px))
    steps = apply_affine(back, np.array([[1.0, 0.0], [0.0, 1.0]])) - apply_affine(back, np.zeros(2))
    mm = np.abs(steps).sum(axis=0) * spacing
    assert mm[0] == pytest.approx(mm[1], rel=1e-6)  # isotropic in millimetres, whatever the spacing
    expected = max(frame.mm_per_px, spacing.max())  # coarser only if the coarser axis has no finer pixels
    assert mm[0] == pytest.approx(expected, rel=1e-6)


@settings(max_examples=100, deadline=None)
@given(crop_frames, sizes_hw, unknown_spacings)
def test_without_a_spacing_a_crop_covers_a_share_of_the_images_mean_side(
    frame: CropFrame, image_hw: tuple[int, int], spacing: Array
) -> None:
    side = frame.image_px_per_px_xy(image_hw, spacing) * frame.side_px
    assert side[0] == side[1] == pytest.approx(max(frame.share * sum(image_hw) / 2, frame.side_px))


def test_the_default_crop_of_a_cephalogram() -> None:
    frame = CropFrame(64, 0.3, 0.09)
    assert frame.hw == (64, 64)
    px_per_px = frame.image_px_per_px_xy((2400, 1935), np.array([0.1, 0.1]))
    assert px_per_px == pytest.approx(np.array([3.0, 3.0]))
    # the first crop pixel's centre lies 31.5 crop pixels, 94.5 image pixels, before the centre
    first = apply_affine(invert_affine(frame.affine(np.array([500.0, 700.0]), px_per_px)), np.zeros(2))
    assert first == pytest.approx(np.array([405.5, 605.5]))
    assert frame.image_px_per_px_xy((480, 640), np.full(2, np.nan)) == pytest.approx(np.full(2, 1.0))


def test_a_crop_without_a_centre_has_no_place_but_a_scale() -> None:
    affine = CropFrame(64, 0.3, 0.09).affine(np.full(2, np.nan), np.array([3.0, 2.0]))
    assert np.isnan(affine[:, 2]).all()
    assert np.allclose(affine[:, :2], np.diag([1 / 3, 1 / 2]))
