"""The record: everything that is measured of a comparison, in plain values that JSON can hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from backend.data.annotations import mean_of_readers
from backend.evaluation import intervals
from backend.evaluation.cases import Cases, cases_of_images
from backend.evaluation.comparison import Comparison
from backend.evaluation.confidence import confidence_against_error
from backend.evaluation.sign_flip import ALPHA
from backend.evaluation.statistics import (
    INTERVAL_MM,
    Errors,
    Statistics,
    Unit,
    choose_unit,
    describe,
    group_columns,
    norm_lengths_px,
)
from backend.geometry import FloatArray
from backend.training.metrics import RadialErrors, radial_errors, reader_distances

Record = Mapping[str, Any]  # as `measure` returns it, and as it is read from JSON

FORMAT_VERSION = 2
# Version 1 has no cases, and its intervals are percentiles of a bootstrap over images.
READABLE_VERSIONS = (1, FORMAT_VERSION)
MAX_WORST_IMAGES = 6
DECIMALS = 4  # of single errors and points: a tenth of a micrometre


def is_readable(record: Record | None) -> bool:
    """Whether there is a record, of a version that this program can show and compare."""
    return record is not None and record.get("format_version") in READABLE_VERSIONS


def is_old(record: Record) -> bool:
    """Whether a readable record has no cases, and has intervals that are too narrow."""
    return bool(record["format_version"] < FORMAT_VERSION)


def measure(comparison: Comparison, nme_landmarks: tuple[str, str] | None = None) -> dict[str, Any]:
    """Compute the record. At its top level are the statistics of all landmarks (see `describe`), and:

    - `unit`, in which everything is shown;
    - `case_kind`, what the intervals are over, and `intervals`, how they are computed;
    - more statistics: `per_landmark` {name: statistics}, `by_group` {column: {value: statistics}}, and
      `unrefined` and `unshaped` if the comparison has such points;
    - `landmarks_worst_first`, `worst_images`, `confidence` and `readers`;
    - `errors` of every image and landmark, with the case of each image.

    Raises UserError for a wrong `nme_landmarks`.
    """
    samples, names = comparison.samples, comparison.landmark_names
    lengths_px = norm_lengths_px(comparison, nme_landmarks)
    radial = radial_errors(comparison.predicted_xy_image, samples.points_xy_image, samples.mm_per_px_xy)
    unit = choose_unit(radial)
    cases = cases_of_images(samples.images)

    def with_lengths(radial: RadialErrors) -> Errors:
        return Errors(radial, radial.px / lengths_px[:, None], unit, cases)

    errors = with_lengths(radial)
    per_landmark = {name: describe(errors.select_landmark(k)) for k, name in enumerate(names)}
    record: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "unit": unit,
        **describe(errors),
        "nme_by": list(nme_landmarks) if nme_landmarks else "diagonal",
        "case_kind": cases.kind,
        "intervals": {
            "share": 1 - ALPHA,
            "least_cases": intervals.LEAST_CASES,
            "mean": {"method": "bootstrap-t", "resamples": intervals.NUM_RESAMPLES, "seed": intervals.SEED},
            "within": {"method": "Korn-Graubard"},
        },
        "per_landmark": per_landmark,
        "landmarks_worst_first": _worst_first(per_landmark, unit),
        "by_group": _by_group(comparison, errors),
        "worst_images": _worst_images(comparison, errors),
        "confidence": confidence_against_error(comparison.confidence, errors.in_unit, radial.mm, INTERVAL_MM),
        "readers": _readers(comparison, lengths_px, unit, cases),
        "errors": {
            "image_ids": [str(image_id) for image_id in samples.images["image_id"]],
            "cases": cases.numbers.tolist(),
            "px": _plain(radial.px),
            "mm": _plain(radial.mm),
            "confidence": _plain(comparison.confidence),
        },
    }
    earlier = {"unrefined": comparison.unrefined_xy_image, "unshaped": comparison.unshaped_xy_image}
    for name, points in earlier.items():
        if points is not None:
            before = radial_errors(points, samples.points_xy_image, samples.mm_per_px_xy)
            record[name] = describe(with_lengths(before))
    return record


def _worst_first(per_landmark: dict[str, Statistics], unit: Unit) -> list[str]:
    """Sort the landmarks by decreasing MRE; those without annotations come last."""
    errors = {name: statistics[f"mre_{unit}"] for name, statistics in per_landmark.items()}
    return sorted(errors, key=lambda name: -1.0 if errors[name] is None else errors[name], reverse=True)


def _by_group(comparison: Comparison, errors: Errors) -> dict[str, dict[str, Statistics]]:
    return {
        column: {
            group: describe(errors.select_images(np.array([value == group for value in values])))
            for group in sorted(set(values))
        }
        for column, values in group_columns(comparison.samples.images).items()
    }


def _worst_images(comparison: Comparison, errors: Errors) -> list[dict[str, Any]]:
    """Return the images with the largest mean error, worst first, with all that drawing them needs."""
    samples = comparison.samples
    annotated = np.flatnonzero(np.isfinite(errors.in_unit).any(axis=1))
    means = np.array([np.nanmean(errors.in_unit[row]) for row in annotated])
    worst = annotated[np.argsort(-means, kind="stable")][:MAX_WORST_IMAGES]
    return [
        {
            "image_id": str(samples.images["image_id"].iloc[row]),
            "path": str(samples.paths[row]),
            "size_hw": list(samples.sizes_hw[row]),
            "mre_px": _mean(errors.radial.px[row]),
            "mre_mm": _mean(errors.radial.mm[row]),
            "errors": _plain(errors.in_unit[row]),
            "predicted_xy_image": _plain(comparison.predicted_xy_image[row]),
            "true_xy_image": _plain(samples.points_xy_image[row]),
        }
        for row in worst
    ]


def _readers(comparison: Comparison, lengths_px: FloatArray, unit: Unit, cases: Cases) -> dict[str, Any]:
    """Compare the prediction `against` each reader and their mean, and the readers `between` each other.

    `between` is None with fewer than two readers; with more, it is over all their pairs.
    """
    samples, readers = comparison.samples, comparison.readers_xy_image
    truths = {name: readers[:, index] for index, name in enumerate(comparison.reader_names)}
    if len(truths) > 1:
        truths["mean"] = mean_of_readers(readers)
    against = {}
    for name, truth in truths.items():
        radial = radial_errors(comparison.predicted_xy_image, truth, samples.mm_per_px_xy)
        against[name] = describe(Errors(radial, radial.px / lengths_px[:, None], unit, cases))
    return {
        "truth": comparison.truth_name,
        "names": list(comparison.reader_names),
        "against": against,
        "between": _between(comparison, lengths_px, unit, cases) if len(truths) > 1 else None,
    }


def _between(comparison: Comparison, lengths_px: FloatArray, unit: Unit, cases: Cases) -> Statistics:
    """Describe the distances between readers, over all landmarks and `per_landmark`.

    All pairs of readers of an image belong to the image's case.
    """
    readers, samples = comparison.readers_xy_image, comparison.samples
    distances = reader_distances(readers, samples.mm_per_px_xy)
    px = np.stack([radial.px for radial in distances], axis=1)
    mm = np.stack([radial.mm for radial in distances], axis=1)

    def describe_pairs(px: FloatArray, mm: FloatArray) -> Statistics:
        return describe(Errors(RadialErrors(px, mm), px / lengths_px[:, None], unit, cases))

    num_images = len(samples)
    per_landmark = {
        name: describe_pairs(px[:, :, k], mm[:, :, k]) for k, name in enumerate(comparison.landmark_names)
    }
    overall = describe_pairs(px.reshape(num_images, -1), mm.reshape(num_images, -1))
    return {**overall, "per_landmark": per_landmark}


def _mean(values: FloatArray) -> float | None:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else None


def _plain(values: FloatArray) -> Any:
    """Return nested lists that JSON can hold: rounded, and None for what is not finite."""
    rounded = np.round(np.asarray(values, np.float64), DECIMALS).astype(object)
    rounded[~np.isfinite(values)] = None
    return rounded.tolist()
