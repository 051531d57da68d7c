"""Errors of predicted points, in the original image.

MRE: mean over visible landmarks of the distance in the original image, with the spacing of each axis.
SDR at t mm: share of visible landmarks with an error of at most t.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from backend.data.samples import Samples
from backend.geometry import FloatArray
from backend.run.best import MeanError

SDR_THRESHOLDS_MM = (2.0, 2.5, 3.0, 4.0)
ROUNDING_MM = 1e-9
Summary = dict[str, float | int | None]


@dataclass(frozen=True)
class RadialErrors:
    """Distances (N images, K landmarks), NaN where unknown: the landmark is missing or, for mm, the
    spacing."""

    px: FloatArray
    mm: FloatArray


def radial_errors(
    predicted_xy_image: FloatArray, true_xy_image: FloatArray, mm_per_px_xy: FloatArray
) -> RadialErrors:
    """Points (N, K, 2) in original pixels, spacings (N, 2) in mm per pixel with NaN where unknown."""
    difference = np.asarray(predicted_xy_image, np.float64) - true_xy_image
    in_mm = difference * np.asarray(mm_per_px_xy, np.float64)[:, None, :]
    return RadialErrors(np.hypot(*np.moveaxis(difference, -1, 0)), np.hypot(*np.moveaxis(in_mm, -1, 0)))


def in_one_unit(errors: RadialErrors) -> RadialErrors:
    """The same distances, in mm only where all of them are known in mm: the mm of some images are never
    reported for all."""
    known = np.isfinite(errors.px)
    return (
        errors if np.isfinite(errors.mm[known]).all() else replace(errors, mm=np.full_like(errors.mm, np.nan))
    )


def summarize(errors: RadialErrors) -> Summary:
    """`mre_px mre_mm sdr_2mm ... num_images`; None where nothing is known."""
    known_mm = errors.mm[np.isfinite(errors.mm)]
    summary: Summary = {"mre_px": _mean(errors.px), "mre_mm": _mean(errors.mm)}
    for threshold in SDR_THRESHOLDS_MM:
        share = float(within(known_mm, threshold).mean()) if known_mm.size else None
        summary[f"sdr_{threshold:g}mm"] = share
    summary["num_images"] = int(np.isfinite(errors.px).any(axis=1).sum())
    return summary


def mean_error(errors: RadialErrors) -> MeanError:
    """Over all known distances, in mm only where every one is."""
    in_one = in_one_unit(errors)
    return MeanError(_mean(in_one.px), _mean(in_one.mm))


def within(errors_mm: FloatArray, threshold_mm: float) -> npt.NDArray[np.bool_]:
    """Whether errors are at most a threshold, but for rounding (readers annotate whole pixels)."""
    inside: npt.NDArray[np.bool_] = errors_mm <= threshold_mm + ROUNDING_MM
    return inside


def summarize_per_landmark(errors: RadialErrors, names: Sequence[str]) -> dict[str, Summary]:
    """{landmark name: its summary}, in the order of the names."""
    return {
        name: summarize(RadialErrors(errors.px[:, k : k + 1], errors.mm[:, k : k + 1]))
        for k, name in enumerate(names)
    }


def reader_distances(readers_xy_image: FloatArray, mm_per_px_xy: FloatArray) -> list[RadialErrors]:
    """The distances between each pair of R readers (N, R, K, 2); empty with one reader."""
    pairs = itertools.combinations(range(readers_xy_image.shape[1]), 2)
    return [radial_errors(readers_xy_image[:, i], readers_xy_image[:, j], mm_per_px_xy) for i, j in pairs]


def summarize_readers(
    readers_xy_image: FloatArray, mm_per_px_xy: FloatArray, names: Sequence[str]
) -> dict[str, Any] | None:
    """`mre_px mre_mm` between readers, over all pairs, and the same `per_landmark`; None where no two readers
    annotated the same landmark."""
    apart = reader_distances(readers_xy_image, mm_per_px_xy)
    if not any(np.isfinite(pair.px).any() for pair in apart):
        return None
    px, mm = (np.concatenate([getattr(pair, axis) for pair in apart]) for axis in ("px", "mm"))
    per_landmark = {
        name: {"mre_px": _mean(px[:, k]), "mre_mm": _mean(mm[:, k])} for k, name in enumerate(names)
    }
    return {"mre_px": _mean(px), "mre_mm": _mean(mm), "per_landmark": per_landmark}


def guess_mean_positions(train: Samples, images: Samples) -> FloatArray:
    """(N, K, 2) original pixels of `images`: the mean position of each landmark in the training images, as a
    share of width and height; NaN for a landmark that they never show. A network that learned nothing is at
    best as good."""
    shares = train.points_xy_image / _sizes_wh(train)
    known = np.isfinite(shares).all(-1, keepdims=True)
    total, count = np.where(known, shares, 0).sum(0), known.sum(0)
    mean = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return np.asarray(mean * _sizes_wh(images))


def _sizes_wh(samples: Samples) -> FloatArray:
    return np.array(samples.sizes_hw, np.float64)[:, None, ::-1]


def _mean(values: FloatArray) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else None
