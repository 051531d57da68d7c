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
    """The distances (N images, K landmarks); NaN if the landmark is missing or, for mm, the spacing."""

    px: FloatArray
    mm: FloatArray


def radial_errors(
    predicted_xy_image: FloatArray, true_xy_image: FloatArray, mm_per_px_xy: FloatArray
) -> RadialErrors:
    """Measure the distances between points (N, K, 2) in original pixels.

    The spacings (N, 2) are in mm per pixel, NaN if unknown.
    """
    difference = np.asarray(predicted_xy_image, np.float64) - true_xy_image
    in_mm = difference * np.asarray(mm_per_px_xy, np.float64)[:, None, :]
    return RadialErrors(np.hypot(*np.moveaxis(difference, -1, 0)), np.hypot(*np.moveaxis(in_mm, -1, 0)))


def in_one_unit(errors: RadialErrors) -> RadialErrors:
    """Drop the mm unless all distances are known in mm: those of some images are never reported for all."""
    is_measured = np.isfinite(errors.px)
    if np.isfinite(errors.mm[is_measured]).all():
        return errors
    return replace(errors, mm=np.full_like(errors.mm, np.nan))


def summarize(errors: RadialErrors) -> Summary:
    """Return `mre_px mre_mm sdr_2mm ... num_images`; a value is None if nothing is known of it."""
    known_mm = errors.mm[np.isfinite(errors.mm)]
    summary: Summary = {"mre_px": _mean(errors.px), "mre_mm": _mean(errors.mm)}
    for threshold in SDR_THRESHOLDS_MM:
        share = float(within(known_mm, threshold).mean()) if known_mm.size else None
        summary[f"sdr_{threshold:g}mm"] = share
    summary["num_images"] = int(np.isfinite(errors.px).any(axis=1).sum())
    return summary


def mean_error(errors: RadialErrors) -> MeanError:
    """Return the mean over all known distances; in mm only if every one is known in mm."""
    errors = in_one_unit(errors)
    return MeanError(_mean(errors.px), _mean(errors.mm))


def within(errors_mm: FloatArray, threshold_mm: float) -> npt.NDArray[np.bool_]:
    """Whether errors are at most a threshold, but for rounding (readers annotate whole pixels)."""
    inside: npt.NDArray[np.bool_] = errors_mm <= threshold_mm + ROUNDING_MM
    return inside


def summarize_per_landmark(errors: RadialErrors, names: Sequence[str]) -> dict[str, Summary]:
    """Return each landmark's summary by its name, in the order of the names."""
    return {
        name: summarize(RadialErrors(errors.px[:, k : k + 1], errors.mm[:, k : k + 1]))
        for k, name in enumerate(names)
    }


def reader_distances(readers_xy_image: FloatArray, mm_per_px_xy: FloatArray) -> list[RadialErrors]:
    """Measure the distances between each pair of R readers (N, R, K, 2); empty with one reader."""
    pairs = itertools.combinations(range(readers_xy_image.shape[1]), 2)
    return [radial_errors(readers_xy_image[:, i], readers_xy_image[:, j], mm_per_px_xy) for i, j in pairs]


def summarize_readers(
    readers_xy_image: FloatArray, mm_per_px_xy: FloatArray, names: Sequence[str]
) -> dict[str, Any] | None:
    """Return `mre_px mre_mm` between readers, over all pairs, and the same `per_landmark`.

    None if no two readers annotated the same landmark.
    """
    pairs = reader_distances(readers_xy_image, mm_per_px_xy)
    if not any(np.isfinite(pair.px).any() for pair in pairs):
        return None
    px = np.concatenate([pair.px for pair in pairs])
    mm = np.concatenate([pair.mm for pair in pairs])
    per_landmark = {
        name: {"mre_px": _mean(px[:, k]), "mre_mm": _mean(mm[:, k])} for k, name in enumerate(names)
    }
    return {"mre_px": _mean(px), "mre_mm": _mean(mm), "per_landmark": per_landmark}


def guess_mean_positions(train: Samples, images: Samples) -> FloatArray:
    """Place each landmark at its mean position in the training images, as a share of width and height.

    Returns (N, K, 2) original pixels of `images`; NaN for a landmark that the training images never show. A
    network that learned nothing is at best as good.
    """
    shares = train.points_xy_image / _sizes_wh(train)
    is_annotated = np.isfinite(shares).all(-1, keepdims=True)
    total, count = np.where(is_annotated, shares, 0).sum(0), is_annotated.sum(0)
    mean = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return np.asarray(mean * _sizes_wh(images))


def _sizes_wh(samples: Samples) -> FloatArray:
    return np.array(samples.sizes_hw, np.float64)[:, None, ::-1]


def _mean(values: FloatArray) -> float | None:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else None
