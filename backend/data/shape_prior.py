"""Pulls points toward likely shapes: weighs a network's points against the shapes of the training images.

A network's points z are the image's shape x and an error e. x is Gaussian about the mean shape, as `shape`
learns it from the training images; a similarity costs nothing, so only the shape counts and not its place in
the image. e is Gaussian too, each landmark's as wide as its heatmap. The likeliest shape is then C (C + E)^-1
z. This is the regularized landmark mean-shift of Saragih, Lucey and Cohn (IJCV 91, 2011), which a Gaussian
error brings into closed form. A point far from its likely place counts less, because its error has Student's
t (Lange, Little and Taylor, JASA 84, 1989), by repeated weighing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from backend.data.shape import (
    align_shapes,
    fit_covariance,
    fit_similarities,
    gross_errors,
    interleave,
    shape_groups,
)
from backend.geometry import FloatArray

# of a heatmap's variance, that is error: chosen on folds of training images, see bench/README.md
SPREAD_SHARE = 0.35
DEGREES_OF_FREEDOM = 4.0  # of Student's t
WEIGHING_ROUNDS = 5
MAX_SIZE = 1e6  # of any number in a prior: mean shapes have a radius of 1


@dataclass(frozen=True)
class ShapePrior:
    """A Gaussian over shapes of K landmarks: a mean shape (K, 2) and a covariance (2K, 2K).

    x and y of a landmark are side by side in the covariance.
    """

    mean_xy: FloatArray
    covariance: FloatArray

    def draw(self, points_xy: FloatArray, spread_xy: FloatArray) -> FloatArray:
        """Return the likeliest points (N, K, 2), given points and the covariance (N, K, 2, 2) of each.

        One frame per image, in any unit that is the same along x and y.
        """
        mean = self.mean_xy[:, 0] + 1j * self.mean_xy[:, 1]
        shapes = points_xy[..., 0] + 1j * points_xy[..., 1]
        scale, offset = fit_similarities(shapes, mean, np.ones(shapes.shape))
        seen = interleave(scale[:, None] * shapes + offset[:, None] - mean)
        turn = np.stack([scale.real, -scale.imag, scale.imag, scale.real], axis=-1).reshape(-1, 1, 2, 2)
        error = SPREAD_SHARE * turn @ spread_xy @ turn.swapaxes(-1, -2)
        weights = np.ones(shapes.shape)
        for _ in range(WEIGHING_ROUNDS):
            likely = self._likeliest(seen, error / weights[..., None, None])
            off = (seen - likely).reshape(*shapes.shape, 2)
            lengths = np.einsum("nki,nkij,nkj->nk", off, np.linalg.inv(error), off)
            weights = (DEGREES_OF_FREEDOM + 2) / (DEGREES_OF_FREEDOM + lengths)
        pulled = (likely[:, 0::2] + 1j * likely[:, 1::2] + mean - offset[:, None]) / scale[:, None]
        return np.stack([pulled.real, pulled.imag], axis=-1)

    def _likeliest(self, seen: FloatArray, error: FloatArray) -> FloatArray:
        """Return the likeliest offsets (N, 2K) from the mean shape, given the errors' covariance (N, K, 2,
        2).
        """
        num, num_landmarks = error.shape[:2]
        total = np.tile(self.covariance, (num, 1, 1))
        for k in range(num_landmarks):
            total[:, 2 * k : 2 * k + 2, 2 * k : 2 * k + 2] += error[:, k]
        likeliest: FloatArray = np.linalg.solve(total, seen[..., None])[..., 0] @ self.covariance
        return likeliest


def fit_shape_prior(points_xy: FloatArray) -> ShapePrior | None:
    """Fit a prior to the points (N, K, 2) of training images, one frame per image as in `draw`, NaN missing.

    None if they do not make one shape: fewer than 12 images with 4 landmarks, a landmark on fewer than 12, or
    two kinds of images that share no landmarks.
    """
    shapes = np.asarray(points_xy[..., 0] + 1j * points_xy[..., 1], np.complex128)
    groups = shape_groups(np.isfinite(shapes))
    if len(groups) != 1 or not groups[0].any(axis=0).all():
        return None
    rows = groups[0].any(axis=1)
    shapes, known = shapes[rows], groups[0][rows]
    mean, scale, offset = align_shapes(shapes, known)
    residuals = np.where(known, scale[:, None] * shapes + offset[:, None] - mean, 0)
    covariance = fit_covariance(residuals, known & ~gross_errors(residuals, known), mean)
    return ShapePrior(np.stack([mean.real, mean.imag], axis=-1), covariance)


def find_flaw(prior: ShapePrior, num_landmarks: int) -> str:
    """Say why a prior that was read from a file cannot be used; empty if it can."""
    mean, covariance = prior.mean_xy, prior.covariance
    if mean.shape != (num_landmarks, 2) or covariance.shape != (2 * num_landmarks, 2 * num_landmarks):
        return f"it is of other landmarks than the {num_landmarks} of the network"
    if not all(np.isfinite(part).all() and np.abs(part).max() <= MAX_SIZE for part in (mean, covariance)):
        return "its numbers are not finite, or huge"
    tolerance = 1e-9 * max(float(np.abs(covariance).max()), 1e-12)
    if not np.allclose(covariance, covariance.T, rtol=0, atol=tolerance):
        return "its covariance is not symmetric"
    if np.linalg.eigvalsh(covariance).min() < -len(covariance) * tolerance:
        return "its covariance is not one of shapes"
    if num_landmarks > 1 and np.ptp(mean, axis=0).max() < 1 / MAX_SIZE:
        return "all points of its mean shape are the same"
    return ""
