"""Comparisons made by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest

from backend.data.annotations.table import IMAGE_COLUMNS
from backend.data.samples import Samples
from backend.evaluation.comparison import Comparison

MakeComparison = Callable[..., Comparison]


def build(
    errors_px: Any,
    *,
    mm_per_px: float | Sequence[float] = 0.5,
    confidence: Any = None,
    readers: Mapping[str, Any] | None = None,
    columns: Mapping[str, Sequence[Any]] | None = None,
    true_xy: Any = None,
    size_hw: tuple[int, int] = (30, 40),
    names: Sequence[str] | None = None,
    paths: Sequence[str] | None = None,
    unrefined_errors_px: Any = None,
    unshaped_errors_px: Any = None,
) -> Comparison:
    """Predictions (N, K) px to the right of the truth (10, 10); a NaN error is a landmark that nobody marked.

    `readers`: what each marked, as px to the right of the truth.
    """
    errors = np.asarray(errors_px, np.float64)
    num_images, num_landmarks = errors.shape
    truth = np.full((num_images, num_landmarks, 2), 10.0) if true_xy is None else np.array(true_xy, float)
    missing = np.isnan(errors)
    images = pd.DataFrame(
        {
            "image_id": [f"i{row}" for row in range(num_images)],
            "path": list(paths or ["nowhere.png"] * num_images),
            "split": "test",
            "group": "",
            "group_kind": "",
            "mm_per_px_x": mm_per_px,
            "mm_per_px_y": mm_per_px,
            "height": size_hw[0],
            "width": size_hw[1],
        }
    ).assign(**(columns or {}))
    assert set(IMAGE_COLUMNS) <= set(images)
    named = readers if readers is not None else {"annotator": np.where(missing, np.nan, 0.0)}
    readers_xy = np.stack([shift(truth, np.asarray(offsets, float)) for offsets in named.values()], axis=1)
    visible = truth.copy()
    visible[missing] = np.nan
    return Comparison(
        landmark_names=tuple(names or [f"L{k}" for k in range(num_landmarks)]),
        samples=Samples(images, visible.astype(np.float32)),
        truth_name="mean",
        predicted_xy_image=shift(truth, np.where(missing, 0.0, errors)),
        confidence=np.ones_like(errors) if confidence is None else np.asarray(confidence, np.float64),
        reader_names=tuple(named),
        readers_xy_image=readers_xy.astype(np.float32),
        unrefined_xy_image=_off(truth, unrefined_errors_px),
        unshaped_xy_image=_off(truth, unshaped_errors_px),
    )


def _off(truth: Any, errors_px: Any) -> Any:
    return None if errors_px is None else shift(truth, np.asarray(errors_px, float))


def shift(points_xy: Any, to_the_right: Any) -> Any:
    return points_xy + np.stack([to_the_right, to_the_right * 0], axis=-1)


@pytest.fixture
def make_comparison() -> MakeComparison:
    return build
