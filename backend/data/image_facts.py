"""The pixel size that an image file states, and remarks on how the file was read."""

from __future__ import annotations

import math
from dataclasses import dataclass

MAX_DIFFERENCE = 0.01  # as a share, between two pixel sizes that agree

MmPerPx = tuple[float, float]  # along x and y; both NaN if unknown


@dataclass(frozen=True)
class ReadingRemark:
    """A remark for the user on how a file was read, and the cure.

    It names fields of the file and repeats pixel sizes, but no other value, which may be a patient's.
    """

    what: str
    cure: str

    def __str__(self) -> str:
        return f"{self.what}; {self.cure}"


@dataclass(frozen=True)
class ImageFacts:
    """The pixel size that a file states, mm or NaN, the field that states it, and remarks."""

    mm_per_px_xy: MmPerPx = (math.nan, math.nan)
    spacing_field: str = ""
    remarks: tuple[ReadingRemark, ...] = ()


def spacings_differ(a_xy: MmPerPx, b_xy: MmPerPx) -> bool:
    """Whether two known pixel sizes, mm, differ by more than 1 % along an axis."""
    return any(abs(a - b) > MAX_DIFFERENCE * min(a, b) for a, b in zip(a_xy, b_xy, strict=True))


def compare_spacings(given_xy: MmPerPx, stated_xy: MmPerPx) -> ReadingRemark | None:
    """Return a remark if a table gives a pixel size, mm, and the image itself states another one."""
    if math.isnan(sum(given_xy) + sum(stated_xy)) or not spacings_differ(given_xy, stated_xy):
        return None
    return ReadingRemark(
        f"a pixel size of {describe_spacing(given_xy)} is given, but the image itself states "
        f"{describe_spacing(stated_xy)}: the one given is used",
        "check which of them is right, and correct or remove the one given",
    )


def describe_spacing(mm_per_px_xy: MmPerPx) -> str:
    """Format a pixel size: its width and height."""
    return "{:.4g} x {:.4g} mm".format(*mm_per_px_xy)
