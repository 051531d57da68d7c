"""The instances of COCO files: annotations with landmarks, joined to objects; `coco` has the rules."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from reprlib import repr as shorten
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from backend.data.annotations.builder import AnnotationsBuilder
from backend.data.annotations.coco_files import Names, Table, is_number, key_of
from backend.data.annotations.joining import join_points
from backend.data.annotations.json_files import EXPORT_AGAIN

_Points = npt.NDArray[np.float64]
_Mark = Literal["marked", "missing", "unlabelled", "at 0, 0", "bad"]


@dataclass(frozen=True)
class Instance:
    id: str
    names: Names  # the landmarks that it can have: all of the data set's, or a part of them
    points_xy_image: _Points  # (K, 2) of the data set's landmarks, NaN if missing
    area: float

    @property
    def num_landmarks(self) -> int:
        return int(np.isfinite(self.points_xy_image[:, 0]).sum())

    @property
    def first_landmark(self) -> int:
        """The index of the first marked landmark."""
        return int(np.isfinite(self.points_xy_image[:, 0]).argmax())

    def equals(self, other: Instance) -> bool:
        """Whether it marks the same landmarks at the same places, whatever its id."""
        same = np.array_equal(self.points_xy_image, other.points_xy_image, equal_nan=True)
        return self.names == other.names and same


@dataclass
class _Tally:
    """Counts of what is reported once per file, however often it occurs."""

    marks: dict[_Mark, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))  # by landmark
    wrong_lists: dict[str, list[str]] = field(default_factory=dict)  # what is wrong -> where


def uses_visibility(tables: list[Table]) -> bool:
    """Whether any landmark has visibility 1 or 2; if none has, 0 says nothing."""
    return any(
        visibility in (1, 2)
        for table in tables
        for annotation in table.annotations
        if (category := table.category_of(annotation)) and category.names
        if isinstance(annotation["keypoints"], list)
        for visibility in annotation["keypoints"][2::3]
    )


def read_instances(
    builder: AnnotationsBuilder, table: Table, images: Mapping[str, object], visibility_counts: bool
) -> dict[str, list[Instance]]:
    """Read the instances that have a landmark, by id of their image.

    `images` has a value that is true for the ids in use. `visibility_counts` is what `uses_visibility` says
    of all files: without it, visibility 0 with coordinates is a landmark.
    """
    instances: dict[str, list[Instance]] = {}
    tally = _Tally()
    file = builder.relative(table.path)
    for number, annotation in enumerate(table.annotations):
        where = f"{file} annotations[{number}]"
        if not isinstance(annotation, dict):
            builder.report(where, "not an annotation; it is left out", EXPORT_AGAIN)
            continue
        category = table.categories.get(key_of(annotation.get("category_id")))
        key = key_of(annotation.get("image_id"))
        if category is None:
            category_id = shorten(annotation.get("category_id"))
            builder.report(where, f"category_id {category_id} is unknown; it is left out", EXPORT_AGAIN)
        elif not category.names or annotation.get("iscrowd") == 1:
            continue
        elif key not in images:
            image_id = shorten(annotation.get("image_id"))
            builder.report(where, f"image_id {image_id} is unknown; it is left out", EXPORT_AGAIN)
        elif images[key]:
            accepted: tuple[_Mark, ...] = ("marked",) if visibility_counts else ("marked", "unlabelled")
            points = _read_points(
                builder, category.names, annotation.get("keypoints"), where, accepted, tally
            )
            if np.isfinite(points).any():
                instance_id = key_of(annotation.get("id")) or f"annotations[{number}]"
                instances.setdefault(key, []).append(
                    Instance(instance_id, category.names, points, _area_of(annotation))
                )
    for what, places in tally.wrong_lists.items():
        others = f", as in {len(places) - 1} other annotations" if len(places) > 1 else ""
        builder.report(places[0], f"{what}{others}; it is left out", EXPORT_AGAIN)
    _report_visibility(builder, table, tally.marks, visibility_counts)
    return _part_by_landmark(builder, table, instances)


def _part_by_landmark(
    builder: AnnotationsBuilder, table: Table, instances: dict[str, list[Instance]]
) -> dict[str, list[Instance]]:
    """Make each instance a part of an object if the whole file has one landmark per annotation."""
    every = [instance for in_image in instances.values() for instance in in_image]
    # In a file with a single instance per image, or with any that has more landmarks, they are instances.
    if len(every) == len(instances) or any(
        len(instance.names) == 1 or instance.num_landmarks > 1 for instance in every
    ):
        return instances
    builder.report(
        table.path,
        "every annotation marks one landmark; those of an image are taken together as one object",
        "where they are different objects, crop the images to one object each",
    )
    return {
        key: [
            replace(instance, names=(builder.landmark_names[instance.first_landmark],))
            for instance in in_image
        ]
        for key, in_image in instances.items()
    }


def assemble(builder: AnnotationsBuilder, instances: list[Instance], where: str) -> _Points:
    """Assemble one object's points (K, 2), original image pixels, of one file's instances in one image.

    NaN if missing. Of several instances with the same landmarks one is taken. Of those with a single one of
    several landmarks each, it is unknown which of them belong together: a landmark that is marked at several
    places is masked.
    """
    parts: dict[Names, list[Instance]] = {}
    for instance in instances:
        parts.setdefault(instance.names, []).append(instance)
    to_join: list[Instance] = []
    for names, candidates in parts.items():
        is_single = len(names) == 1 < len(builder.landmark_names)
        to_join += candidates if is_single else [_best_of(builder, candidates, where)]
    if len(to_join) == 1:
        return to_join[0].points_xy_image
    points, differs = join_points(
        [builder.empty_points()[0], *(instance.points_xy_image for instance in to_join)]
    )
    if differs.any():
        names = tuple(name for name, several in zip(builder.landmark_names, differs, strict=True) if several)
        builder.report(
            where,
            f"landmarks at several places, masked: {', '.join(names)}",
            "keep one annotation of each landmark, or crop the images to one object each",
        )
        points[differs] = np.nan
    return points


def _best_of(builder: AnnotationsBuilder, instances: list[Instance], where: str) -> Instance:
    best = max(instances, key=lambda instance: (instance.num_landmarks, instance.area))
    if len(instances) > 1:
        builder.report(
            where,
            f"{len(instances)} instances; annotation {best.id} with {best.num_landmarks} landmarks was taken",
            "crop the images to one instance each",
        )
    return best


def _area_of(annotation: Mapping[str, Any]) -> float:
    """Return the stated area, else that of the box, px^2; 0 if there is neither."""
    area, box = annotation.get("area"), annotation.get("bbox")
    if is_number(area):
        return float(area)
    if isinstance(box, list) and len(box) == 4 and all(map(is_number, box)):
        return float(box[2] * box[3])
    return 0.0


# Points and their visibility


def _read_points(
    builder: AnnotationsBuilder,
    names: Names,
    values: Any,
    where: str,
    accepted: tuple[_Mark, ...],
    tally: _Tally,
) -> _Points:
    """Read the points (K, 2), original image pixels, from a list x, y, visibility, x, y ... of the names.

    Marks of the kinds `accepted` are landmarks. NaN if a point is missing or bad.
    """
    points = np.full((len(builder.landmark_names), 2), np.nan)
    if values is None or values == []:
        return points  # a box or an outline alone
    if not isinstance(values, list) or len(values) != 3 * len(names):
        number = f"{len(values)} numbers" if isinstance(values, list) else shorten(values)
        expected = f"{3 * len(names)} (x, y, visibility of {len(names)} landmarks)"
        tally.wrong_lists.setdefault(f"keypoints are {number} instead of {expected}", []).append(where)
        return points
    index_of = {name: index for index, name in enumerate(builder.landmark_names)}
    for place, name in enumerate(names):
        x, y, visibility = values[3 * place : 3 * place + 3]
        mark = _judge(x, y, visibility)
        tally.marks[mark][name] += 1
        if mark in accepted:
            points[index_of[name]] = x, y
        elif mark == "bad":
            builder.report(
                where,
                f"landmark {name} is {shorten([x, y, visibility])}; it is masked",
                "write x and y as numbers, and a visibility of 0, 1 or 2",
            )
    return points


def _judge(x: Any, y: Any, visibility: Any) -> _Mark:
    has_numbers = is_number(x) and is_number(y)
    if visibility not in (0, 1, 2) or (visibility != 0 and not has_numbers):
        return "bad"
    if not has_numbers or (x == 0 and y == 0):
        return "missing" if visibility == 0 else "at 0, 0"
    return "unlabelled" if visibility == 0 else "marked"


def _report_visibility(
    builder: AnnotationsBuilder, table: Table, marks: Mapping[_Mark, Counter[str]], visibility_counts: bool
) -> None:
    """Report how landmarks were read whose visibility and coordinates contradict each other."""
    if at_origin := marks.get("at 0, 0"):
        builder.report(
            table.path,
            "visibility 1 or 2 at 0, 0, where tools write what is missing; taken as missing: "
            + _list_marks(at_origin),
            "write visibility 0 there; for a landmark that is truly in the corner write 0.1, 0.1",
        )
    unlabelled = marks.get("unlabelled")
    if unlabelled and visibility_counts:
        builder.report(
            table.path,
            f"visibility 0 (not labelled) with coordinates; taken as missing: {_list_marks(unlabelled)}",
            "write visibility 1 or 2 for those that are marked",
        )
    elif unlabelled:
        builder.report(
            table.path,
            "no landmark of the data set has visibility 1 or 2; those with coordinates are taken as marked: "
            + _list_marks(unlabelled),
            "write visibility 2 for those that are marked, and 0, 0, 0 for those that are missing",
        )


def _list_marks(marks: Counter[str]) -> str:
    listed = [f"{name} ({number} x)" for name, number in marks.most_common(5)]
    return ", ".join(listed) + (" ..." if len(marks) > len(listed) else "")
