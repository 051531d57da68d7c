"""Rank correlation of confidence and errors, calibration, and what a review by confidence would catch."""

from __future__ import annotations

from typing import Any

import numpy as np

from backend.geometry import FloatArray

NUM_BINS = 10
MIN_POINTS = 3  # two points always correlate
REVIEW_SHARES = tuple(step / 20 for step in range(21))


def confidence_against_error(
    confidence: FloatArray, error: FloatArray, error_mm: FloatArray, threshold_mm: float
) -> dict[str, Any]:
    """Compute `spearman`, `bins` of equal counts from least to most confident, and `review`.

    All arrays are (N, K). `error` is in the unit in which everything is shown, `error_mm` in mm, NaN if
    unknown.
    """
    is_known = np.isfinite(confidence) & np.isfinite(error)
    return {
        "num_points": int(is_known.sum()),
        "spearman": spearman(confidence[is_known], error[is_known]),
        "bins": calibration_bins(confidence[is_known], error[is_known]),
        "review": review(confidence, error_mm, threshold_mm),
    }


def spearman(first: FloatArray, second: FloatArray) -> float | None:
    """Return the rank correlation of two (n,), ties sharing their mean rank.

    None below three points, and if all values of one are equal.
    """
    if first.size < MIN_POINTS or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    # here: the page reads records without it, and it takes long to load
    from scipy import stats

    return float(stats.spearmanr(first, second).statistic)


def calibration_bins(confidence: FloatArray, error: FloatArray) -> list[dict[str, float | int]]:
    """Return up to ten bins of equal counts, by confidence (n,).

    If the confidence is well calibrated, the errors fall evenly from bin to bin.
    """
    order = np.argsort(confidence, kind="stable")
    return [
        {
            "num_points": int(rows.size),
            "mean_confidence": float(confidence[rows].mean()),
            "mean_error": float(error[rows].mean()),
            "median_error": float(np.median(error[rows])),
        }
        for rows in np.array_split(order, min(NUM_BINS, max(1, order.size)))
        if rows.size
    ]


def review(confidence: FloatArray, error_mm: FloatArray, threshold_mm: float) -> dict[str, Any] | None:
    """Compute the share of the errors above a threshold that a review of the least confident points catches.

    A review of the share `reviewed[i]` of the points catches the share `caught[i]` of these errors; chance
    would catch as many as it reviews. None if no error is known in mm; `caught` is None if none is above the
    threshold.
    """
    is_known = np.isfinite(confidence) & np.isfinite(error_mm)
    if not is_known.any():
        return None
    order = np.argsort(confidence[is_known], kind="stable")
    is_above = error_mm[is_known][order] > threshold_mm
    num_above = int(is_above.sum())
    so_far = np.concatenate([[0], np.cumsum(is_above)])
    caught = [float(so_far[round(share * is_above.size)] / num_above) for share in REVIEW_SHARES if num_above]
    return {
        "threshold_mm": threshold_mm,
        "num_above": num_above,
        "reviewed": list(REVIEW_SHARES),
        "caught": caught or None,
    }
