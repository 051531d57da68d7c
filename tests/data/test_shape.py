from __future__ import annotations

import numpy as np
import pytest

from backend.data.shape import DISTRUST_SCORE, align_shapes, check_shapes, robust_scores
from backend.geometry import FloatArray

MEAN = np.array([[0, 0], [100, 5], [95, 80], [50, 120], [5, 90], [45, 45], [70, 30], [25, 60]], np.float64)


def make_shapes(num: int = 60, noise: float = 1.0, seed: int = 0) -> FloatArray:
    """(num, 8, 2): two modes of shape, a pose of its own for each, and marks that tremble by `noise`."""
    rng = np.random.default_rng(seed)
    modes = rng.standard_normal((2, *MEAN.shape)) * 6
    shapes = MEAN + np.einsum("nm,mkd->nkd", rng.standard_normal((num, 2)), modes)
    shapes += noise * rng.standard_normal(shapes.shape)
    angle, scale = np.deg2rad(rng.normal(0, 15, num)), np.exp(rng.normal(0, 0.2, num))
    turn = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], axis=-1).reshape(-1, 2, 2)
    moved: FloatArray = scale[:, None, None] * np.einsum("nij,nkj->nki", turn, shapes)
    return moved + rng.normal(0, 200, (num, 1, 2))


def test_a_planted_outlier_scores_highest_and_is_expected_where_it_was() -> None:
    points = make_shapes()
    true_xy = points[17, 3].copy()
    points[17, 3] += (40, -25)
    check = check_shapes(points)
    assert check is not None
    assert np.unravel_index(np.nanargmax(check.score), check.score.shape) == (17, 3)
    scale = np.linalg.norm(np.ptp(points[17], axis=0)) / np.linalg.norm(np.ptp(MEAN, axis=0))
    assert np.linalg.norm(check.expected_xy[17, 3] - true_xy) < 6 * scale


def test_a_wrong_landmark_does_not_make_its_neighbours_look_wrong() -> None:
    points = make_shapes()
    points[17, 3] += (60, -45)
    check = check_shapes(points)
    assert check is not None
    assert check.score[17, 3] > 10 and np.delete(check.score[17], 3).max() < DISTRUST_SCORE


def test_swapped_pair_is_found_among_few_landmarks() -> None:
    points = make_shapes(noise=0.5)[:, :5]
    points[17, [1, 2]] = points[17, [2, 1]]
    points[30, 4] += (60, 0)  # astray, but in nobody's place
    check = check_shapes(points)
    assert check is not None
    assert check.partner[17].tolist() == [-1, 2, 1, -1, -1]
    assert (np.delete(check.partner, 17, axis=0) == -1).all()


def test_right_landmarks_score_as_two_normal_axes_do() -> None:
    check = check_shapes(make_shapes(num=300))
    assert check is not None
    assert np.median(check.score) == pytest.approx(np.sqrt(2 * np.log(2)), rel=0.02)
    assert (check.score > DISTRUST_SCORE).mean() < 0.01


def test_pose_and_size_do_not_matter() -> None:
    points = make_shapes(num=40)
    moved = points.copy()
    moved[5] = 3.0 * points[5] @ np.array([[0.0, 1.0], [-1.0, 0.0]]) + 1000
    before, after = check_shapes(points), check_shapes(moved)
    assert before is not None and after is not None
    assert after.score == pytest.approx(before.score, abs=1e-6)


def test_missing_landmarks_are_neither_judged_nor_in_the_way() -> None:
    points = make_shapes()
    points[::4, 2] = np.nan
    points[3, :6] = np.nan  # two are left: nothing can be said
    points[17, 3] += (60, -45)
    check = check_shapes(points)
    assert check is not None
    assert np.isnan(check.score[::4, 2]).all() and np.isnan(check.score[3]).all()
    assert np.isfinite(np.delete(check.score[17], 2)).all()
    assert np.unravel_index(np.nanargmax(check.score), check.score.shape) == (17, 3)


@pytest.mark.parametrize(("num_images", "num_landmarks"), [(11, 8), (60, 3)])
def test_too_little_to_learn_from_gives_nothing(num_images: int, num_landmarks: int) -> None:
    assert check_shapes(make_shapes(num=num_images)[:, :num_landmarks]) is None


def test_a_landmark_that_is_nearly_never_marked_is_left_alone() -> None:
    points = make_shapes()
    points[5:, 1] = np.nan
    check = check_shapes(points)
    assert check is not None
    assert np.isnan(check.score[:, 1]).all() and np.isfinite(check.score[:, 0]).all()


def test_two_views_that_share_no_landmark_are_judged_apart() -> None:
    front, side = make_shapes(num=30), make_shapes(num=20, seed=1)
    points = np.full((50, 13, 2), np.nan)
    points[::5, :8], points[3::5, :8], points[4::5, :8] = front[:10], front[10:20], front[20:]
    points[1::5, 8:], points[2::5, 8:] = side[:10, :5], side[10:, :5]
    points[3, 2] += (60, -45)
    points[1, 10] += (60, -45)
    points[49] = np.nan  # of neither view
    check = check_shapes(points)
    assert check is not None
    marked = np.isfinite(points[..., 0])
    assert (np.isfinite(check.score) == marked).all()
    assert np.nanargmax(check.score[3]) == 2 and check.score[3, 2] > 10
    assert np.nanargmax(check.score[1]) == 10 and check.score[1, 10] > 10


def test_a_view_with_too_few_images_is_left_alone() -> None:
    points = np.full((40, 13, 2), np.nan)
    points[:11, :8] = make_shapes(num=11)  # the fuller one
    points[11:, 8:] = make_shapes(num=29)[:, :5]
    check = check_shapes(points)
    assert check is not None
    assert np.isnan(check.score[:11]).all() and np.isfinite(check.score[11:, 8:]).all()
    assert check_shapes(points[:11]) is None


def test_images_that_meet_in_others_alone_lie_over_one_mean_shape() -> None:
    whole = make_shapes(num=60)
    points = whole.copy()
    points[:20, 5:] = np.nan
    points[20:40, :2], points[20:40, 6:] = np.nan, np.nan
    points[40:, :4] = np.nan  # shares one landmark with the first ones, two with those between
    points[50, 6] += (60, -45)
    check = check_shapes(points)
    assert check is not None
    assert (np.isfinite(check.score) == np.isfinite(points[..., 0])).all()
    assert np.unravel_index(np.nanargmax(check.score), check.score.shape) == (50, 6)


def test_alignment_withstands_a_gross_error() -> None:
    points = make_shapes(num=30, noise=0.0)
    shapes = points[..., 0] + 1j * points[..., 1]
    bad = shapes.copy()
    bad[4, 6] += 500
    known = np.ones(shapes.shape, bool)
    (mean, scale, offset), (other, bad_scale, bad_offset) = (
        align_shapes(shapes, known),
        align_shapes(bad, known),
    )
    assert np.mean(np.abs(mean) ** 2) == pytest.approx(1)
    assert mean.mean() == pytest.approx(0, abs=1e-12)
    assert np.abs(other - mean).max() < 0.03
    right = np.delete(np.arange(8), 6)
    moved = (bad_scale[4] * shapes[4] + bad_offset[4]) - (scale[4] * shapes[4] + offset[4])
    assert np.abs(moved[right]).max() < 0.1  # of the shape's size; by least squares it would be a third


def test_robust_scores_are_in_units_of_each_column() -> None:
    rng = np.random.default_rng(0)
    distances = np.hypot(*rng.standard_normal((2, 4001, 2))) * [3.0, 50.0]
    distances[7] = np.nan
    scores = robust_scores(distances)
    assert np.isnan(scores[7]).all()
    assert np.nanmedian(scores, axis=0) == pytest.approx([np.sqrt(2 * np.log(2))] * 2)
    assert np.nanmean(scores**2, axis=0) == pytest.approx([2, 2], rel=0.1)
    assert np.isnan(robust_scores(np.zeros((5, 1)))).all()  # readers who always agree
