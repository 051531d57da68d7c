"""Uncertain points move to where the training images' shapes make them likely; certain ones stay."""

from __future__ import annotations

import numpy as np
import pytest

from backend.data.shape_prior import ShapePrior, fit_shape_prior

NUM_LANDMARKS = 8
SURE, UNSURE = 0.01, 25.0  # variances, square pixels


def shapes(num: int, seed: int = 0) -> np.ndarray:
    """Images of one kind of shape that varies in two ways, each laid elsewhere, turned and sized."""
    rng = np.random.default_rng(seed)
    form = np.random.default_rng(7)
    mean = form.normal(0, 40, NUM_LANDMARKS) + 1j * form.normal(0, 40, NUM_LANDMARKS)
    ways = form.normal(0, 4, (2, NUM_LANDMARKS)) + 1j * form.normal(0, 4, (2, NUM_LANDMARKS))
    plain = mean + rng.normal(0, 1, (num, 2)) @ ways
    turn = rng.uniform(0.7, 1.4, (num, 1)) * np.exp(1j * rng.uniform(-3, 3, (num, 1)))
    laid = turn * plain + rng.normal(0, 200, (num, 1)) + 1j * rng.normal(0, 200, (num, 1))
    return np.stack([laid.real, laid.imag], axis=-1)


def spread(num: int, variance: float) -> np.ndarray:
    return np.tile(variance * np.eye(2), (num, NUM_LANDMARKS, 1, 1))


def error(points: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return np.linalg.norm(points - truth, axis=-1)


@pytest.fixture(scope="module")
def prior() -> ShapePrior:
    fitted = fit_shape_prior(shapes(80))
    assert fitted is not None
    return fitted


def test_noise_that_the_maps_tell_of_is_taken_off(prior: ShapePrior) -> None:
    truth = shapes(40, seed=1)
    noisy = truth + np.random.default_rng(2).normal(0, 3.0, truth.shape)
    drawn = prior.draw(noisy, spread(40, 3.0**2 / 0.5))
    assert error(drawn, truth).mean() < 0.75 * error(noisy, truth).mean()


def test_sure_points_stay(prior: ShapePrior) -> None:
    seen = shapes(5, seed=3) + np.random.default_rng(4).normal(0, 1.0, (5, NUM_LANDMARKS, 2))
    assert error(prior.draw(seen, spread(5, SURE)), seen).max() < 0.5


def test_the_unsure_landmark_of_sure_ones_is_the_one_that_moves(prior: ShapePrior) -> None:
    truth = shapes(20, seed=5)
    seen, open_to = truth.copy(), spread(20, SURE)
    seen[:, 3, 0] += 6.0
    open_to[:, 3] = UNSURE * np.eye(2)
    moved = error(prior.draw(seen, open_to), truth)
    assert moved[:, 3].mean() < 2.0
    assert np.delete(moved, 3, axis=1).mean() < 0.3


def test_a_landmark_that_is_open_along_one_axis_moves_along_it(prior: ShapePrior) -> None:
    truth = shapes(20, seed=6)
    seen, open_to = truth + 0.0, spread(20, SURE)
    seen[:, 2] += 4.0
    open_to[:, 2, 0, 0] = UNSURE
    offset = prior.draw(seen, open_to)[:, 2] - seen[:, 2]
    assert (np.abs(offset[:, 0]) > 3 * np.abs(offset[:, 1])).mean() > 0.9


def test_a_sure_slip_does_not_drag_the_others_away(prior: ShapePrior) -> None:
    truth = shapes(20, seed=8)
    seen = truth.copy()
    seen[:, 0] += 60.0
    drawn = prior.draw(seen, spread(20, 1.0))
    assert np.median(error(drawn, truth)[:, 1:]) < 1.5


def test_position_turn_and_unit_of_an_image_do_not_matter(prior: ShapePrior) -> None:
    seen = shapes(6, seed=9) + np.random.default_rng(10).normal(0, 2.0, (6, NUM_LANDMARKS, 2))
    turn = 0.1 * np.array([[0.8, -0.6], [0.6, 0.8]])
    open_to = spread(6, 4.0)
    expected = prior.draw(seen, open_to) @ turn.T + 50
    found = prior.draw(seen @ turn.T + 50, turn @ open_to @ turn.T)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_prior_is_fitted_with_missing_landmarks() -> None:
    points = shapes(80)
    points[np.random.default_rng(11).random(points.shape[:2]) < 0.1] = np.nan
    prior = fit_shape_prior(points)
    assert prior is not None
    truth = shapes(40, seed=1)
    noisy = truth + np.random.default_rng(2).normal(0, 3.0, truth.shape)
    assert error(prior.draw(noisy, spread(40, 18.0)), truth).mean() < 0.8 * error(noisy, truth).mean()


def test_no_prior_if_images_share_no_shape() -> None:
    assert fit_shape_prior(shapes(11)) is None
    assert fit_shape_prior(shapes(40)[:, :3]) is None
    seldom = shapes(40)
    seldom[:30, 0] = np.nan
    assert fit_shape_prior(seldom) is None
    two_views = np.full((40, 2 * NUM_LANDMARKS, 2), np.nan)
    two_views[:20, :NUM_LANDMARKS] = shapes(20)
    two_views[20:, NUM_LANDMARKS:] = shapes(20, seed=1)
    assert fit_shape_prior(two_views) is None
