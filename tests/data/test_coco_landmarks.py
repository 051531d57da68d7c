"""Which landmarks COCO's categories have, and which of them are parts of one object."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.data.annotations import Annotations, detect_format, read_annotations
from tests.data.coco_json import build, category, coco, image, instance, problems, write_image, write_json

NAMES = ("alpha", "beta", "gamma", "delta")


def titled(id: int, title: str, names: Any) -> dict[str, Any]:
    """A category with a name; without the field `keypoints` where `names` is "absent"."""
    entry = {**category(id, names), "name": title}
    return {key: value for key, value in entry.items() if value != "absent"}


def place(image_id: int, number: int) -> list[float]:
    return [10.0 * number + image_id, 5.0 * number]


def mark(image_id: int, number: int, **more: Any) -> dict[str, Any]:
    """The annotation of one landmark, by its number from 1, which is its category too."""
    return instance(image_id, [*place(image_id, number), 2], category_id=number, id=number, **more)


def places(*image_ids: int) -> list[list[list[float]]]:
    return [[place(id, number) for number in range(1, 5)] for id in image_ids]


def assert_four(annotations: Annotations, *image_ids: int) -> None:
    assert annotations.landmark_names == NAMES
    np.testing.assert_array_equal(annotations.points_xy_image[:, 0], places(*image_ids))


@pytest.mark.parametrize(
    "keypoints_of",
    [lambda name: [name], lambda name: ["point"], lambda name: [], lambda name: None, lambda name: "absent"],
    ids=["the landmark's name", "one name for all", "no keypoints", "null", "no field"],
)
def test_a_category_per_landmark_is_one_object(tmp_path: Path, keypoints_of: Any) -> None:
    categories = [titled(number, name, keypoints_of(name)) for number, name in enumerate(NAMES, 1)]
    marks = [mark(id, number) for id in (1, 2) for number in range(1, 5)]
    build(tmp_path, [image(1), image(2)], marks, *categories)
    assert detect_format(tmp_path) == "coco"
    annotations = read_annotations(tmp_path)
    assert_four(annotations, 1, 2)
    (told,) = problems(annotations)
    assert "each with landmarks of its own; they are taken together as 4 landmarks" in told


def test_a_landmark_without_an_annotation_is_missing_there(tmp_path: Path) -> None:
    categories = [titled(number, name, ["point"]) for number, name in enumerate(NAMES, 1)]
    marks = [mark(1, 1), mark(1, 3), mark(2, 2), mark(2, 4), mark(3, 1)]
    build(tmp_path, [image(id) for id in (1, 2, 3)], marks, *categories)
    annotations = read_annotations(tmp_path)
    assert annotations.landmark_names == NAMES
    expected = np.array(places(1, 2, 3))
    expected[[0, 0, 1, 1, 2, 2, 2], [1, 3, 0, 2, 1, 2, 3]] = np.nan
    np.testing.assert_array_equal(annotations.points_xy_image[:, 0], expected)


def test_a_landmark_marked_at_two_places_is_masked(tmp_path: Path) -> None:
    categories = [titled(number, name, [name]) for number, name in enumerate(NAMES, 1)]
    marks = [mark(1, number) for number in (1, 2, 3, 4, 4)]  # twice at one place is no contradiction
    marks.append(instance(1, [50, 50, 2], category_id=2))
    build(tmp_path, [image(1)], marks, *categories)
    annotations = read_annotations(tmp_path)
    expected = np.array(places(1))
    expected[0, 1] = np.nan
    np.testing.assert_array_equal(annotations.points_xy_image[:, 0], expected)
    assert "image '1.png': landmarks at several places, masked: beta" in problems(annotations)[1]


def test_two_annotators_with_landmarks_of_their_own(tmp_path: Path) -> None:
    """Their categories have one name, and mark the same images under other ids."""
    shared = {"anna": ("alpha", "beta"), "ben": ("gamma", "delta")}
    for file, (name, names) in enumerate(shared.items()):
        found = [
            instance(id + 10 * file, [*place(id, 2 * file + 1), 2, *place(id, 2 * file + 2), 2])
            for id in (1, 2)
        ]
        images = [image(id + 10 * file, f"{id}.png") for id in (1, 2)]
        write_json(
            tmp_path / f"annotations/{name}.json", coco(images, found, titled(1, "thing", list(names)))
        )
    for id in (1, 2):
        write_image(tmp_path / f"images/{id}.png")
    annotations = read_annotations(tmp_path)
    assert_four(annotations, 1, 2)
    (told,) = problems(annotations)
    assert "categories 'thing' mark the same images" in told


@pytest.mark.parametrize("names", [["center"], ["center", "tip"]])
def test_categories_of_objects_that_are_never_together_are_the_same_object(
    tmp_path: Path, names: list[str]
) -> None:
    dog, cat = titled(1, "dog", names), titled(2, "cat", names)
    points = [5, 6, 2] * len(names)
    build(tmp_path, [image(1), image(2)], [instance(1, points), instance(2, points, category_id=2)], dog, cat)
    annotations = read_annotations(tmp_path)
    assert annotations.landmark_names == tuple(names) and len(annotations.images) == 2
    assert problems(annotations) == []


def test_categories_with_other_landmarks_in_other_images_stay_apart(tmp_path: Path) -> None:
    categories = titled(1, "thing", ["alpha", "beta"]), titled(2, "thing", ["gamma", "delta"])
    points = [5, 6, 2, 7, 8, 2]
    found = [instance(1, points), instance(2, points), instance(3, points, category_id=2)]
    build(tmp_path, [image(id) for id in (1, 2, 3)], found, *categories)
    annotations = read_annotations(tmp_path)
    assert annotations.landmark_names == ("alpha", "beta") and len(annotations.images) == 2
    assert "category 'thing' has other landmarks; its 1 instances are left out" in problems(annotations)[0]


def test_one_category_of_one_nameless_point(tmp_path: Path) -> None:
    build(tmp_path, [image(1)], [instance(1, [5, 6, 2])], titled(1, "thumb", []))
    annotations = read_annotations(tmp_path)
    assert annotations.landmark_names == ("thumb",) and problems(annotations) == []
