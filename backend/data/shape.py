"""Predicts the place of each landmark of an image from the others.

The model is a Gaussian over shapes. All images are aligned with one mean shape by similarities (generalized
Procrustes analysis: Gower, Psychometrika 40, 1975; here robust, by Cauchy weights and a median shape). What
remains has the covariance S, shrunk toward a multiple of the identity by the oracle-approximating rule (Chen
et al., IEEE TSP 58(10), 2010). To S comes a large variance along the four directions in which a similarity
moves the mean shape, so that predicting a landmark aligns only the others with the model; an alignment that
has seen the landmark would hide its error. One inverse P of the sum then leaves every landmark k out at once:
its error is (P_kk)^-1 (P x)_k, with covariance (P_kk)^-1.

Points are complex numbers x + iy here: a similarity is z -> a z + b.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from backend.geometry import FloatArray

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]
Complex = npt.NDArray[np.complex128]

MIN_LANDMARKS = 4  # a similarity takes two points; with fewer than two more, it is unknown which one is wrong
MIN_IMAGES = 12
DISTRUST_SCORE = 4.0  # exp(-4 ** 2 / 2): one correct landmark in 3000 is as far off
MAX_DISTRUSTED_SHARE = 1 / 3  # of an image's landmarks: those without which the others are predicted
NUM_FOLDS = 5  # no image is judged by a model that has seen it
MEDIAN_CHI2 = 2 * np.log(2)  # of chi-squared with two degrees of freedom
_FREE_VARIANCE = 1.0  # of a similarity, in squares of the mean shape's size: so large that it costs nothing
_MIN_DEVIATION = 0.002  # of any model, as a share of the mean shape's size
_ALIGN_ROUNDS = 10
_FILL_ROUNDS = 3
# exchanging two landmarks must reduce the squared Mahalanobis length of the shape to this share
SWAP_SHARE = 1 / 4
_COARSE_FACTOR = 5.0  # times the median distance: too far to learn the covariance from


@dataclass(frozen=True)
class ShapeCheck:
    """The result for N images of K landmarks; NaN if one is missing, or marked too seldom to be judged.

    `score` (N, K) is the distance from the expected place in units of the usual distance of this landmark,
    with a median of 1.18; `expected_xy` (N, K, 2) is in the frame of the given points. `partner` (N, K): the
    landmark with which this one seems to be exchanged, -1 for none.
    """

    expected_xy: FloatArray
    score: FloatArray
    partner: IntArray


def check_shapes(points_xy: FloatArray) -> ShapeCheck | None:
    """Judge points (N, K, 2), one frame per image, NaN missing; None if there are too few to learn from.

    Images that share no landmarks, such as two views of a head, are judged separately. Landmarks that are far
    from their expected place are removed one by one, the farthest of an image first, so that a wrong landmark
    does not make its neighbors look wrong.
    """
    shapes = np.asarray(points_xy[..., 0] + 1j * points_xy[..., 1], np.complex128)
    known: BoolArray = np.isfinite(shapes)
    check = ShapeCheck(
        np.full((*shapes.shape, 2), np.nan), np.full(shapes.shape, np.nan), np.full(shapes.shape, -1)
    )
    groups = shape_groups(known)
    for used in groups:
        judged = np.flatnonzero(used.any(axis=0))
        chosen = np.ix_(used.any(axis=1), judged)
        expected, score, partner = _check_known(shapes[chosen], used[chosen])
        check.expected_xy[chosen] = np.stack([expected.real, expected.imag], axis=-1)
        check.score[chosen] = score
        check.partner[chosen] = np.where(partner >= 0, judged[partner], -1)
    return check if groups else None


def robust_scores(distances: FloatArray) -> FloatArray:
    """Scale distances (N, K) to each column's usual one: for two independent normal axes, deviation 1."""
    known = np.isfinite(distances)
    scores = np.full(distances.shape, np.nan)
    for column in np.flatnonzero(known.any(axis=0)):
        values = distances[known[:, column], column]
        unit = np.sqrt(np.median(values**2) / MEDIAN_CHI2)
        if unit > 0:
            scores[known[:, column], column] = values / unit
    return scores


def shape_groups(known: BoolArray) -> list[BoolArray]:
    """Group the points (N, K) that are judged together, first the fullest image's group.

    No image is in two groups. In a group every landmark is marked on MIN_IMAGES, every image marks
    MIN_LANDMARKS, and all images can be aligned with one mean shape.
    """
    groups: list[BoolArray] = []
    remaining = known
    while remaining.any():
        reached = remaining & _find_reached(remaining)[:, None]
        used = _narrow(reached)
        if used.any():
            groups.append(used)
        remaining = remaining & ~(used if used.any() else reached).any(axis=1, keepdims=True)
    return groups


def _narrow(known: BoolArray) -> BoolArray:
    """Leave out landmarks and images with too few points, and images that share too few with the others."""
    while True:
        used: BoolArray = known & (known.sum(axis=0) >= MIN_IMAGES)
        used &= used.sum(axis=1, keepdims=True) >= MIN_LANDMARKS
        used &= _find_reached(used)[:, None]
        if (used == known).all():
            return used
        known = used


def _find_reached(known: BoolArray) -> BoolArray:
    """Find the images (N,) that share two landmarks with the fullest one, directly or by way of others."""
    reached = np.zeros(len(known), bool)
    reached[known.sum(axis=1).argmax()] = True
    for _ in range(_ALIGN_ROUNDS):
        reached |= (known & known[reached].any(axis=0)).sum(axis=1) >= 2
    return reached


def _check_known(shapes: Complex, known: BoolArray) -> tuple[Complex, FloatArray, IntArray]:
    """Return expected points and scores, NaN if a landmark is missing, and partners."""
    mean, scale, offset = align_shapes(shapes, known)
    residuals = np.where(known, scale[:, None] * shapes + offset[:, None] - mean, 0)
    coarse = gross_errors(residuals, known)
    trusted = known.copy()
    fewest = np.maximum(MIN_LANDMARKS - 1, np.ceil(known.sum(axis=1) * (1 - MAX_DISTRUSTED_SHARE)))
    while True:
        models = _fit_folds(residuals, trusted & ~coarse, mean)
        error, mahalanobis = _leave_out(residuals, trusted, models)
        score = robust_scores(np.where(known, mahalanobis, np.nan))
        trusted_score = np.where(trusted & np.isfinite(score), score, 0.0)
        worst = trusted_score.argmax(axis=1)
        is_doubtful = (trusted_score.max(axis=1) > DISTRUST_SCORE) & (trusted.sum(axis=1) > fewest)
        if not is_doubtful.any():
            break
        trusted[is_doubtful, worst[is_doubtful]] = False
    expected = (mean + residuals - error - offset[:, None]) / scale[:, None]
    partner = _find_swaps(shapes, known, score, mean, models)
    return np.where(known, expected, np.nan), score, partner


def gross_errors(residuals: Complex, known: BoolArray) -> BoolArray:
    """Find the points (N, K) that are too far from the mean shape to learn the covariance from."""
    distance = np.where(known, np.abs(residuals), np.nan)
    gross: BoolArray = distance > _COARSE_FACTOR * np.nanmedian(distance, axis=0)
    return gross


def align_shapes(shapes: Complex, known: BoolArray) -> tuple[Complex, Complex, Complex]:
    """Fit a mean shape (K,) of root mean square radius 1 about 0, and align each shape with it.

    Returns the mean shape, and the factors and offsets (N,) of the similarities. All images must be reached
    from the fullest one.
    """
    fullest = int(known.sum(axis=1).argmax())
    points = shapes[fullest][known[fullest]]
    mean = (shapes[fullest] - points.mean()) / points.std()
    weights = known.astype(np.float64)
    for _ in range(_ALIGN_ROUNDS):
        shared = known & np.isfinite(mean)
        rows = np.flatnonzero(shared.sum(axis=1) >= 2)  # in the first rounds perhaps not all images
        scale, offset = fit_similarities(shapes[rows], mean, np.where(shared, weights, 0.0)[rows])
        aligned = np.where(known[rows], scale[:, None] * shapes[rows] + offset[:, None], np.nan)
        columns = known[rows].any(axis=0)
        mean = np.full(len(mean), np.nan, np.complex128)
        mean[columns] = _median(aligned[:, columns])
        points = mean[columns] - mean[columns].mean()
        mean[columns] = points / np.sqrt(np.mean(np.abs(points) ** 2))
        distance = np.where(known[rows], np.abs(aligned - mean), np.nan)
        limit = 1.5 * np.nanmedian(distance, axis=1, keepdims=True) + 1e-12
        weights[rows] = np.where(known[rows], 1 / (1 + (distance / limit) ** 2), 0.0)
    scale, offset = fit_similarities(shapes, mean, weights)
    return mean, scale, offset


def _median(points: Complex) -> Complex:
    """Return the median of each column, x and y separately, without NaN."""
    result: Complex = np.nanmedian(points.real, axis=0) + 1j * np.nanmedian(points.imag, axis=0)
    return result


def fit_similarities(shapes: Complex, mean: Complex, weights: FloatArray) -> tuple[Complex, Complex]:
    """Fit the similarity of every shape onto the mean shape: factors and offsets (N,).

    It is the inverse of the similarity of the mean shape onto it by weighted least squares, in which a wrong
    point, however far away, is an error without leverage.
    """
    z, m = np.where(weights > 0, shapes, 0), np.where(weights > 0, mean, 0)
    total = weights.sum(axis=1)
    centre_z, centre_m = (weights * z).sum(axis=1) / total, (weights * m).sum(axis=1) / total
    from_centre = m - centre_m[:, None]
    spread = (weights * np.abs(from_centre) ** 2).sum(axis=1)
    size = (weights * from_centre.conj() * (z - centre_z[:, None])).sum(axis=1) / np.maximum(spread, 1e-12)
    size = np.where(np.abs(size) > 1e-12, size, 1.0)  # all landmarks on one spot
    scale: Complex = np.asarray(1 / size, np.complex128)
    offset: Complex = np.asarray(centre_m - centre_z * scale, np.complex128)
    return scale, offset


def _fit_folds(residuals: Complex, fitted: BoolArray, mean: Complex) -> list[tuple[IntArray, FloatArray]]:
    """Pair the rows of each fold with the covariance (2K, 2K) of all other rows, by which they are judged."""
    folds = np.random.default_rng(0).permutation(len(residuals)) % NUM_FOLDS
    return [
        (
            np.flatnonzero(folds == fold),
            fit_covariance(residuals[folds != fold], fitted[folds != fold], mean),
        )
        for fold in range(NUM_FOLDS)
    ]


def _leave_out(
    residuals: Complex, trusted: BoolArray, models: list[tuple[IntArray, FloatArray]]
) -> tuple[Complex, FloatArray]:
    """Return each landmark's error against its prediction by the trusted others, and Mahalanobis length."""
    error, length = np.zeros_like(residuals), np.zeros(residuals.shape)
    for rows, covariance in models:
        patterns, which = np.unique(trusted[rows], axis=0, return_inverse=True)
        for number, pattern in enumerate(patterns):
            same = rows[which.ravel() == number]
            error[same], length[same] = _condition(residuals[same], pattern, covariance)
    return error, length


def fit_covariance(residuals: Complex, fitted: BoolArray, mean: Complex) -> FloatArray:
    """Fit the covariance (2K, 2K) of residuals, x and y of a landmark side by side; similarities are free."""
    values, known = interleave(residuals), np.repeat(fitted, 2, axis=1)
    values = np.where(known, values, 0.0)
    shift = np.stack([np.ones_like(mean), 1j * np.ones_like(mean), mean, 1j * mean])
    free = _FREE_VARIANCE * interleave(shift).T @ interleave(shift)
    covariance = _shrink(values)
    for _ in range(0 if known.all() else _FILL_ROUNDS):
        values = _fill(values, known, covariance + free)
        covariance = _shrink(values)
    result: FloatArray = covariance + free
    return result


def _shrink(values: FloatArray) -> FloatArray:
    """Estimate the covariance of rows (n, p) about 0, shrunk toward the identity by the rule above."""
    num, size = values.shape
    sample = values.T @ values / num
    trace, trace_of_square = np.trace(sample), float((sample**2).sum())
    above = (1 - 2 / size) * trace_of_square + trace**2
    below = (num + 1 - 2 / size) * (trace_of_square - trace**2 / size)
    share = 1.0 if below <= 0 else min(1.0, above / below)
    level = share * trace / size + _MIN_DEVIATION**2
    result: FloatArray = (1 - share) * sample + level * np.eye(size)
    return result


def _fill(values: FloatArray, known: BoolArray, covariance: FloatArray) -> FloatArray:
    """Fill in missing values (n, p) as expected from the known ones of their row."""
    filled = values.copy()
    patterns, which = np.unique(known, axis=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        rows = np.flatnonzero(which.ravel() == number)
        if pattern.any() and not pattern.all():
            weights = np.linalg.solve(
                covariance[np.ix_(pattern, pattern)], covariance[np.ix_(pattern, ~pattern)]
            )
            filled[np.ix_(rows, ~pattern)] = values[np.ix_(rows, pattern)] @ weights
    return filled


def _condition(residuals: Complex, trusted: BoolArray, covariance: FloatArray) -> tuple[Complex, FloatArray]:
    """Return errors (n, K) and their Mahalanobis lengths for images that trust the same landmarks (K,)."""
    values, num_landmarks = interleave(residuals), residuals.shape[1]
    pairs = np.repeat(trusted, 2)
    inside = covariance[np.ix_(pairs, pairs)]
    precision = np.linalg.inv(inside)
    pull = values[:, pairs] @ precision
    position = np.cumsum(trusted) - 1
    error, length = np.zeros(residuals.shape, np.complex128), np.zeros(residuals.shape)
    for k in range(num_landmarks):
        own = slice(2 * k, 2 * k + 2)
        if trusted[k]:
            at = slice(2 * position[k], 2 * position[k] + 2)
            spread = np.linalg.inv(precision[at, at])
            off = pull[:, at] @ spread
        else:
            reach = covariance[np.ix_(pairs, np.arange(own.start, own.stop))]
            spread = covariance[own, own] - reach.T @ precision @ reach
            off = values[:, own] - pull @ reach
        error[:, k] = off[:, 0] + 1j * off[:, 1]
        length[:, k] = np.sqrt(np.einsum("ni,ij,nj->n", off, np.linalg.inv(spread), off))
    return error, length


def _find_swaps(
    shapes: Complex,
    known: BoolArray,
    score: FloatArray,
    mean: Complex,
    models: list[tuple[IntArray, FloatArray]],
) -> IntArray:
    """Find the partner (N, K) with which the worst landmark of an image seems to be exchanged; -1 for none.

    Exchanging the two must make the whole shape far more likely. Each is the partner of the other.
    """
    partner = np.full(shapes.shape, -1)
    for rows, covariance in models:
        for row in rows[np.nan_to_num(score[rows]).max(axis=1) > DISTRUST_SCORE]:
            worst, present = int(np.nanargmax(score[row])), known[row]
            others = np.flatnonzero(present & (np.arange(len(mean)) != worst))
            variants = np.repeat(shapes[row][None], 1 + len(others), axis=0)  # as marked, then each exchange
            for number, other in enumerate(others.tolist(), start=1):
                variants[number, [worst, other]] = variants[number, [other, worst]]
            lengths = _squared_lengths(variants, present, mean, covariance)
            best = int(lengths[1:].argmin())
            if lengths[1 + best] < SWAP_SHARE * lengths[0]:
                other = int(others[best])
                partner[row, worst], partner[row, other] = other, worst
    return partner


def _squared_lengths(shapes: Complex, known: BoolArray, mean: Complex, covariance: FloatArray) -> FloatArray:
    """Return the squared Mahalanobis lengths (n,) of whole shapes that have the same landmarks (K,)."""
    scale, offset = fit_similarities(shapes, mean, np.tile(known.astype(np.float64), (len(shapes), 1)))
    values = interleave((scale[:, None] * shapes + offset[:, None] - mean)[:, known])
    pairs = np.repeat(known, 2)
    lengths: FloatArray = np.einsum(
        "ni,ij,nj->n", values, np.linalg.inv(covariance[np.ix_(pairs, pairs)]), values
    )
    return lengths


def interleave(points: Complex) -> FloatArray:
    """Turn complex (n, K) into real (n, 2K)."""
    result: FloatArray = np.stack([points.real, points.imag], axis=-1).reshape(len(points), -1)
    return result
