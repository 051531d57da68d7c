"""Recognize and check the JSON files of COCO keypoints, and find their images' folders; see `coco`."""

from __future__ import annotations

import math
import os
import re
import unicodedata
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from backend.data.annotations.json_files import (
    EXPORT_AGAIN,
    folders_in,
    has_signs,
    json_files,
    load_json,
    split_of,
    without_path,
)
from backend.errors import UserError

# What a file must hold somewhere to be looked at. Only a category has keypoints that begin with a name; an
# annotation of one single point needs none, its category is the landmark.
_NUMBER = rb"\s*-?\d[-+.\deE]*\s*"
_SIGNS = (
    rb'"images"\s*:\s*\[',
    rb'"annotations"\s*:\s*\[',
    rb'"keypoints"\s*:\s*\[(\s*"|' + _NUMBER + rb"," + _NUMBER + rb"," + _NUMBER + rb"\])",
)
NO_TEXT = {"Cc", "Cs", "Zl", "Zp"}  # Unicode's categories of controls, halves of characters, ends of lines

Names = tuple[str, ...]


@dataclass(frozen=True)
class Category:
    title: str
    names: Names  # the landmarks that its annotations mark, () if none counts


@dataclass(frozen=True)
class Table:
    """One JSON file; of its lists, only the categories are checked."""

    path: Path
    images: list[Any]
    annotations: list[Any]
    categories: dict[str, Category]  # by id

    def category_of(self, annotation: Any) -> Category | None:
        """Return the category of an annotation with keypoints; None for others and if it is unknown."""
        if not isinstance(annotation, dict) or not annotation.get("keypoints"):
            return None
        return self.categories.get(key_of(annotation.get("category_id")))


def root_of(path: Path) -> Path:
    """Return the data set's folder, absolute, for a folder or a JSON file: the one above `annotations/`."""
    # without "..", as the images' paths below it are
    folder = Path(os.path.normpath((path.parent if path.is_file() else path).absolute()))
    return folder.parent if folder.name.lower() == "annotations" else folder


def looks_right(file: Path) -> bool:
    """Whether the bytes mention keypoints."""
    return has_signs(file, _SIGNS)


def find_misses(path: Path) -> list[tuple[Path, str]]:
    """List the JSON files of a folder, or the file itself, that have no keypoints, with what each lacks."""
    misses = []
    for file in json_files(path):
        if looks_right(file):
            continue
        try:
            load(file)
        except UserError as error:
            misses.append((file, without_path(error, file)))
        else:
            misses.append((file, 'no category has a list "keypoints" of names'))
    return misses


def named_split(root: Path, file: Path) -> str:
    """The split that a JSON file's name mentions, else its folder's below the root, "" where neither does."""
    return split_of(file.stem) or (split_of(file.parent.name) if file.parent != root else "")


def image_folders(root: Path, file: Path) -> list[Path]:
    """List the folders in which the images of a JSON file may be, likeliest first."""
    split = named_split(root, file)
    named = [
        folder
        for above in (root, root / "images")
        for folder in folders_in(above)
        if file.stem.endswith(folder.name) or (split and split_of(folder.name) == split)
    ]
    return list(dict.fromkeys((file.parent, root, root / "images", *named)))


def load(path: Path) -> Table:
    """The parsed file. Raises UserError with the place where it is damaged or not a COCO file."""
    content = load_json(path)
    lists: dict[str, list[Any]] = {}
    for name in ("images", "annotations", "categories"):
        entries = content.get(name) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise UserError(f'{path}: no list "{name}"', field="dataset_path", cure=EXPORT_AGAIN)
        lists[name] = entries
    categories: dict[str, Category] = {}
    for number, entry in enumerate(lists["categories"]):
        names = _names_of(entry, categories, f"{path} categories[{number}]")
        key = key_of(entry["id"])
        categories[key] = Category(_title_of(entry, key), names)
    return Table(path, lists["images"], lists["annotations"], categories)


def _title_of(category: dict[str, Any], key: str) -> str:
    name = category.get("name")
    return name.strip() if isinstance(name, str) and _is_one_line(name) else f"category {key}"


def _names_of(category: Any, other_ids: Container[str], where: str) -> Names:
    """Read the landmarks of a category, () if it has none."""
    names = (category.get("keypoints") or []) if isinstance(category, dict) else None
    if (
        not isinstance(names, list)
        or not all(isinstance(name, str) and _is_one_line(name) for name in names)
        or len({name.strip() for name in names}) < len(names)
        or (key := key_of(category.get("id"))) in other_ids
        or not key
    ):
        raise UserError(
            f"{where}: no category with an id of its own and different names of keypoints",
            field="dataset_path",
            cure="give every category an id and every keypoint a name of its own, and export again",
        )
    return tuple(name.strip() for name in names)


def _is_one_line(name: str) -> bool:
    """Whether it is one line of text; characters without a shape, such as Persian joiners, are text."""
    return bool(name.strip()) and not NO_TEXT & {unicodedata.category(character) for character in name}


def key_of(value: Any) -> str:
    """Return an id as text, equal for 7, 7.0, "7" and "7.0", as tools write it; "" if it cannot be one."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        # A table with an empty cell in its column of ids makes floats of them.
        return str(int(value)) if value.is_integer() else str(value)
    # "007" is a name and stays as it is
    return re.sub(r"^(-?\d+)\.0+$", r"\1", value.strip()) if isinstance(value, str) else ""


def is_number(value: Any) -> TypeGuard[float]:
    """Whether it can be a coordinate or a size; the limit excludes whole numbers that no float can hold."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9
