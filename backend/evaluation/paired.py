"""Two runs on the same images: by how much the second one errs less or more, and how far chance moves that.

The difference is taken landmark by landmark on each image, so that what makes an image hard for both cancels out; its
interval is the bootstrap over images of `measures`. What is compared are the records that `backend.evaluate` writes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from backend.errors import UserError
from backend.evaluation.measures import Unit, bootstrap_interval
from backend.geometry import FloatArray

Verdict = Literal["better", "worse", "open"]
Record = Any


@dataclass(frozen=True)
class Difference:
    """Mean errors over the points that both runs were measured on; `difference` is second less first.

    `interval` is the 95 % interval of the difference, None below two images.
    """

    first: float
    second: float
    difference: float
    interval: tuple[float, float] | None

    @property
    def verdict(self) -> Verdict:
        """Of the second run; `open` where the interval holds 0."""
        if self.interval is None or self.interval[0] <= 0 <= self.interval[1]:
            return "open"
        return "better" if self.difference < 0 else "worse"


@dataclass(frozen=True)
class Paired:
    """Both runs over all landmarks, and by landmark, the most improved first."""

    unit: Unit
    num_images: int
    overall: Difference
    per_landmark: dict[str, Difference]


def compare_records(first: Record, second: Record) -> Paired:
    """Compare two records on the images and landmarks that stand in both, in mm where both are.

    Raises UserError where they were measured against different truths, or have nothing in common.
    """
    for what, one, other in (
        ("data sets", first["about"]["dataset"], second["about"]["dataset"]),
        ("splits", first["about"]["split"], second["about"]["split"]),
        ("truths", first["readers"]["truth"], second["readers"]["truth"]),
    ):
        if one != other:
            raise UserError(
                f"the two were measured on different {what}, {one} and {other}",
                cure="evaluate both runs on the same split with the same truth",
            )
    unit: Unit = "mm" if first["unit"] == second["unit"] == "mm" else "px"
    names = [name for name in first["per_landmark"] if name in second["per_landmark"]]
    known = set(second["errors"]["image_ids"])
    image_ids = [image_id for image_id in first["errors"]["image_ids"] if image_id in known]
    errors = [_errors(record, unit, image_ids, names) for record in (first, second)]
    both = np.isfinite(errors[0]) & np.isfinite(errors[1])
    if not both.any():
        raise UserError(
            "the two have no image and landmark in common", cure="evaluate both on the same split"
        )
    one, other = (np.where(both, values, np.nan) for values in errors)
    by_name = {
        name: _difference(one[:, [k]], other[:, [k]]) for k, name in enumerate(names) if both[:, k].any()
    }
    ordered = dict(sorted(by_name.items(), key=lambda item: item[1].difference))
    return Paired(unit, int(both.any(axis=1).sum()), _difference(one, other), ordered)


def _errors(record: Record, unit: Unit, image_ids: list[str], names: list[str]) -> FloatArray:
    """(N, K): the record's errors, images and landmarks in the order that is asked for; NaN where unknown."""
    rows = {image_id: row for row, image_id in enumerate(record["errors"]["image_ids"])}
    columns = {name: column for column, name in enumerate(record["per_landmark"])}
    values = np.array(record["errors"][unit], np.float64).reshape(len(rows), len(columns))
    return values[np.ix_([rows[image_id] for image_id in image_ids], [columns[name] for name in names])]


def _difference(first: FloatArray, second: FloatArray) -> Difference:
    """Of (N, M) errors that are NaN at the same places."""
    interval = bootstrap_interval(second - first)
    means = float(np.nanmean(first)), float(np.nanmean(second))
    return Difference(*means, means[1] - means[0], (interval[0], interval[1]) if interval else None)
