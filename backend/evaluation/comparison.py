"""Predicted points beside what the readers marked: arrays of one split, ready to be measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from backend.data.annotations.table import Annotations
from backend.data.samples import Samples
from backend.geometry import FloatArray


@dataclass(frozen=True)
class Comparison:
    """N images, K landmarks, R readers. All points are original pixels; NaN is missing.

    `samples` holds the images (their sizes, spacings, groups) and the truth (N, K, 2) that `truth_name` names: "mean"
    or a reader.
    """

    landmark_names: tuple[str, ...]
    samples: Samples
    truth_name: str
    predicted_xy_image: FloatArray  # (N, K, 2)
    confidence: FloatArray  # (N, K), larger is surer
    reader_names: tuple[str, ...]
    readers_xy_image: FloatArray  # (N, R, K, 2)
    unrefined_xy_image: FloatArray | None = None  # (N, K, 2), where a second network refined the prediction


def points_of_readers(
    annotations: Annotations, samples: Samples, landmark_names: Sequence[str]
) -> FloatArray:
    """(N, R, K, 2): what each reader marked on the samples' images, landmarks in the order of the names."""
    row_of = {str(image_id): row for row, image_id in enumerate(annotations.images["image_id"])}
    rows = [row_of[str(image_id)] for image_id in samples.images["image_id"]]
    columns = [annotations.landmark_names.index(name) for name in landmark_names]
    points: FloatArray = np.take(annotations.points_xy_image[rows], columns, axis=2)
    return points
