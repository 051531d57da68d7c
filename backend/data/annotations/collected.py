"""The images that a format has read, and the checks that need the whole data set.

N images, R readers, K landmarks.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from backend.data.annotations.orientation import MarkedImage, judge_orientation, turn_points
from backend.data.annotations.plausible import judge, mask_zeros
from backend.data.annotations.table import Problem
from backend.geometry import BoolArray, FloatArray, Size, outside_image

Points = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Collected:
    """One image, and the line `where` that asks for it. `columns`: image_id, path, split, group, group_kind.

    `num_problems` were reported before it: problems found later about it are inserted behind them.
    """

    where: str
    marked: MarkedImage
    columns: tuple[str, str, str, str, str]
    mm_per_px_xy: tuple[float, float]
    num_problems: int


@dataclass(frozen=True)
class Settled:
    """The used images: rows of IMAGE_COLUMNS, and their points (N, R, K, 2) in original image pixels.

    `set_problems` are about the data set as a whole, `image_problems` about each collected image.
    """

    rows: list[tuple[object, ...]]
    points_xy_image: FloatArray
    set_problems: list[Problem]
    image_problems: list[list[Problem]]


@dataclass(frozen=True)
class _Names:
    landmarks: Sequence[str]
    readers: Sequence[str]


def settle(
    images: Sequence[Collected], landmark_names: Sequence[str], reader_names: Sequence[str], where: str
) -> Settled:
    """Judge all images together, then mask points outside of them. `where` names the data set."""
    names = _Names(landmark_names, reader_names)
    shape = (len(images), len(reader_names), len(landmark_names), 2)
    points = np.array([image.marked.points_xy for image in images], np.float64).reshape(shape)
    points, zeros = mask_zeros(points, landmark_names, where)
    marked = [replace(image.marked, points_xy=xy) for image, xy in zip(images, points, strict=True)]
    on_stored, turned = judge_orientation(marked, where)
    if on_stored:
        points = np.array([turn_points(image.points_xy, image.frame) for image in marked])
    sizes_hw = np.array([image.frame.size_hw for image in marked], np.int64).reshape(-1, 2)
    verdict = judge(points, sizes_hw, reader_names, where)
    image_problems = []
    for index, image in enumerate(images):
        points[index], problems = _mask_outside(
            image.where, points[index], marked[index].frame.size_hw, names, verdict.explained_readers
        )
        image_problems.append(problems)
    used = np.flatnonzero(np.isfinite(points).any(axis=(1, 2, 3))).tolist()
    return Settled(
        rows=[_row_of(images[index], on_stored=on_stored) for index in used],
        points_xy_image=points[used].astype(np.float32),
        set_problems=[*verdict.problems, *(problem for problem in (zeros, turned) if problem is not None)],
        image_problems=image_problems,
    )


def _row_of(image: Collected, *, on_stored: bool) -> tuple[object, ...]:
    """Return the row of an image for IMAGE_COLUMNS. The sides of a pixel turn with the image."""
    frame = image.marked.frame
    mm_per_px_xy = image.mm_per_px_xy[::-1] if on_stored and frame.is_sideways else image.mm_per_px_xy
    return (*image.columns, *mm_per_px_xy, *frame.size_hw)


def _mask_outside(
    where: str, points_xy: Points, size_hw: Size, names: _Names, explained_readers: Collection[int]
) -> tuple[Points, list[Problem]]:
    """Mask one image's points (R, K, 2) outside of it, and return the problems to report.

    Nothing is reported for a reader whose landmarks a problem of the whole set explains.
    """
    if not np.isfinite(points_xy).any():
        return points_xy, [
            Problem(where, "image without a landmark; it is left out", "annotate it or remove it")
        ]
    outside = outside_image(points_xy, size_hw)
    problems = [
        _outside_problem(where, points_xy[reader], outside[reader], size_hw, names, reader)
        for reader in np.flatnonzero(outside.any(axis=1)).tolist()
        if reader not in explained_readers
    ]
    inside_xy = np.where(outside[..., None], np.nan, points_xy)
    if problems and not np.isfinite(inside_xy).any():
        lost = "no landmark lies inside the image; it is left out"
        problems.append(Problem(where, lost, "check which image it belongs to"))
    return inside_xy, problems


def _outside_problem(
    where: str, points_xy: Points, outside: BoolArray, size_hw: Size, names: _Names, reader: int
) -> Problem:
    """Describe the landmarks (K, 2) of one reader that are outside of an image, by name."""
    height, width = size_hw
    listed = ", ".join(
        f"{names.landmarks[k]} ({x:g}, {y:g})" for k, (x, y) in enumerate(points_xy) if outside[k]
    )
    whose = f" of {names.readers[reader]}" if len(names.readers) > 1 else ""
    return Problem(
        where,
        f"landmarks{whose} outside the image of {width} x {height} px, masked: {listed}",
        "correct the coordinates (x from the left, y from the top, in pixels)",
    )
