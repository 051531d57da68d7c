"""The table that every annotation format is read into, and the problems found in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import pandas as pd

from backend.geometry import FloatArray

GroupKind = Literal["patient", "video", "device"]
GROUP_KINDS: tuple[GroupKind, ...] = get_args(GroupKind)

# One row per image. `group` keeps images together when validation images are split off; "" if unknown.
# `group_kind` says what the group is: images of one patient or video are not independent of each other, those
# of one device are. Spacings are NaN if unknown; sizes are those after EXIF rotation.
IMAGE_COLUMNS = (
    "image_id",  # str, unique
    "path",  # str, absolute
    "split",  # str: train, valid, test, test1 ...
    "group",  # str
    "group_kind",  # str: a GroupKind, "" without a group
    "mm_per_px_x",  # float
    "mm_per_px_y",  # float
    "height",  # int, px
    "width",  # int, px
)


@dataclass(frozen=True)
class Problem:
    """Something that is wrong with a data set, and the cure."""

    where: str  # file, and line or field
    what: str
    cure: str
    fatal: bool = False
    image: Path | None = None  # the picture that it is about, if there is one
    stops_training: bool = False  # unless --accept_implausible; the data set can still be looked at

    def __str__(self) -> str:
        return f"{self.where}: {self.what}; {self.cure}"


@dataclass(frozen=True)
class Annotations:
    """A data set as it was annotated: images, each reader's points, and all problems found.

    `points_xy_image` has shape (N images, R readers, K landmarks, 2), float32, original image pixels with
    integer pixel centers; a missing or masked landmark is NaN in both coordinates.
    """

    format: str
    root: Path
    landmark_names: tuple[str, ...]
    reader_names: tuple[str, ...]
    images: pd.DataFrame
    points_xy_image: FloatArray
    problems: tuple[Problem, ...]
    outside: tuple[str, ...] = ()  # annotations whose image lies outside the root, or would: "place: name"
