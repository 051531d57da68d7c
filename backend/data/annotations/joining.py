"""Joins the landmarks that several files or lines give for one image, and reports contradictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from reprlib import repr as shorten

import numpy as np
import numpy.typing as npt

from backend.data.annotations.builder import AnnotationsBuilder

_SAME_PX = 0.5  # as far as a tool that rounds to whole pixels moves a landmark along an axis


def join_points(
    points_xy_image: Sequence[npt.NDArray[np.float64]],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Join points, each (K, 2), NaN missing: the first place of a landmark counts.

    Returns also for each landmark (K,) whether its places differ: by more than half a pixel along an axis.
    """
    stacked = np.stack(points_xy_image)
    joined = stacked[0].copy()
    for other in stacked[1:]:
        joined = np.where(np.isnan(joined), other, joined)
    differs = np.fmax.reduce(stacked) - np.fmin.reduce(stacked) > _SAME_PX
    return joined, np.any(differs, axis=-1)


class Contradictions:
    """Images in which a file contradicts an earlier one, reported once per file and kind."""

    def __init__(self) -> None:
        self._names: dict[tuple[Path, str, str], list[str]] = {}

    def add(self, file: Path, what: str, cure: str, image_name: str) -> None:
        """Add an image; `what` names the earlier file."""
        self._names.setdefault((file, what, cure), []).append(image_name)

    def report(self, builder: AnnotationsBuilder, num_images: Mapping[Path, int]) -> None:
        """Report all contradictions; `num_images` is the number of images that each file annotates."""
        for (file, what, cure), names in self._names.items():
            builder.report(
                file,
                f"{what}, which counts, for {len(names)} of {num_images[file]} images: {shorten(names)}",
                cure,
            )
