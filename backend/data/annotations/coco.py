"""COCO keypoints, as CVAT, Label Studio and Roboflow export them: one instance an image.

JSON files with `images`, `annotations` and `categories` of which at least one names `keypoints`, beside the images,
in `annotations/`, or in a folder named after a split. An image is looked for under its `file_name`, then under the
last part of that, in: the JSON's folder, the root, `images/`, and those folders in the root or in `images/` that the
JSON's name ends with (`person_keypoints_train2017.json`: `train2017/`) or that are named after the same split.

- Splits: the one word of train, val, valid, test ... in the JSON's name, else in its folder's, else "train". Files that
  all name one other split are all there is, and "train" too.
- Categories with the same landmarks are taken together; of several sets of landmarks the one with the most instances is
  taken. Of files with these landmarks that are about the same images, the first one by name counts.
- Our networks find one instance an image: the one with the most landmarks, then the largest area; never a crowd.
- Visibility 0 is a missing landmark, 1 (hidden) and 2 (seen) are landmarks.
- Coordinates are taken as they stand. COCO's are indices of pixels counted from 0 (https://cocodataset.org/#format-data;
  its own are whole numbers), so a pixel's centre is an integer, as in our frame. A tool that measures from the outer
  corner of the first pixel writes all points half a pixel larger, and they stay so.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as shorten
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from backend.data.annotations.coco_files import (
    EXPORT_AGAIN,
    Names,
    Table,
    image_folders,
    json_files,
    key_of,
    load,
    looks_right,
    named_split,
    root_of,
)
from backend.data.annotations.draft import Draft, is_file
from backend.data.annotations.table import Annotations
from backend.errors import UserError

READER_NAME = "annotator"

Size = tuple[float, float]


@dataclass(frozen=True)
class _Image:
    name: str
    path: Path | None  # None: not found
    written_hw: Size | None


@dataclass(frozen=True)
class _Instance:
    id: str
    points_xy_image: npt.NDArray[np.float64]  # (K, 2)
    area: float

    @property
    def num_landmarks(self) -> int:
        return int(np.isfinite(self.points_xy_image[:, 0]).sum())


def matches(path: Path) -> bool:
    return any(map(looks_right, json_files(path)))


def read(path: Path) -> Annotations:
    draft = Draft("coco", root_of(path), reader_names=(READER_NAME,))
    if path.is_file():
        files = [Path(os.path.normpath(path.absolute()))]
    else:
        files = list(filter(looks_right, json_files(draft.root)))
    if not files:
        raise UserError(
            f"no JSON file with images, annotations and categories with keypoints in {path}",
            field="dataset_path",
            cure="give the folder that holds it, or the file itself",
        )
    tables = [load(file) for file in files]
    draft.landmark_names = _choose_landmarks(draft, tables)
    tables = [table for table in tables if draft.landmark_names in table.titles]
    splits = _assign_splits(draft, [table.path for table in tables])
    first_file: dict[Path, Path] = {}
    for table, split in zip(tables, splits, strict=True):
        _add_images(draft, table, split, first_file)
    return draft.finish("convert to wide CSV with a column mm_per_px if it is known")


def _assign_splits(draft: Draft, files: list[Path]) -> list[str]:
    splits = [named_split(draft.root, file) or "train" for file in files]
    if set(splits) not in ({"valid"}, {"test"}):
        return splits
    draft.report(
        draft.root.name,
        f"by their names all annotations are {splits[0]}; they are taken as train",
        "add those to train on, or mind that these are trained on",
    )
    return ["train"] * len(splits)


# Landmarks


def _choose_landmarks(draft: Draft, tables: list[Table]) -> Names:
    """Those with the most annotated instances; categories with other ones are reported."""
    count: Counter[Names] = Counter()
    titles: dict[Names, list[str]] = {}
    for table in tables:
        for names, categories in table.titles.items():
            count[names] += 0
            titles.setdefault(names, []).extend(categories)
        for annotation in table.annotations:
            if isinstance(annotation, dict) and annotation.get("keypoints"):
                count[table.landmarks.get(key_of(annotation.get("category_id")), ())] += 1
    del count[()]
    if not count:
        raise UserError(
            f"{tables[0].path}: no category names keypoints",
            field="dataset_path",
            cure="export the annotations as COCO keypoints",
        )
    (chosen, _), *others = count.most_common()
    for names, num_instances in others:
        draft.report(
            draft.root.name,
            f"category {shorten(', '.join(dict.fromkeys(titles[names])))} has other landmarks; "
            f"its {num_instances} instances are left out",
            "make a data set of each category",
        )
    return chosen


# Images and instances


def _add_images(draft: Draft, table: Table, split: str, first_file: dict[Path, Path]) -> None:
    """Hand over one file's images; `first_file` says which file brought an image, and learns of these."""
    images = _read_images(draft, table, first_file)
    instances = _read_instances(draft, table, images)
    empty = [image.name for key, image in images.items() if image and key not in instances]
    if empty:
        draft.report(
            table.path,
            f"{len(empty)} of {len(images)} images have no instance with a landmark and are left out: {shorten(empty)}",
            "annotate or remove them",
        )
    for key, found in instances.items():
        image = images[key]
        assert image is not None
        where = f"{draft.relative(table.path)} image {image.name!r}"
        if image.path is None:
            draft.report(where, "the image is missing", "add it beside the JSON file or in images/")
            continue
        best = max(found, key=lambda instance: (instance.num_landmarks, instance.area))
        if len(found) > 1:
            draft.report(
                where,
                f"{len(found)} instances; annotation {best.id} with {best.num_landmarks} landmarks was taken",
                "crop the images to one instance each",
            )
        draft.add_image(
            draft.relative(image.path),
            image.path,
            best.points_xy_image[None],
            split=split,
            written_hw=image.written_hw,
            where=where,
        )


def _read_images(draft: Draft, table: Table, first_file: dict[Path, Path]) -> dict[str, _Image | None]:
    """By id; None for what is known and left out, being useless or brought by an earlier file."""
    folders = image_folders(draft.root, table.path)
    images: dict[str, _Image | None] = {}
    taken: Counter[Path] = Counter()
    for number, entry in enumerate(table.images):
        where = f"{draft.relative(table.path)} images[{number}]"
        name = entry.get("file_name") if isinstance(entry, dict) else None
        key = key_of(entry.get("id")) if isinstance(entry, dict) else ""
        if not key or not isinstance(name, str) or not name.strip():
            draft.report(where, "no id and file_name; the image is left out", EXPORT_AGAIN)
            if key:
                images[key] = None
            continue
        if key in images:
            # Whose annotations are they? Neither image can be trusted.
            draft.report(where, f"id {key} stands there twice; both images are left out", EXPORT_AGAIN)
            images[key] = None
            continue
        path = _find_image(folders, name.strip().replace("\\", "/"))
        earlier = first_file.setdefault(path, table.path) if path else table.path
        taken[earlier] += 1
        images[key] = _Image(name, path, _written_size(entry)) if earlier == table.path else None
    del taken[table.path]
    for file, times in taken.items():
        draft.report(
            table.path,
            f"{times} of {len(images)} images stand in {draft.relative(file)} too, which counts; "
            "here they are left out",
            "keep one file an image, or give the path of the file itself",
        )
    return images


def _find_image(folders: list[Path], name: str) -> Path | None:
    # The last part alone, where the name tells of folders on the machine that wrote it.
    for part in dict.fromkeys((name, name.rsplit("/", 1)[-1])):
        for folder in folders:
            if is_file(path := Path(os.path.normpath(folder / part))):
                return path
    return None


def _written_size(entry: Mapping[str, Any]) -> Size | None:
    """(height, width) that the file states, px; None where it states none."""
    height, width = entry.get("height"), entry.get("width")
    return (height, width) if _is_number(height) and _is_number(width) and min(height, width) > 0 else None


def _read_instances(
    draft: Draft, table: Table, images: Mapping[str, _Image | None]
) -> dict[str, list[_Instance]]:
    """Those with a landmark, by id of an image that is in use."""
    instances: dict[str, list[_Instance]] = {}
    for number, annotation in enumerate(table.annotations):
        where = f"{draft.relative(table.path)} annotations[{number}]"
        if not isinstance(annotation, dict):
            draft.report(where, "no annotation; it is left out", EXPORT_AGAIN)
            continue
        category, key = annotation.get("category_id"), key_of(annotation.get("image_id"))
        if key_of(category) not in table.landmarks:
            draft.report(where, f"category_id {shorten(category)} is unknown; it is left out", EXPORT_AGAIN)
        elif table.landmarks[key_of(category)] != draft.landmark_names or annotation.get("iscrowd") == 1:
            continue
        elif key not in images:
            image_id = shorten(annotation.get("image_id"))
            draft.report(where, f"image_id {image_id} is unknown; it is left out", EXPORT_AGAIN)
        elif images[key]:
            points = _read_points(draft, annotation.get("keypoints"), where)
            if np.isfinite(points).any():
                shown = key_of(annotation.get("id")) or f"annotations[{number}]"
                instances.setdefault(key, []).append(_Instance(shown, points, _area_of(annotation)))
    return instances


def _area_of(annotation: Mapping[str, Any]) -> float:
    """As stated, else that of the box, px^2; 0 where there is neither."""
    area, box = annotation.get("area"), annotation.get("bbox")
    if _is_number(area):
        return float(area)
    if isinstance(box, list) and len(box) == 4 and all(map(_is_number, box)):
        return float(box[2] * box[3])
    return 0.0


def _read_points(draft: Draft, values: Any, where: str) -> npt.NDArray[np.float64]:
    """(K, 2), original image pixels, of the list x, y, visibility, x, y ...; NaN where missing or bad."""
    points = np.full((len(draft.landmark_names), 2), np.nan)
    if values is None or values == []:
        return points  # a box or an outline alone
    if not isinstance(values, list) or len(values) != 3 * len(points):
        number = f"{len(values)} numbers" if isinstance(values, list) else shorten(values)
        wanted = f"{3 * len(points)} (x, y, visibility of {len(points)} landmarks)"
        draft.report(where, f"keypoints are {number} instead of {wanted}; it is left out", EXPORT_AGAIN)
        return points
    for index, name in enumerate(draft.landmark_names):
        x, y, visibility = values[3 * index : 3 * index + 3]
        if visibility in (1, 2) and _is_number(x) and _is_number(y):
            points[index] = x, y
        elif visibility != 0:
            draft.report(
                where,
                f"landmark {name} is {shorten([x, y, visibility])}; it is masked",
                "write x and y as numbers, and a visibility of 0, 1 or 2",
            )
    return points


def _is_number(value: Any) -> TypeGuard[float]:
    # The limit also keeps whole numbers out that no float can hold.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9
