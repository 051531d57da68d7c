"""Cases: the independent units of a split, which are images, or all images of one patient or video."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from backend.geometry import FloatArray

CaseKind = Literal["image", "patient", "video", "group"]
# kinds of group whose images depend on each other; those of one device do not
GROUPED_KINDS = ("patient", "video")
IntArray = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Cases:
    """The cases of N images: `numbers` (N,) has the number of the case that each image belongs to.

    `kind` is "group" if there are both patients and videos.
    """

    kind: CaseKind
    numbers: IntArray

    @property
    def num(self) -> int:
        """The number of cases, each counted once."""
        return len(np.unique(self.numbers))

    def select_images(self, rows: npt.NDArray[Any] | np.bool_) -> Cases:
        """Select images by position or boolean mask."""
        return Cases(self.kind, self.numbers[rows])


def cases_of_images(images: pd.DataFrame) -> Cases:
    """Return the cases of an images table; an image without a patient or video is a case of its own."""
    is_grouped = images["group_kind"].isin(GROUPED_KINDS).to_numpy()
    kinds = [str(kind) for kind in images["group_kind"][is_grouped].unique()]
    keys = [
        (kind, group) if grouped else ("image", image_id)
        for grouped, kind, group, image_id in zip(
            is_grouped, images["group_kind"], images["group"], images["image_id"], strict=True
        )
    ]
    number = {key: index for index, key in enumerate(dict.fromkeys(keys))}
    return Cases(_choose_kind(kinds), np.array([number[key] for key in keys], np.intp))


def cases_of_record(record: Mapping[str, Any], image_ids: list[str]) -> Cases | None:
    """Return the cases of some of a record's images, numbered in their order.

    None if the record does not say which images belong together.
    """
    if "case_kind" not in record:
        return None
    number_by_image = dict(zip(record["errors"]["image_ids"], record["errors"]["cases"], strict=True))
    numbers, _ = pd.factorize(np.array([number_by_image[image_id] for image_id in image_ids], np.intp))
    return Cases(record["case_kind"], numbers)


def sum_by_case(values: FloatArray, numbers: IntArray) -> tuple[FloatArray, FloatArray]:
    """Return the sums and counts (C, M) of the values (N, M) of each case, in the order of the numbers.

    Unknown values, which are NaN, are left out.
    """
    is_known = np.isfinite(values)
    distinct, rows = np.unique(numbers, return_inverse=True)
    sums, counts = np.zeros((2, len(distinct), values.shape[1]))
    np.add.at(sums, rows, np.where(is_known, values, 0.0))
    np.add.at(counts, rows, is_known)
    return sums, counts


def _choose_kind(kinds: list[str]) -> CaseKind:
    if not kinds:
        return "image"
    if len(kinds) > 1:
        return "group"
    return "patient" if kinds[0] == "patient" else "video"
