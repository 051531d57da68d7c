"""What visibility says in COCO files, and what several files say of one image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.data.annotations import read_annotations
from backend.errors import UserError
from tests.data.coco_json import (
    MISSING,
    POINTS,
    build,
    category,
    coco,
    image,
    instance,
    problems,
    splits,
    write_image,
    write_json,
)

nan = np.nan


# Visibility


@pytest.mark.parametrize("where", [[3, 4], [0, 4], [3.5, 0]], ids=str)
@pytest.mark.parametrize("zero", [0, 0.0])
def test_visibility_0_with_coordinates_is_missing_and_reported(
    tmp_path: Path, where: list[float], zero: float
) -> None:
    build(tmp_path, [image(1), image(2)], [instance(1), instance(2, [*where, zero, *POINTS[3:]])])
    annotations = read_annotations(tmp_path)
    np.testing.assert_array_equal(annotations.points_xy_image[1, 0, :2], [[nan, nan], [30.5, 40]])
    (told,) = problems(annotations)
    assert told.startswith(
        "result.json: visibility 0 (not labelled) with coordinates; taken as missing: nose (1 x)"
    )
    assert "write visibility 1 or 2" in told


def test_visibility_0_says_nothing_where_no_landmark_has_another(tmp_path: Path) -> None:
    points = [10, 20, 0, *MISSING, 50, 5, 0]
    build(tmp_path, [image(1), image(2)], [instance(1, points), instance(2, points)])
    annotations = read_annotations(tmp_path)
    np.testing.assert_array_equal(annotations.points_xy_image[:, 0], [[[10, 20], [nan, nan], [50, 5]]] * 2)
    (told,) = problems(annotations)
    assert (
        "no landmark of the data set has visibility 1 or 2; those with coordinates are taken as marked"
        in told
    )
    assert "nose (2 x), tail (2 x)" in told


@pytest.mark.parametrize("visibility", [1, 2, 2.0])
@pytest.mark.parametrize("origin", [[0, 0], [0.0, -0.0]])
def test_0_0_is_missing_whatever_its_visibility(
    tmp_path: Path, visibility: float, origin: list[float]
) -> None:
    build(tmp_path, [image(1)], [instance(1, [*origin, visibility, 0, 40, 2, 50, 0, 1])])
    annotations = read_annotations(tmp_path)
    np.testing.assert_array_equal(annotations.points_xy_image[0, 0], [[nan, nan], [0, 40], [50, 0]])
    (told,) = problems(annotations)
    assert told.startswith("result.json: visibility 1 or 2 at 0, 0, where tools write what is missing")
    assert "taken as missing: nose (1 x); write visibility 0 there" in told


def test_an_instance_with_nothing_but_0_0_has_no_landmark(tmp_path: Path) -> None:
    build(tmp_path, [image(1)], [instance(1, [0, 0, 2] * 3)])
    with pytest.raises(UserError, match=r"visibility 1 or 2 at 0, 0[^\n]*nose \(1 x\)"):
        read_annotations(tmp_path)


# An annotation per landmark


def single(image_id: int, number: int, **more: Any) -> dict[str, Any]:
    """An annotation of the category with all landmarks that marks one of them."""
    points = [POINTS[3 * index : 3 * index + 3] if index == number else MISSING for index in range(3)]
    return instance(image_id, [value for point in points for value in point], **more)


def test_an_annotation_per_landmark_of_one_category(tmp_path: Path) -> None:
    found = [single(1, 0), single(1, 1), single(1, 2), single(2, 1), single(3, 0), single(3, 2)]
    build(tmp_path, [image(id) for id in (1, 2, 3)], found)
    annotations = read_annotations(tmp_path)
    expected = np.array([np.reshape(POINTS, (3, 3))[:, :2]] * 3)
    expected[[1, 1, 2], [0, 2, 1]] = nan
    np.testing.assert_array_equal(annotations.points_xy_image[:, 0], expected)
    (told,) = problems(annotations)
    assert told.startswith(
        "result.json: every annotation marks one landmark; those of an image are taken together"
    )


def test_instances_of_one_landmark_beside_larger_ones_stay_instances(tmp_path: Path) -> None:
    build(tmp_path, [image(1), image(2)], [single(1, 0), single(1, 1, id=7, area=9), instance(2)])
    annotations = read_annotations(tmp_path)
    assert np.isfinite(annotations.points_xy_image[0, 0, :, 0]).tolist() == [False, True, False]
    (told,) = problems(annotations)
    assert "2 instances; annotation 7 with 1 landmarks was taken" in told


# Several files about the same images


def write_files(folder: Path, **files: Any) -> None:
    """JSON files in `annotations/` that all list the images 0 to 3, each with its annotations."""
    for number in range(4):
        write_image(folder / f"images/{number}.png")
    for name, found in files.items():
        write_json(folder / f"annotations/{name}.json", coco([image(id) for id in range(4)], found))


def test_files_that_list_all_images_with_half_of_the_annotations_each(tmp_path: Path) -> None:
    write_files(tmp_path, anna=[instance(0), instance(1)], ben=[instance(2), instance(3)])
    annotations = read_annotations(tmp_path)
    assert list(annotations.images["image_id"]) == [f"images/{number}.png" for number in range(4)]
    assert np.isfinite(annotations.points_xy_image).all() and problems(annotations) == []


def test_an_image_that_no_file_annotates_is_reported_once(tmp_path: Path) -> None:
    write_files(tmp_path, anna=[instance(0), instance(1)], ben=[instance(2), instance(3, MISSING * 3)])
    assert problems(read_annotations(tmp_path)) == [
        "annotations/anna.json: 1 of 4 images have no instance with a landmark and are left out: ['3.png']; "
        "annotate or remove them"
    ]


def test_files_with_half_of_the_landmarks_each(tmp_path: Path) -> None:
    """What both have may differ as far as rounding to whole pixels moves it."""
    write_files(
        tmp_path,
        anna=[instance(id, [*POINTS[:6], *MISSING]) for id in range(4)],
        ben=[instance(id, [*MISSING, 31, 40.25, 2, *POINTS[6:]]) for id in range(4)],
    )
    annotations = read_annotations(tmp_path)
    np.testing.assert_array_equal(annotations.points_xy_image[:, 0], [[[10, 20], [30.5, 40], [50, 5]]] * 4)
    assert problems(annotations) == []


def test_of_files_that_contradict_each_other_the_first_by_name_counts(tmp_path: Path) -> None:
    moved = [value + 1 for value in POINTS[:2]] + POINTS[2:]
    write_files(
        tmp_path,
        anna=[instance(id, [*POINTS[:6], *MISSING]) for id in range(3)],
        ben=[instance(0, moved), instance(1), instance(2, moved), instance(3, moved)],
    )
    annotations = read_annotations(tmp_path)
    # Nothing of an instance that is not the same: it may be another one of the image.
    first = [[10, 20], [30.5, 40], [nan, nan]]
    np.testing.assert_array_equal(
        annotations.points_xy_image[:, 0],
        [first, [[10, 20], [30.5, 40], [50, 5]], first, [[11, 21], [30.5, 40], [50, 5]]],
    )
    assert problems(annotations) == [
        "annotations/ben.json: landmarks at other places than in annotations/anna.json, which counts, "
        "for 2 of 4 images: ['0.png', '2.png']; correct or remove those that are wrong"
    ]


def test_image_has_the_split_of_its_first_file(tmp_path: Path) -> None:
    write_files(tmp_path, test=[instance(2), instance(3)], train=[instance(0), instance(1), instance(2)])
    annotations = read_annotations(tmp_path)
    found = {Path(name).stem: split for name, split in splits(annotations).items()}
    assert found == {"0": "train", "1": "train", "2": "test", "3": "test"}
    assert problems(annotations) == [
        "annotations/train.json: split train instead of test as in annotations/test.json, which counts, "
        "for 1 of 3 images: ['2.png']; list an image in one split only"
    ]


def test_files_that_state_other_sizes_are_not_joined(tmp_path: Path) -> None:
    write_image(tmp_path / "1.png")
    for name, size in (("a", {"width": 80, "height": 60}), ("b", {"width": 160, "height": 120})):
        content = coco([image(1, **size)], [instance(1, POINTS if name == "b" else [*POINTS[:6], *MISSING])])
        write_json(tmp_path / f"{name}.json", content)
    annotations = read_annotations(tmp_path)
    np.testing.assert_array_equal(annotations.points_xy_image[0, 0, 2], [nan, nan])
    (told,) = problems(annotations)
    assert told.startswith("b.json: another size than in a.json, which counts, for 1 of 1 images: ['1.png']")


def test_instances_that_an_earlier_file_has_too_are_reported_once(tmp_path: Path) -> None:
    moved = [value + 1 for value in POINTS[:2]] + POINTS[2:]
    both = [instance(0, id=1, area=9), instance(0, moved, id=2)]
    write_files(tmp_path, anna=both, ben=both[::-1])
    told = problems(read_annotations(tmp_path))
    assert len(told) == 2 and "3 of 4 images have no instance" in told[0]
    assert "anna.json image '0.png': 2 instances; annotation 1 with 3 landmarks was taken" in told[1]


def test_an_image_that_a_file_lists_twice(tmp_path: Path) -> None:
    moved = [value + 1 for value in POINTS[:2]] + POINTS[2:]
    images = [image(1), image(2, "1.png"), image(3), image(4, "3.png")]
    found = [
        instance(1, [*POINTS[:6], *MISSING]),
        instance(2, [*MISSING, *POINTS[3:]]),
        instance(3),
        instance(4, moved),
    ]
    annotations = read_annotations(build(tmp_path, images, found))
    np.testing.assert_array_equal(annotations.points_xy_image[:, 0], [[[10, 20], [30.5, 40], [50, 5]]] * 2)
    (told,) = problems(annotations)
    assert "landmarks at other places than in an earlier entry of the image, which counts, for 1 of 4" in told


def test_files_that_are_joined_may_have_other_categories(tmp_path: Path) -> None:
    write_files(tmp_path, anna=[instance(id) for id in range(4)])
    other = coco([image(0)], [instance(0, [1, 2, 2])], category(1, ["other"]))
    write_json(tmp_path / "annotations/zoe.json", other)
    annotations = read_annotations(tmp_path)
    assert len(annotations.images) == 4
    (told,) = problems(annotations)
    assert "category 'category 1' has other landmarks; its 1 instances are left out" in told
