"""Verdicts and intervals are rarely wrong, over simulated pairs of runs; `bench/verdicts.py` prints more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from backend.evaluation.cases import sum_by_case
from backend.evaluation.intervals import mean_interval, share_interval
from backend.evaluation.paired import compare_records
from backend.evaluation.sign_flip import ALPHA, Splits, holm_level, split_cases

pytestmark = pytest.mark.slow

Array = np.ndarray[Any, Any]
Draw = Callable[[np.random.Generator, tuple[int, ...]], Array]
MAX_FALSE_SHARE = 0.06
# errors of a run by their distribution, the mean that they are drawn from, and the share of intervals that
# must hold it
DISTRIBUTIONS: dict[str, tuple[Draw, float, float]] = {
    "symmetric": (lambda rng, shape: rng.normal(5, 1, shape), 5.0, 0.93),
    "log-normal": (lambda rng, shape: rng.lognormal(0, 0.75, shape), float(np.exp(0.75**2 / 2)), 0.90),
}
by_distribution = pytest.mark.parametrize("distribution", DISTRIBUTIONS)


def split_all(sums: Array, counts: Array, batch: int = 100) -> list[Splits]:
    """The test of each column of (C cases, repetitions), some at a time."""
    starts = range(0, sums.shape[1], batch)
    return [
        split for at in starts for split in split_cases(sums[:, at : at + batch], counts[:, at : at + batch])
    ]


def share(outcomes: list[bool]) -> float:
    return sum(outcomes) / len(outcomes)


def record_of(errors: Array) -> dict[str, Any]:
    """The part of a record that a comparison reads, of (N, 1) errors."""
    ids = [str(number) for number in range(len(errors))]
    return {
        "unit": "px",
        "per_landmark": {"nose": {}},
        "readers": {"truth": "mean"},
        "about": {"dataset": "films", "split": "test"},
        "errors": {"image_ids": ids, "px": errors.tolist()},
    }


@pytest.mark.parametrize(("num_images", "num_pairs"), [(4, 300), (6, 1000), (10, 1000)])
def test_of_two_equal_runs_few_are_called_different(num_images: int, num_pairs: int) -> None:
    rng = np.random.default_rng(num_images)
    verdicts = []
    for _ in range(num_pairs):
        first, second = rng.lognormal(0.5, 0.5, (2, num_images, 1))
        comparison = compare_records(record_of(first), record_of(second))
        verdicts.append(comparison.overall.verdict in ("better", "worse"))
    assert share(verdicts) <= MAX_FALSE_SHARE


@by_distribution
@pytest.mark.parametrize("num_images", [6, 10, 30, 100])
def test_at_most_6_percent_of_equal_runs_are_called_different(num_images: int, distribution: str) -> None:
    rng = np.random.default_rng(1)
    draw, _, _ = DISTRIBUTIONS[distribution]
    first, second = draw(rng, (2, num_images, 1000))
    splits = split_all(second - first, np.ones(first.shape))
    assert share([split.rejects(ALPHA) for split in splits]) <= MAX_FALSE_SHARE


@by_distribution
@pytest.mark.parametrize("num_images", [10, 30, 100])
def test_intervals_of_a_difference_hold_it(num_images: int, distribution: str) -> None:
    rng = np.random.default_rng(2)
    draw, mean, coverage = DISTRIBUTIONS[distribution]
    first, second = draw(rng, (2, num_images, 1000))
    splits = split_all(1.3 * second - first, np.ones(first.shape))
    intervals = [split.interval(ALPHA) for split in splits]
    assert share([low <= 0.3 * mean <= high for low, high in intervals]) >= coverage


@by_distribution
@pytest.mark.parametrize("num_images", [10, 30, 100])
def test_intervals_of_a_mean_hold_it(num_images: int, distribution: str) -> None:
    rng = np.random.default_rng(3)
    draw, mean, coverage = DISTRIBUTIONS[distribution]
    intervals = [mean_interval(values, np.ones(num_images)) for values in draw(rng, (1000, num_images))]
    assert share([low <= mean <= high for low, high in filter(None, intervals)]) >= coverage


def draw_patients(
    rng: np.random.Generator, draw: Draw, num_patients: int, num_pairs: int
) -> tuple[Array, Array, Array]:
    """Two equal runs on the images of patients, half of an error being the patient's own.

    Returns errors (N, num_pairs, 5) with gaps, and each image's patient (N,). A patient has 1 to 6 images.
    """
    patients = np.repeat(np.arange(num_patients), rng.integers(1, 7, num_patients))
    shape = (len(patients), num_pairs, 5)
    missing = rng.random(shape) < 0.2
    first, second = (
        (draw(rng, (num_patients, num_pairs, 1))[patients] + draw(rng, shape)) / 2 for _ in range(2)
    )
    return np.where(missing, np.nan, first), np.where(missing, np.nan, second), patients


def sum_each(values: Array, cases: Array) -> tuple[Array, Array]:
    """Sums and counts (C, repetitions) of (N, repetitions, K) by case."""
    sums, counts = sum_by_case(values.reshape(len(values), -1), cases)
    shape = (len(sums), *values.shape[1:])
    return sums.reshape(shape).sum(axis=2), counts.reshape(shape).sum(axis=2)


@by_distribution
@pytest.mark.parametrize("num_patients", [6, 10, 30])
def test_images_of_one_patient_do_not_make_equal_runs_differ(num_patients: int, distribution: str) -> None:
    rng = np.random.default_rng(4)
    draw, mean, coverage = DISTRIBUTIONS[distribution]
    first, second, patients = draw_patients(rng, draw, num_patients, 1000)
    by_patient = split_all(*sum_each(second - first, patients))
    assert share([split.rejects(ALPHA) for split in by_patient]) <= MAX_FALSE_SHARE
    by_image = split_all(*sum_each((second - first)[:, :200], np.arange(len(patients))))
    assert share([split.rejects(ALPHA) for split in by_image]) > 0.15, "the images alone would mislead"
    if num_patients >= 10:
        columns = zip(*(part.T for part in sum_each(first, patients)), strict=True)
        intervals = [mean_interval(sums, counts) or [0, 0] for sums, counts in columns]
        assert share([low <= mean <= high for low, high in intervals]) >= coverage


@pytest.mark.parametrize("num_images", [10, 30])
def test_of_19_landmarks_that_err_together_rarely_one_is_called_different(num_images: int) -> None:
    rng = np.random.default_rng(5)
    num_pairs, num_landmarks = 400, 19
    shape = (num_images, num_pairs, num_landmarks)
    together, apart = rng.normal(0, 1, (num_images, num_pairs, 1)), rng.normal(0, 1, shape)
    differences = (0.6 * together + 0.8 * apart).reshape(num_images, -1)
    splits = split_all(differences, np.ones(differences.shape), 5 * num_landmarks)
    families = [splits[at : at + num_landmarks] for at in range(0, len(splits), num_landmarks)]
    levels = [holm_level(family) for family in families]
    false = [
        any(split.rejects(level) for split in family) for family, level in zip(families, levels, strict=True)
    ]
    assert share(false) <= MAX_FALSE_SHARE


@pytest.mark.parametrize("num_images", [10, 30, 150])
@pytest.mark.parametrize(("hits", "spread"), [(0.6, 0.0), (0.85, 0.3), (0.98, 0.1)])
def test_intervals_of_a_share_hold_it_and_stay_within_0_and_1(
    num_images: int, hits: float, spread: float
) -> None:
    """Images of 10 to 19 landmarks; `spread` is the correlation of hits within an image."""
    rng = np.random.default_rng(6)
    covered = []
    for _ in range(600):
        size = (1 - spread) / spread if spread else 0
        of_image = rng.beta(hits * size, (1 - hits) * size, num_images) if spread else hits
        counts = rng.integers(10, 20, num_images)
        low, high = share_interval(rng.binomial(counts, of_image).astype(float), counts.astype(float)) or (
            0,
            0,
        )
        assert 0 <= low < high <= 1
        covered.append(low <= hits <= high)
    assert share(covered) >= 0.93
