"""Predicted and annotated points of one split, ready for evaluation."""

from __future__ import annotations

from dataclasses import dataclass

from backend.data.samples import Samples
from backend.geometry import FloatArray


@dataclass(frozen=True)
class Comparison:
    """N images, K landmarks, R readers. All points are original pixels; NaN is missing.

    `samples` holds the images (their sizes, spacings, groups) and the truth (N, K, 2) that `truth_name`
    names: "mean" or a reader. `unrefined_xy_image` is None unless a second network refined the prediction,
    `unshaped_xy_image` unless the shape prior moved it: each is the prediction before that.
    """

    landmark_names: tuple[str, ...]
    samples: Samples
    truth_name: str
    predicted_xy_image: FloatArray  # (N, K, 2)
    confidence: FloatArray  # (N, K), larger is more certain
    reader_names: tuple[str, ...]
    readers_xy_image: FloatArray  # (N, R, K, 2)
    unrefined_xy_image: FloatArray | None = None  # (N, K, 2)
    unshaped_xy_image: FloatArray | None = None  # (N, K, 2)
