"""What an image file states beside its pixels, and remarks on how it was read."""

from __future__ import annotations

import math
from dataclasses import dataclass

MAX_DIFFERENCE = 0.01  # as a share, between two pixel sizes that agree

MmPerPx = tuple[float, float]  # along x and y; NaN twice where unknown


@dataclass(frozen=True)
class Remark:
    """Something a user should know about how a file was read, and the cure.

    It names fields of the file and repeats pixel sizes, but no other value: that may be a patient's.
    """

    what: str
    cure: str

    def __str__(self) -> str:
        return f"{self.what}; {self.cure}"


@dataclass(frozen=True)
class ImageFacts:
    """The pixel size that a file states, mm or NaN, the field that states it, and remarks on the reading."""

    mm_per_px_xy: MmPerPx = (math.nan, math.nan)
    spacing_field: str = ""
    remarks: tuple[Remark, ...] = ()


def spacings_differ(one_xy: MmPerPx, other_xy: MmPerPx) -> bool:
    """Whether two known pixel sizes, mm, differ by more than 1 % along an axis."""
    return any(
        abs(one - other) > MAX_DIFFERENCE * min(one, other)
        for one, other in zip(one_xy, other_xy, strict=True)
    )


def remark_on_spacing(given_xy: MmPerPx, stated_xy: MmPerPx) -> Remark | None:
    """The remark on a pixel size that a table gives, mm, where the image itself states another one."""
    if math.isnan(sum(given_xy) + sum(stated_xy)) or not spacings_differ(given_xy, stated_xy):
        return None
    return Remark(
        f"a pixel size of {describe_spacing(given_xy)} is given, but the image itself states "
        f"{describe_spacing(stated_xy)}: the one given is used",
        "check which of them is right, and correct or remove the one given",
    )


def describe_spacing(mm_per_px_xy: MmPerPx) -> str:
    """A pixel size in words: its width and height."""
    return "{:.4g} x {:.4g} mm".format(*mm_per_px_xy)
