"""COCO keypoints, as CVAT, Label Studio and Roboflow export them: one instance per image.

JSON files with `images`, `annotations` and `categories` of which at least one names `keypoints`, beside the
images, in `annotations/`, or in a folder named after a split. An image is looked for under its `file_name`,
then under names that are nearly the same (`image_names`), in: the JSON's folder, the root, `images/`, and
those folders in the root or in `images/` that the JSON's name ends with (`person_keypoints_train2017.json`:
`train2017/`) or that are named after the same split.

- Splits: the one word of train, val, valid, test ... in the JSON's name, else in its folder's, else "train".
  Files that all name one other split are taken as "train".
- Ids are compared as text: 7, 7.0, "7" and "7.0" are the same.
- Categories with the same landmarks are taken together. So are those that mark the same images with a
  landmark each, or under one name with landmarks of their own: these are parts of one instance
  (`coco_landmarks`). Of several sets of landmarks the one with the most instances is taken.
- Our networks find one instance per image: the one with the most landmarks, then the largest area; never a
  crowd. In a file whose annotations all mark one landmark of several, those of an image are one instance.
- What several files, or several entries of one file, state about an image is joined. If it is contradictory
  (a landmark at two places more than half a pixel apart, another split, another size), the first file by name
  counts.
- Visibility 1 (hidden) and 2 (seen) are landmarks, but at 0, 0, where tools write what is missing. Visibility
  0 is a missing landmark, whatever its coordinates, unless no landmark of the data set has another
  visibility: then those with coordinates other than 0, 0 are landmarks.
- Coordinates are used as they are. COCO's are indices of pixels counted from 0
  (https://cocodataset.org/#format-data; its own are whole numbers), so a pixel's center is an integer, as in
  our frame. A tool that measures from the outer corner of the first pixel writes all points half a pixel
  larger, and that is not corrected.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as shorten
from typing import Any

from backend.data.annotations.builder import AnnotationsBuilder
from backend.data.annotations.coco_files import (
    Table,
    image_folders,
    is_number,
    key_of,
    load,
    looks_right,
    named_split,
    root_of,
)
from backend.data.annotations.coco_instances import (
    Instance,
    assemble,
    read_instances,
    uses_visibility,
)
from backend.data.annotations.coco_landmarks import choose_landmarks
from backend.data.annotations.image_names import ImageMatch, ImageQuery
from backend.data.annotations.joining import Contradictions, join_points
from backend.data.annotations.json_files import EXPORT_AGAIN, json_files
from backend.data.annotations.table import Annotations
from backend.errors import UserError

READER_NAME = "annotator"

Size = tuple[float, float]


@dataclass(frozen=True)
class _Image:
    name: str
    query: ImageQuery
    match: ImageMatch
    written_hw: Size | None


@dataclass(frozen=True)
class _Entry:
    """An image as one file lists it, with its instances."""

    image: _Image
    file: Path
    split: str
    where: str
    instances: list[Instance]

    @property
    def place(self) -> Path | str:
        """The image's file, or the name of an image that was not found."""
        return self.image.match.path or self.where


def matches(path: Path) -> bool:
    return any(map(looks_right, json_files(path)))


def read(path: Path) -> Annotations:
    builder = AnnotationsBuilder("coco", root_of(path), reader_names=(READER_NAME,))
    if path.is_file():
        files = [Path(os.path.normpath(path.absolute()))]
    else:
        files = list(filter(looks_right, json_files(builder.root)))
    if not files:
        raise UserError(
            f"no JSON file with images, annotations and categories with keypoints in {path}",
            field="dataset_path",
            cure="give the folder that holds it, or the file itself",
        )
    tables = choose_landmarks(builder, [load(file) for file in files])
    splits = _assign_splits(builder, [table.path for table in tables])
    _add_images(builder, _read_entries(builder, tables, splits))
    return builder.finish("convert to wide CSV with a column mm_per_px if it is known")


def _assign_splits(builder: AnnotationsBuilder, files: list[Path]) -> list[str]:
    splits = [named_split(builder.root, file) or "train" for file in files]
    if set(splits) not in ({"valid"}, {"test"}):
        return splits
    builder.report(
        builder.root.name,
        f"by their names all annotations are {splits[0]}; they are taken as train",
        "add images to train on, or keep in mind that these are trained on",
    )
    return ["train"] * len(splits)


# Images


def _read_entries(builder: AnnotationsBuilder, tables: list[Table], splits: list[str]) -> list[_Entry]:
    """Read the images of every file that have an instance with a landmark."""
    visibility_counts = uses_visibility(tables)
    listed = _read_images(builder, tables)
    entries: list[_Entry] = []
    for table, split, images in zip(tables, splits, listed, strict=True):
        for key, instances in read_instances(builder, table, images, visibility_counts).items():
            image = images[key]
            assert image is not None
            entries.append(_Entry(image, table.path, split, _place_of(builder, table, image), instances))
    _report_empty(builder, tables, listed, entries)
    return entries


def _report_empty(
    builder: AnnotationsBuilder,
    tables: list[Table],
    listed: list[dict[str, _Image | None]],
    entries: list[_Entry],
) -> None:
    """Report images that no file has a landmark for, under the first file that lists them."""
    done = {entry.place for entry in entries}
    for table, images in zip(tables, listed, strict=True):
        empty: list[str] = []
        for image in filter(None, images.values()):
            place = image.match.path or _place_of(builder, table, image)
            if place not in done:
                done.add(place)
                empty.append(image.name)
        if empty:
            builder.report(
                table.path,
                f"{len(empty)} of {len(images)} images have no instance with a landmark and are left out: "
                f"{shorten(empty)}",
                "annotate or remove them",
            )


def _place_of(builder: AnnotationsBuilder, table: Table, image: _Image) -> str:
    return f"{builder.relative(table.path)} image {image.name!r}"


def _read_images(builder: AnnotationsBuilder, tables: list[Table]) -> list[dict[str, _Image | None]]:
    """Read each file's images by id; None for one that is left out."""
    folders = [tuple(image_folders(builder.root, table.path)) for table in tables]
    match_of = builder.find_images(
        ImageQuery.of(name, *places)
        for table, places in zip(tables, folders, strict=True)
        for entry in table.images
        if (name := _name_of(entry))
    )
    return [
        _read_images_of(builder, table, places, match_of)
        for table, places in zip(tables, folders, strict=True)
    ]


def _read_images_of(
    builder: AnnotationsBuilder,
    table: Table,
    folders: tuple[Path, ...],
    match_of: Mapping[ImageQuery, ImageMatch],
) -> dict[str, _Image | None]:
    images: dict[str, _Image | None] = {}
    for number, entry in enumerate(table.images):
        where = f"{builder.relative(table.path)} images[{number}]"
        name = _name_of(entry)
        key = key_of(entry.get("id")) if isinstance(entry, dict) else ""
        if not key or not name:
            builder.report(where, "no id and file_name; the image is left out", EXPORT_AGAIN)
            if key:
                images[key] = None
            continue
        if key in images:
            # Whose annotations are they? Neither image can be trusted.
            builder.report(where, f"id {key} is there twice; both images are left out", EXPORT_AGAIN)
            images[key] = None
            continue
        query = ImageQuery.of(name, *folders)
        images[key] = _Image(name, query, match_of[query], _written_size(entry))
    return images


def _name_of(entry: Any) -> str:
    """Return the file_name of an entry of images, "" if it has none."""
    name = entry.get("file_name") if isinstance(entry, dict) else None
    return name if isinstance(name, str) and name.strip() else ""


def _written_size(entry: Mapping[str, Any]) -> Size | None:
    """Return the (height, width) that the file states, px; None if it states none."""
    height, width = entry.get("height"), entry.get("width")
    return (height, width) if is_number(height) and is_number(width) and min(height, width) > 0 else None


# Several entries of one image


def _add_images(builder: AnnotationsBuilder, entries: list[_Entry]) -> None:
    by_place: dict[Path | str, list[_Entry]] = {}
    for entry in entries:
        by_place.setdefault(entry.place, []).append(entry)
    contradictions = Contradictions()
    for first, *others in by_place.values():
        path = builder.accept(first.where, first.image.query, first.image.match)
        if path is None:
            continue
        points = assemble(builder, first.instances, first.where)
        joined_instances = list(first.instances)
        for entry in others:
            new = [
                instance for instance in entry.instances if not any(map(instance.equals, joined_instances))
            ]
            joined_instances += new
            joined, differs = join_points([points, assemble(builder, new, entry.where)])
            if contradiction := _contradiction(builder, first, entry, differs=bool(differs.any())):
                contradictions.add(entry.file, *contradiction, entry.image.name)
            else:
                points = joined
        builder.add_image(
            builder.relative(path),
            path,
            points[None],
            split=first.split,
            written_hw=first.image.written_hw,
            where=first.where,
        )
    contradictions.report(builder, Counter(entry.file for entry in entries))


def _contradiction(
    builder: AnnotationsBuilder, first: _Entry, entry: _Entry, *, differs: bool
) -> tuple[str, str] | None:
    """Say how an entry contradicts the first one of its image, and the cure; None if they can be joined."""
    earlier = "an earlier entry of the image" if first.file == entry.file else builder.relative(first.file)
    sizes = first.image.written_hw, entry.image.written_hw
    if first.split != entry.split:
        return (
            f"split {entry.split} instead of {first.split} as in {earlier}",
            "list an image in one split only",
        )
    if all(sizes) and sizes[0] != sizes[1]:
        return f"another size than in {earlier}", "use the images that were annotated, unchanged"
    if differs:
        return f"landmarks at other places than in {earlier}", "correct or remove those that are wrong"
    return None
