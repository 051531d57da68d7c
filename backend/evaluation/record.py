"""All statistics of a comparison, as one plain record that JSON can hold."""

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
    Measured,
    Unit,
    choose_unit,
    describe,
    group_columns,
    norm_lengths_px,
)
from backend.geometry import FloatArray
from backend.training.metrics import RadialErrors, radial_errors, reader_distances

FORMAT_VERSION = 2
# Version 1 has no cases, and its intervals are percentiles of a bootstrap over images.
READABLE_VERSIONS = (1, FORMAT_VERSION)
MAX_WORST_IMAGES = 6
DECIMALS = 4  # of single errors and points: a tenth of a micrometre


def is_readable(record: Measured | None) -> bool:
    """Whether there is a stored record of a version that this program can show and compare."""
    return record is not None and record.get("format_version") in READABLE_VERSIONS


def is_old(record: Mapping[str, Any]) -> bool:
    """Whether a readable record has no cases, and has intervals that are too narrow."""
    return bool(record["format_version"] < FORMAT_VERSION)


def measure(comparison: Comparison, nme_landmarks: tuple[str, str] | None = None) -> Measured:
    """The record. At its top level `statistics.describe` of all landmarks, and:

    `unit` of whatever is shown on one axis; `case_kind`, what the intervals are over, and `intervals`, how
    they are made; `per_landmark` {name: describe} and `landmarks_worst_first`; `by_group` {column: {value:
    describe}}; `worst_images`; `confidence`; `readers`; `errors` of every image and landmark, and the case of
    each image; `unrefined` and `unshaped`, a describe too, where the comparison has such points. Raises
    UserError for a wrong `nme_landmarks`.
    """
    samples, names = comparison.samples, comparison.landmark_names
    lengths_px = norm_lengths_px(comparison, nme_landmarks)
    radial = radial_errors(comparison.predicted_xy_image, samples.points_xy_image, samples.mm_per_px_xy)
    unit = choose_unit(radial)
    cases = cases_of_images(samples.images)

    def with_lengths(radial: RadialErrors) -> Errors:
        return Errors(radial, radial.px / lengths_px[:, None], unit, cases)

    errors = with_lengths(radial)
    per_landmark = {name: describe(errors.of_landmark(k)) for k, name in enumerate(names)}
    record: Measured = {
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
            "cases": cases.of_image.tolist(),
            "px": _plain(radial.px),
            "mm": _plain(radial.mm),
            "confidence": _plain(comparison.confidence),
        },
    }
    others = {"unrefined": comparison.unrefined_xy_image, "unshaped": comparison.unshaped_xy_image}
    for name, points in others.items():
        if points is not None:
            before = radial_errors(points, samples.points_xy_image, samples.mm_per_px_xy)
            record[name] = describe(with_lengths(before))
    return record


def _worst_first(per_landmark: dict[str, Measured], unit: Unit) -> list[str]:
    """The landmarks by decreasing MRE; those without annotations come last."""
    key = f"mre_{unit}"
    return sorted(per_landmark, key=lambda name: -_or(per_landmark[name][key], -1.0))


def _by_group(comparison: Comparison, errors: Errors) -> dict[str, dict[str, Measured]]:
    return {
        column: {
            value: describe(errors.of_images(np.array([value == other for other in values])))
            for value in sorted(set(values))
        }
        for column, values in group_columns(comparison.samples.images).items()
    }


def _worst_images(comparison: Comparison, errors: Errors) -> list[dict[str, Any]]:
    """The images with the largest mean error, worst first, with all that drawing them needs."""
    samples = comparison.samples
    marked = np.flatnonzero(np.isfinite(errors.in_unit).any(axis=1))
    means = np.array([np.nanmean(errors.in_unit[row]) for row in marked])
    worst = marked[np.argsort(-means, kind="stable")][:MAX_WORST_IMAGES]
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
    """The prediction `against` each reader and their mean, and what the readers differ by among themselves.

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


def _between(comparison: Comparison, lengths_px: FloatArray, unit: Unit, cases: Cases) -> Measured:
    """`describe` of the distances between readers, and `per_landmark` of them; an image's pairs stay
    together."""
    readers, samples = comparison.readers_xy_image, comparison.samples
    apart = reader_distances(readers, samples.mm_per_px_xy)
    px, mm = (np.stack([getattr(radial, axis) for radial in apart], axis=1) for axis in ("px", "mm"))

    def described(px: FloatArray, mm: FloatArray) -> Measured:
        return describe(Errors(RadialErrors(px, mm), px / lengths_px[:, None], unit, cases))

    num_images = len(samples)
    per_landmark = {
        name: described(px[:, :, k], mm[:, :, k]) for k, name in enumerate(comparison.landmark_names)
    }
    everything = described(px.reshape(num_images, -1), mm.reshape(num_images, -1))
    return {**everything, "per_landmark": per_landmark}


def _mean(values: FloatArray) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else None


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


def _plain(values: FloatArray) -> Any:
    """Nested lists, rounded, None for what is not finite."""
    rounded = np.round(np.asarray(values, np.float64), DECIMALS).astype(object)
    rounded[~np.isfinite(values)] = None
    return rounded.tolist()
