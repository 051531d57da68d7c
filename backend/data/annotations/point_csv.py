"""Tables with one row per point, as of Fiji and ImageJ: `Label, X, Y`, or an image, a landmark and x, y.

ImageJ's label is the image's title, then the name of the selection, then the slice of a stack, with colons
between: `0.png`, `0.png:nose`, `films:0`, `films:nose:0`. The first part is a stack if it is the same in all
labels, has no suffix of an image, and something follows. The names that ImageJ gives by itself (`0012-0345`)
name no landmark.

Without names, the k-th point of an image is landmark k, and images with another number of points than most
are left out: which one they lack is unknown.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from backend.data.annotations.builder import AnnotationsBuilder
from backend.data.annotations.csv_columns import Columns, Pair
from backend.data.annotations.csv_rows import Row
from backend.data.annotations.image_names import stem_of

_BY_IMAGEJ = re.compile(r"[0-9]{3,}(-[0-9]{3,})+")
_DRIVE = re.compile(r"(?<![A-Za-z0-9])([A-Za-z]):(?=[\\/])")


@dataclass(frozen=True)
class _Point:
    image: str
    landmark: str  # "" if the row names none
    row: Row


@dataclass(frozen=True)
class PointImage:
    """One image with its points."""

    name: str  # as written
    rows: tuple[Row, ...]  # one or more
    points_xy_image: npt.NDArray[np.float64]  # (1, K, 2), NaN if missing


def collect_points(
    builder: AnnotationsBuilder, file_name: str, columns: Columns, rows: Sequence[Row]
) -> list[PointImage]:
    """Collect the images with their points, and set the builder's landmark names; report what is wrong."""
    assert columns.point is not None, "the table has one row per point"
    by_image: dict[str, list[_Point]] = {}
    for point in _name_points(columns, rows):
        if point.image:
            by_image.setdefault(point.image, []).append(point)
        else:
            where = f"{file_name} line {point.row[0]} column {columns.titles[columns.named['image']]}"
            builder.report(where, "no image path; the line is left out", "fill it in")
    if any(point.landmark for points in by_image.values() for point in points):
        names = dict.fromkeys(point.landmark for points in by_image.values() for point in points)
        builder.landmark_names = tuple(name for name in names if name)
    else:
        by_image = _number_points(builder, file_name, by_image)
    return [
        PointImage(
            name,
            tuple(point.row for point in points),
            _place_points(builder, file_name, columns, columns.point, points),
        )
        for name, points in by_image.items()
    ]


def _name_points(columns: Columns, rows: Sequence[Row]) -> list[_Point]:
    """Read the image and the landmark that each row names."""
    written = [cells[columns.named["image"]] for _, cells in rows]
    labels = [(text, "") for text in written]
    if columns.is_imagej:
        labels = _split_labels(written)
    landmarks = [""] * len(rows)
    if "landmark" in columns.named:
        landmarks = [cells[columns.named["landmark"]] for _, cells in rows]
    return [
        _Point(image, landmark or named, row)
        for row, (image, named), landmark in zip(rows, labels, landmarks, strict=True)
    ]


def _split_labels(labels: Sequence[str]) -> list[tuple[str, str]]:
    """Split ImageJ's labels into image and landmark, "" if it has no name of its own."""
    parts = [[part.strip() for part in _DRIVE.sub(r"\1\0", label).split(":")] for label in labels]
    parts = [[part.replace("\0", ":") for part in label_parts] for label_parts in parts]
    titles = {label_parts[0] for label_parts in parts}
    is_one_stem = len(titles) == 1 and titles == set(map(stem_of, titles))
    is_stack = is_one_stem and all(len(label_parts) > 1 for label_parts in parts)
    split = []
    for title, *rest in parts:
        image = rest.pop() if is_stack else title
        named = rest[0] if rest else ""
        split.append((image, "" if _BY_IMAGEJ.fullmatch(named) else named))
    return split


def _number_points(
    builder: AnnotationsBuilder, file_name: str, by_image: dict[str, list[_Point]]
) -> dict[str, list[_Point]]:
    """Name points after their places, in the images that have as many as most."""
    counts = Counter(map(len, by_image.values()))
    usual = max(counts, key=lambda count: (counts[count], count), default=0)
    builder.landmark_names = tuple(str(k + 1) for k in range(usual))
    numbered = {}
    for image, points in by_image.items():
        if len(points) == usual:
            numbered[image] = [_Point(image, str(k + 1), point.row) for k, point in enumerate(points)]
            continue
        builder.report(
            f"{file_name} line {points[0].row[0]}",
            f"{image} has {len(points)} points without names, most images have {usual}; it is left out",
            "mark all points of every image in one order, or name them in a column landmark",
        )
    return numbered


def _place_points(
    builder: AnnotationsBuilder, file_name: str, columns: Columns, pair: Pair, points: Sequence[_Point]
) -> npt.NDArray[np.float64]:
    placed = builder.empty_points()
    lines: dict[str, int] = {}
    for point in points:
        line, cells = point.row
        where = f"{file_name} line {line}"
        if not point.landmark:
            builder.report(where, "no landmark's name; the line is left out", "fill it in")
        elif point.landmark in lines:
            builder.report(
                where,
                f"landmark {point.landmark} is in line {lines[point.landmark]} too; the first counts",
                "keep one line",
            )
        else:
            lines[point.landmark] = line
            places = (f"{where} column {columns.titles[k]}" for k in pair)
            index = builder.landmark_names.index(point.landmark)
            placed[0, index] = builder.parse_point(*(cells[k] for k in pair), *places)
    return placed
