"""The landmarks of COCO's categories, and the categories that mark one object together.

A category names its landmarks. Some tools make a category of each landmark instead, whose one keypoint has
the same name in all of them, or none; and annotators may have shared the landmarks of one category between
them. Such categories are parts of one object if most images that they mark are marked by more than one of
them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from reprlib import repr as shorten

from backend.data.annotations.builder import AnnotationsBuilder
from backend.data.annotations.coco_files import Category, Names, Table, key_of
from backend.errors import UserError


def choose_landmarks(builder: AnnotationsBuilder, tables: list[Table]) -> list[Table]:
    """Give the builder the landmarks with the most annotated instances, and report the others.

    Returns the tables that have these landmarks; in them, categories with other landmarks have none any more.
    Raises UserError if no category has landmarks.
    """
    tables = _name_by_title([_name_single_points(table) for table in tables])
    parts_of = _join_parts(tables)
    if not parts_of:
        raise UserError(
            f"{tables[0].path}: no category names keypoints",
            field="dataset_path",
            cure="export the annotations as COCO keypoints",
        )
    categories = (table.category_of(annotation) for table in tables for annotation in table.annotations)
    count = Counter(category.names for category in categories if category)
    # Each part is marked once per object, so the part that is marked most often says how many objects there
    # are.
    chosen, *others = sorted(parts_of, key=lambda names: -max(count[part] for part in parts_of[names]))
    for names in others:
        builder.report(
            builder.root.name,
            f"category {_titles_of(tables, parts_of[names])} has other landmarks; "
            f"its {sum(count[part] for part in parts_of[names])} instances are left out",
            "make a data set of each category",
        )
    parts = parts_of[chosen]
    if len(parts) > 1:
        builder.report(
            builder.root.name,
            f"categories {_titles_of(tables, parts)} mark the same images, each with landmarks of its own; "
            f"they are taken together as {len(chosen)} landmarks of one object",
            "where they are different objects, make a data set of each category",
        )
    builder.landmark_names = chosen
    tables = [
        _rename(table, lambda category: category.names if category.names in parts else ()) for table in tables
    ]
    return [table for table in tables if any(category.names for category in table.categories.values())]


def _titles_of(tables: list[Table], parts: list[Names]) -> str:
    categories = [category for table in tables for category in table.categories.values()]
    return shorten(
        ", ".join(dict.fromkeys(category.title for category in categories if category.names in parts))
    )


def _rename(table: Table, names_of: Callable[[Category], Names]) -> Table:
    renamed = {key: replace(category, names=names_of(category)) for key, category in table.categories.items()}
    return replace(table, categories=renamed)


def _name_single_points(table: Table) -> Table:
    """Make a category a landmark if it names no keypoints and its annotations all have a single one."""
    lengths: dict[Category, set[int]] = {}
    for annotation in table.annotations:
        if (category := table.category_of(annotation)) and isinstance(annotation["keypoints"], list):
            lengths.setdefault(category, set()).add(len(annotation["keypoints"]))
    return _rename(
        table, lambda category: category.names or ((category.title,) if lengths.get(category) == {3} else ())
    )


def _name_by_title(tables: list[Table]) -> list[Table]:
    """Take titles as landmarks if categories mark the same images with one keypoint of one name."""
    images = _images_of(tables)
    single: dict[Names, list[Category]] = {}
    for category in images:
        if len(category.names) == 1:
            single.setdefault(category.names, []).append(category)
    apart = {names for names, categories in single.items() if _share_images(images, categories)}
    return [
        _rename(table, lambda category: (category.title,) if category.names in apart else category.names)
        for table in tables
    ]


def _join_parts(tables: list[Table]) -> dict[Names, list[Names]]:
    """Map all landmarks of an object to those of its parts; itself if one category marks them all."""
    images = _images_of(tables)
    by_title: dict[str, list[Category]] = {}
    for category in images:
        by_title.setdefault(category.title, []).append(category)
    groups = [[category for category in images if len(category.names) == 1], *by_title.values()]
    parts_of: dict[Names, list[Names]] = {}
    joined: dict[Names, Names] = {}
    for group in groups:
        parts = list(dict.fromkeys(category.names for category in group if category.names not in joined))
        if len(parts) > 1 and _share_images(images, group):
            joined |= dict.fromkeys(parts, tuple(dict.fromkeys(name for part in parts for name in part)))
    for category in images:
        parts = parts_of.setdefault(joined.get(category.names, category.names), [])
        if category.names not in parts:
            parts.append(category.names)
    return parts_of


def _images_of(tables: list[Table]) -> dict[Category, set[str]]:
    """List the names of the images that each category with landmarks marks; ids may differ between files."""
    images: dict[Category, set[str]] = {}
    for table in tables:
        images |= {
            category: images.get(category, set()) for category in table.categories.values() if category.names
        }
        names = {
            key_of(entry.get("id")): str(entry.get("file_name"))
            for entry in table.images
            if isinstance(entry, dict)
        }
        for annotation in table.annotations:
            if (category := table.category_of(annotation)) and category.names:
                images[category].add(names.get(key_of(annotation.get("image_id")), ""))
    return images


def _share_images(images: dict[Category, set[str]], categories: Iterable[Category]) -> bool:
    """Whether at least half of the images that categories mark are marked by more than one of them."""
    times = Counter(name for category in categories for name in images[category])
    return 0 < len(times) <= 2 * sum(number > 1 for number in times.values())
