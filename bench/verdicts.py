"""How often verdicts and intervals of an evaluation are wrong, over simulated runs; prints Markdown tables.

Run from the root of the repository: python bench/verdicts.py [--pairs 4000] [--seed 0]

Beside what the program does stands the percentile bootstrap over images that it did until 2026-11-27.
"""

from __future__ import annotations

import argparse
import datetime
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from backend.evaluation.cases import sum_by_case
from backend.evaluation.intervals import mean_interval, share_interval
from backend.evaluation.sign_flip import ALPHA, Splits, holm_level, least_cases, split_cases

Array = np.ndarray[Any, Any]
Draw = Callable[[np.random.Generator, tuple[int, ...]], Array]
NUM_CASES = (4, 6, 10, 30, 100)
NUM_LANDMARKS = 19
WORSE = 1.3  # times the errors of the first run, where intervals of a difference are looked at
DISTRIBUTIONS: dict[str, tuple[Draw, float]] = {
    "normal (mean 5, SD 1)": (lambda rng, shape: rng.normal(5, 1, shape), 5.0),
    "log-normal (0.5)": (lambda rng, shape: rng.lognormal(0, 0.5, shape), float(np.exp(0.125))),
    "log-normal (1)": (lambda rng, shape: rng.lognormal(0, 1, shape), float(np.exp(0.5))),
}
SHARES = ((0.6, 0.0), (0.85, 0.3), (0.98, 0.1))  # (share of hits, their correlation within an image)


def main() -> None:
    args = parse_args()
    rng = np.random.default_rng(args.seed)
    print(
        f"{datetime.date.today()}, `python {shlex.join(sys.argv)}`: % of {args.pairs} simulated pairs of "
        f"runs\n"
    )
    print_table("errors", runs_rows(rng, args.pairs), ("called different", "difference held", "mean held"))
    print_table("errors of patients", patients_rows(rng, args.pairs), ("called different", "mean held"))
    print_table("19 landmarks", landmarks_rows(rng, args.pairs // 4), ("one or more called different",))
    print_table("share, correlation", shares_rows(rng, args.pairs), ("share held",))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pairs", type=int, default=4000, help="simulated pairs per row (default 4000)")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


Row = tuple[str, str, list[tuple[Array | None, Array | None]]]  # what, cases, (old, new) outcomes per column


def print_table(what: str, rows: Iterator[Row], columns: tuple[str, ...]) -> None:
    print(f"| {what} | cases | " + " | ".join(f"{column}, before | now" for column in columns) + " |")
    print("|---|---|" + "---|---|" * len(columns))
    for name, cases, outcomes in rows:
        cells = ["-" if one is None else f"{100 * np.mean(one):.1f}" for pair in outcomes for one in pair]
        print(f"| {name} | {cases} | " + " | ".join(cells) + " |", flush=True)
    print()


def runs_rows(rng: np.random.Generator, num_pairs: int) -> Iterator[Row]:
    """One landmark on independent images: two equal runs, and one that is worse than another."""
    for name, (draw, mean) in DISTRIBUTIONS.items():
        for num in NUM_CASES:
            first, second = draw(rng, (2, num, num_pairs))
            ones = np.ones(first.shape)
            worse, difference = WORSE * second - first, (WORSE - 1) * mean
            before = percentiles(second - first, ones), percentiles(worse, ones)
            splits, enlarged = split_all(second - first, ones), split_all(worse, ones)
            enough = num >= least_cases(1)
            intervals = [one.interval(ALPHA) for one in enlarged]
            yield (
                name,
                str(num),
                [
                    (~holds(before[0], 0), np.array([enough and one.rejects(ALPHA) for one in splits])),
                    (holds(before[1], difference), holds(intervals, difference) if enough else None),
                    (holds(percentiles(first, ones), mean), holds_mean(first, ones, mean)),
                ],
            )


def patients_rows(rng: np.random.Generator, num_pairs: int) -> Iterator[Row]:
    """Patients of 1 to 6 images, five landmarks with gaps, half of an error being the patient's own."""
    for name, (draw, mean) in DISTRIBUTIONS.items():
        for num in (6, 10, 30):
            patients = np.repeat(np.arange(num), rng.integers(1, 7, num))
            shape = (len(patients), num_pairs, 5)
            missing = rng.random(shape) < 0.2
            first, second = (
                np.where(missing, np.nan, (draw(rng, (num, num_pairs, 1))[patients] + draw(rng, shape)) / 2)
                for _ in range(2)
            )
            by_image, by_patient = (
                [sum_each(values, cases) for values in (second - first, first)]
                for cases in (np.arange(len(patients)), patients)
            )
            yield (
                name,
                f"{num} ({len(patients)} images)",
                [
                    (
                        ~holds(percentiles(*by_image[0]), 0),
                        np.array([one.rejects(ALPHA) for one in split_all(*by_patient[0])]),
                    ),
                    (holds(percentiles(*by_image[1]), mean), holds_mean(*by_patient[1], mean)),
                ],
            )


def landmarks_rows(rng: np.random.Generator, num_pairs: int) -> Iterator[Row]:
    """Equal runs, of whose differences 0.36 of the variance is common to an image's landmarks."""
    for num in NUM_CASES:
        together = rng.normal(0, 1, (num, num_pairs, 1))
        apart = rng.normal(0, 1, (num, num_pairs, NUM_LANDMARKS))
        differences = (0.6 * together + 0.8 * apart).reshape(num, -1)
        ones = np.ones(differences.shape)
        before = (~holds(percentiles(differences, ones), 0)).reshape(num_pairs, -1).any(axis=1)
        splits = split_all(differences, ones) if num >= least_cases(NUM_LANDMARKS) else []
        families = [splits[at : at + NUM_LANDMARKS] for at in range(0, len(splits), NUM_LANDMARKS)]
        levels = [holm_level(family) for family in families]
        now = [
            any(one.rejects(level) for one in family) for family, level in zip(families, levels, strict=True)
        ]
        yield "normal", str(num), [(before, np.array(now or [False]))]


def shares_rows(rng: np.random.Generator, num_pairs: int) -> Iterator[Row]:
    """Images of 10 to 19 landmarks."""
    for hits, correlation in SHARES:
        for num in (6, 10, 30, 150):
            size = (1 - correlation) / correlation if correlation else 0
            of_image = rng.beta(hits * size, (1 - hits) * size, (num, num_pairs)) if correlation else hits
            counts = rng.integers(10, 20, (num, num_pairs)).astype(float)
            sums = rng.binomial(counts.astype(int), of_image).astype(float)
            now = [share_interval(*one) for one in zip(sums.T, counts.T, strict=True)]
            before = holds(percentiles(sums, counts), hits)
            yield f"{hits:g}, {correlation:g}", str(num), [(before, holds(now, hits))]


def split_all(sums: Array, counts: Array, batch: int = 95) -> list[Splits]:
    """The test of each column, some at a time."""
    starts = range(0, sums.shape[1], batch)
    return [one for at in starts for one in split_cases(sums[:, at : at + batch], counts[:, at : at + batch])]


def percentiles(sums: Array, counts: Array, num_resamples: int = 2000) -> list[tuple[float, float]]:
    """The percentile bootstrap over images that was used before."""
    num = len(sums)
    weights = (
        np.random.default_rng(0).multinomial(num, np.full(num, 1 / num), size=num_resamples).astype(float)
    )
    found = []
    for at in range(0, sums.shape[1], 500):
        means = (weights @ sums[:, at : at + 500]) / (weights @ counts[:, at : at + 500])
        found += list(zip(*np.nanquantile(means, [0.025, 0.975], axis=0), strict=True))
    return found


def holds(intervals: Any, value: float) -> Array:
    return np.array([low - 1e-12 <= value <= high + 1e-12 for low, high in intervals])


def holds_mean(sums: Array, counts: Array, mean: float) -> Array | None:
    found = [mean_interval(*one) for one in zip(sums.T, counts.T, strict=True)]
    return None if found[0] is None else holds(found, mean)


def sum_each(values: Array, cases: Array) -> tuple[Array, Array]:
    """Sums and counts (C, repetitions) of (N, repetitions, K) by case."""
    sums, counts = sum_by_case(values.reshape(len(values), -1), cases)
    shape = (len(sums), *values.shape[1:])
    return sums.reshape(shape).sum(axis=2), counts.reshape(shape).sum(axis=2)


if __name__ == "__main__":
    main()
