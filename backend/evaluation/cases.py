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
GROUPED_KINDS = ("patient", "video")  # of a group; images of one device are independent
IntArray = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Cases:
    """`of_image` (N,) numbers the case that each image belongs to; `kind` is "group" where patients and
    videos mix."""

    kind: CaseKind
    of_image: IntArray

    @property
    def num(self) -> int:
        """How many there are."""
        return len(np.unique(self.of_image))

    def of_images(self, rows: npt.NDArray[Any] | np.bool_) -> Cases:
        """Of some images, by position or mask."""
        return Cases(self.kind, self.of_image[rows])


def cases_of_images(images: pd.DataFrame) -> Cases:
    """Of an images table; an image without a patient or video is a case of its own."""
    is_grouped = images["group_kind"].isin(GROUPED_KINDS).to_numpy()
    kinds = [str(kind) for kind in images["group_kind"][is_grouped].unique()]
    keys = [
        (kind, group) if grouped else ("image", image_id)
        for grouped, kind, group, image_id in zip(
            is_grouped, images["group_kind"], images["group"], images["image_id"], strict=True
        )
    ]
    number = {key: index for index, key in enumerate(dict.fromkeys(keys))}
    of_image = np.array([number[key] for key in keys], np.intp)
    return Cases(_kind_of(kinds), of_image)


def cases_of_record(record: Mapping[str, Any], image_ids: list[str]) -> Cases | None:
    """Of some of a record's images, numbered in their order; None where the record does not know its
    cases."""
    if "case_kind" not in record:
        return None
    of_image = dict(zip(record["errors"]["image_ids"], record["errors"]["cases"], strict=True))
    codes, _ = pd.factorize(np.array([of_image[image_id] for image_id in image_ids], np.intp))
    return Cases(record["case_kind"], codes)


def sum_by_case(values: FloatArray, of_image: IntArray) -> tuple[FloatArray, FloatArray]:
    """Sums and counts (C, M) of the known values (N, M), NaN being unknown, by case in the order of their
    numbers."""
    known = np.isfinite(values)
    numbers, rows = np.unique(of_image, return_inverse=True)
    sums, counts = np.zeros((2, len(numbers), values.shape[1]))
    np.add.at(sums, rows, np.where(known, values, 0.0))
    np.add.at(counts, rows, known)
    return sums, counts


def _kind_of(kinds: list[str]) -> CaseKind:
    if not kinds:
        return "image"
    if len(kinds) > 1:
        return "group"
    return "patient" if kinds[0] == "patient" else "video"
