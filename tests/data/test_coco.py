from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from backend.data.annotations import (
    detect_format,
    find_datasets,
    read_annotations,
    select_reader,
)
from backend.errors import UserError
from tests.data.coco_json import (
    HEIGHT,
    MISSING,
    NAMES,
    POINTS,
    WIDTH,
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

# What is read


def test_coco(tmp_path: Path) -> None:
    partly = [*MISSING, 79.5, 59.5, 2, *MISSING]
    build(tmp_path, [image(7, height=HEIGHT, width=WIDTH), image("b")], [instance(7), instance("b", partly)])
    for path in (tmp_path, tmp_path / "result.json"):
        annotations = read_annotations(path)
        assert annotations.format == "coco" and annotations.root == tmp_path
        assert annotations.landmark_names == tuple(NAMES) and annotations.reader_names == ("annotator",)
        assert splits(annotations) == {"7.png": "train", "b.png": "train"}
        assert list(annotations.images["height"]) == [HEIGHT] * 2
        assert annotations.images["mm_per_px_x"].isna().all()
        nan = np.nan
        truth = [[[10, 20], [30.5, 40], [50, 5]], [[nan, nan], [79.5, 59.5], [nan, nan]]]
        assert annotations.points_xy_image.shape == (2, 1, 3, 2)
        np.testing.assert_array_equal(select_reader(annotations, "mean"), np.array(truth, np.float32))
        assert problems(annotations) == []


def test_coordinates_are_indices_of_pixels(tmp_path: Path) -> None:
    """The last pixel's centre is (79, 59); its outer corner, (80, 60) in other tools' frame, is outside."""
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8)
    pixels[3, 7] = 255
    build(
        tmp_path,
        [image(1), image(2)],
        [instance(1, [7, 3, 2, 0, 0.5, 2, 79, 59, 2]), instance(2, [80, 60, 2, -0.5, -0.5, 2, -0.6, 0, 2])],
    )
    cv2.imwrite(str(tmp_path / "1.png"), pixels)
    annotations = read_annotations(tmp_path)
    y, x = np.argwhere(pixels)[0]
    np.testing.assert_array_equal(annotations.points_xy_image[0, 0], [[x, y], [0, 0.5], [79, 59]])
    nan = np.nan
    np.testing.assert_array_equal(annotations.points_xy_image[1, 0], [[nan, nan], [-0.5, -0.5], [nan, nan]])
    (told,) = problems(annotations)
    assert (
        "result.json image '2.png': landmarks outside the image of 80 x 60 px, masked: nose (80, 60)" in told
    )


def test_of_several_instances_the_one_with_most_landmarks_then_the_largest(tmp_path: Path) -> None:
    def moved(by: int) -> list[float]:
        return [value + by if index % 3 == 0 else value for index, value in enumerate(POINTS)]

    build(
        tmp_path,
        [image(1), image(2), image(3)],
        [
            instance(1, [*MISSING, *POINTS[3:]], id=11, area=900),
            instance(1, moved(1), id=12, area=20),
            instance(1, moved(2), id=13, bbox=[0, 0, 5, 6]),  # 30 px^2, by its box
            instance(1, moved(3), id=14, area=9000, iscrowd=1),
            instance(1, MISSING * 3, id=15, area=9000),
            instance(2, moved(4), id=16, iscrowd=0),
            instance(2, moved(5), id=17, iscrowd=1, area=9),
            instance(3, moved(6), id=18, iscrowd=1),
        ],
    )
    annotations = read_annotations(tmp_path)
    assert list(annotations.images["image_id"]) == ["1.png", "2.png"]
    np.testing.assert_array_equal(annotations.points_xy_image[:, 0, 0, 0], [12, 14])
    assert problems(annotations) == [
        "result.json: 1 of 3 images have no instance with a landmark and are left out: ['3.png']; "
        "annotate or remove them",
        "result.json image '1.png': 3 instances; annotation 13 with 3 landmarks was taken; "
        "crop the images to one instance each",
    ]


def test_categories(tmp_path: Path) -> None:
    dog, ball, hand = category("2"), {"id": 3, "name": "ball"}, category(4, ["thumb"])
    found = [
        instance(1),
        instance(2, category_id=2),
        {"image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4]},
        instance(1, [1, 2, 2], category_id=4),
    ]
    build(tmp_path, [image(1), image(2)], found, ball, category(), dog, hand)
    annotations = read_annotations(tmp_path)
    assert annotations.landmark_names == tuple(NAMES) and len(annotations.images) == 2
    assert problems(annotations) == [
        f"{tmp_path.name}: category 'category 4' has other landmarks; its 1 instances are left out; "
        "make a data set of each category"
    ]
    write_json(tmp_path / "result.json", coco([image(1)], [found[3]], category(), hand))
    assert read_annotations(tmp_path).landmark_names == ("thumb",)


@pytest.mark.parametrize("written", [7, 7.0, "7", "7.0", " 7 "], ids=repr)
@pytest.mark.parametrize("referred", [7, 7.0, "7", "7.00"], ids=repr)
def test_ids_are_equal_however_a_tool_writes_them(tmp_path: Path, written: Any, referred: Any) -> None:
    found = instance(referred, id=3.0, category_id=referred)
    build(tmp_path, [image(written, "a.png")], [found], category(written))
    annotations = read_annotations(tmp_path)
    assert len(annotations.images) == 1 and problems(annotations) == []


def test_ids_that_differ_stay_apart(tmp_path: Path) -> None:
    ids = [7, "07", 7.5, "7.50", "a.0", 10**18, 10**18 + 1]
    build(
        tmp_path,
        [image(id, f"{number}.png") for number, id in enumerate(ids)],
        [instance(id, [number + 1, *POINTS[1:]]) for number, id in enumerate(ids)],
    )
    annotations = read_annotations(tmp_path)
    np.testing.assert_array_equal(annotations.points_xy_image[:, 0, 0, 0], [1, 2, 3, 4, 5, 6, 7])
    assert problems(annotations) == []


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), True, None, "", [1]], ids=repr)
def test_ids_that_are_none_are_reported(tmp_path: Path, bad: Any) -> None:
    build(tmp_path, [image(1), image(bad, "b.png")], [instance(1), instance(bad)])
    told = problems(read_annotations(tmp_path))
    assert len(told) == 2 and "images[1]: no id" in told[0] and "annotations[1]: image_id" in told[1]


# Where files and images lie


@pytest.mark.parametrize(
    ("json_name", "image_name", "file_name"),
    [
        ("a.json", "1.png", "1.png"),
        ("result.json", "images/1.png", "images\\1.png"),
        ("result.json", "images/1.png", "1.png"),
        ("annotations/person_keypoints_default.json", "images/default/1.png", "1.png"),
        ("annotations/person_keypoints_train2017.json", "train2017/1.png", "1.png"),
        ("annotations/instances.json", "1.png", "../1.png"),
        ("annotations/instances.json", "frames/1.png", "frames/1.png"),
        ("train/_annotations.coco.json", "train/1.png", "1.png"),
        ("annotations/training.json", "images/train/1.png", "1.png"),
    ],
)
def test_layouts(tmp_path: Path, json_name: str, image_name: str, file_name: str) -> None:
    write_image(tmp_path / image_name)
    file = write_json(tmp_path / json_name, coco([image(1, file_name)], [instance(1)]))
    for path in (tmp_path, tmp_path / ".." / tmp_path.name):
        annotations = read_annotations(path)
        assert splits(annotations) == {image_name: "train"}
        assert problems(annotations) == []
    assert len(read_annotations(file).images) == 1
    assert len(read_annotations(file.parent).images) == 1
    assert tmp_path in find_datasets(tmp_path)


@pytest.mark.parametrize("file_name", ["C:\\Users\\me\\images\\1.png", "/nowhere/label-studio/1.png"])
def test_folders_of_another_machine(tmp_path: Path, file_name: str) -> None:
    write_image(tmp_path / "images/1.png")
    write_json(tmp_path / "result.json", coco([image(1, file_name)], [instance(1)]))
    annotations = read_annotations(tmp_path)
    assert splits(annotations) == {"images/1.png": "train"}
    (told,) = problems(annotations)
    assert told.startswith(f"result.json image {file_name!r}: image ") and "images/1.png was taken" in told


def test_splits_of_files_and_of_folders(tmp_path: Path) -> None:
    for name in ("train2017", "val2017"):
        write_image(tmp_path / "official" / name / f"{name}.png")
        content = coco([image(1, f"{name}.png")], [instance(1)])
        write_json(tmp_path / f"official/annotations/person_keypoints_{name}.json", content)
        # no keypoints, so that no images of it are missing
        content = {**coco([image(1, "x.png")], []), "categories": [{"id": 1, "name": "person"}]}
        write_json(tmp_path / f"official/annotations/instances_{name}.json", content)
    for number, name in enumerate(("train", "valid", "test")):  # the same name is another image
        write_image(tmp_path / "folders" / name / "1.png")
        content = coco([image(1)], [instance(1, [number, *POINTS[1:]])])
        write_json(tmp_path / "folders" / name / "_annotations.coco.json", content)
    official, folders = (read_annotations(tmp_path / name) for name in ("official", "folders"))
    assert splits(official) == {"train2017/train2017.png": "train", "val2017/val2017.png": "valid"}
    assert splits(folders) == {"test/1.png": "test", "train/1.png": "train", "valid/1.png": "valid"}
    assert problems(official) == problems(folders) == []


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["latest.json", "validated.json"], ["train", "train"]),  # parts of words are none
        (["batch1.json", "test_1.json"], ["train", "test"]),
        (["train_val.json", "val.json"], ["train", "valid"]),
        (["test.json", "val.json"], ["test", "valid"]),
        (["test_1.json", "test_2.json"], ["train", "train"]),
    ],
)
def test_words_for_splits(tmp_path: Path, names: list[str], expected: list[str]) -> None:
    for number, name in enumerate(names):
        write_image(tmp_path / f"{number}.png")
        write_json(tmp_path / name, coco([image(number)], [instance(number)]))
    annotations = read_annotations(tmp_path)
    assert [splits(annotations)[f"{number}.png"] for number in range(2)] == expected
    told = [
        problem for problem in problems(annotations) if "by their names all annotations are test" in problem
    ]
    assert len(told) == (names[0] == "test_1.json")


# What is wrong


def test_every_problem_is_told(tmp_path: Path) -> None:
    nan = float("nan")
    images = [
        image(1),
        image(2),
        image(3, "absent.png"),
        image(4, "1.png"),
        image(5, width=WIDTH // 2, height=HEIGHT // 2),
        image(6),
        image(6, "twice.png"),
        {"id": 7},
        "an image",
        {"id": None, "file_name": "8.png"},
        image(9, "x" * 5000 + ".png"),
    ]
    annotations = [
        instance(1),
        instance(2, ["12", 3, 2, 4, None, 1, nan, 5, 2]),
        instance(2, [10, 20, 3, 10**400, 5, 2, True, 5, 2]),
        instance(2, [1, 2, 2, 1, 2, 2, 900, 5, 2]),
        instance(2, POINTS[:6]),
        instance(2, "points"),
        instance(2, None),
        instance(3),
        instance(4),
        instance(5),
        instance(6),
        instance(7),
        instance(77),
        instance([1]),
        instance(1, category_id=5),
        {},
        "an annotation",
        instance(9),
        instance(1, area="large", bbox="wide"),
    ]
    for name in ("1.png", "2.png", "5.png", "6.png", "twice.png"):
        write_image(tmp_path / name)
    write_json(tmp_path / "result.json", coco(images, annotations))
    read = read_annotations(tmp_path)
    assert list(read.images["image_id"]) == ["1.png", "2.png"]
    np.testing.assert_array_equal(read.points_xy_image[1, 0], [[1, 2], [1, 2], [np.nan, np.nan]])
    expected = [
        "images[6]: id 6 is there twice; both images are left out",
        "images[7]: no id and file_name",
        "images[8]: no id and file_name",
        "images[9]: no id and file_name",
        "annotations[1]: landmark nose is ['12', 3, 2]; it is masked",
        "annotations[1]: landmark left ear is [4, None, 1]; it is masked",
        "annotations[1]: landmark tail is [nan, 5, 2]; it is masked",
        "annotations[2]: landmark nose is [10, 20, 3]; it is masked",
        "annotations[2]: landmark left ear is [1000",
        "annotations[2]: landmark tail is [True, 5, 2]; it is masked",
        "annotations[12]: image_id 77 is unknown",
        "annotations[13]: image_id [1] is unknown",
        "annotations[14]: category_id 5 is unknown",
        "annotations[15]: category_id None is unknown",
        "annotations[16]: not an annotation",
        "annotations[4]: keypoints are 6 numbers instead of 9 (x, y, visibility of 3 landmarks)",
        "annotations[5]: keypoints are 'points' instead of 9",
        "image '1.png': 2 instances; annotation 100 with 3 landmarks was taken",
        "image '2.png': landmarks outside the image of 80 x 60 px, masked: tail (900, 5)",
        "image 'absent.png': the image is missing",
        "image '5.png': image of 80 x 60 px, but by its annotation of 40 x 30; it is left out",
        f"image '{'x' * 5000}.png': the image is missing",
    ]
    told = problems(read)
    assert len(told) == len(expected), "\n".join(told)
    for problem, wanted in zip(told, expected, strict=True):
        assert problem.startswith(f"result.json {wanted}")
    assert all(problem.cure and not problem.fatal for problem in read.problems)


def test_damaged_image(tmp_path: Path) -> None:
    build(tmp_path, [image(1), image(2)], [instance(1), instance(2)])
    (tmp_path / "1.png").write_bytes(b"nothing")
    annotations = read_annotations(tmp_path)
    assert list(annotations.images["image_id"]) == ["2.png"]
    (told,) = problems(annotations)
    assert "result.json image '1.png'" in told and "damaged or not an image" in told


def test_damaged_json_is_told_with_file_and_place(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    file.write_text(json.dumps(coco([image(1)], [instance(1)]), indent=1)[:-2] + ",}", encoding="utf-8")
    assert detect_format(tmp_path) == "coco"
    num_lines = len(file.read_text(encoding="utf-8").splitlines())
    with pytest.raises(UserError, match=rf"result\.json line {num_lines} column \d+: not JSON") as error:
        read_annotations(tmp_path)
    assert error.value.field == "dataset_path" and error.value.cure


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[" * 100_000,
        b"\xff\xfe\x00",
        b'{"images": ' + b"1" * 5000 + b"}",
        b"[]",
        b'{"images": [], "annotations": {}, "categories": []}',
        b'{"images": [], "annotations": []}',
    ],
    ids=["empty", "deep", "no text", "long number", "a list", "no list of annotations", "no categories"],
)
def test_other_json_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "any.json"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"any\.json") as error:
        read_annotations(file, "coco")
    assert error.value.field == "dataset_path" and error.value.cure


@pytest.mark.parametrize(
    "broken",
    [
        category(1, "nose"),
        category(1, ["nose", 3]),
        category(1, ["nose", " nose"]),
        category(1, ["nose", ""]),
        category(1, ["nose", "\ud800"]),
        category(1, ["nose", "left\near"]),
        category(2),
        category(None),
        category([1]),
        "face",
    ],
    ids=[
        "text",
        "number",
        "twice",
        "nameless",
        "no text",
        "two lines",
        "same id",
        "no id",
        "a list as id",
        "no category",
    ],
)
def test_broken_categories_are_refused(tmp_path: Path, broken: Any) -> None:
    build(tmp_path, [image(1)], [instance(1)], category(2), broken)
    with pytest.raises(UserError, match=r"categories\[1\]") as error:
        read_annotations(tmp_path)
    assert error.value.field == "dataset_path" and error.value.cure


def test_names_may_hold_the_joiners_that_persian_is_written_with(tmp_path: Path) -> None:
    names = ["نوک\u200cبینی", "می\u200cان\u00a0فک", "tail"]
    build(tmp_path, [image(1)], [instance(1)], category(1, names))
    assert read_annotations(tmp_path).landmark_names == tuple(names)


def test_without_landmarks(tmp_path: Path) -> None:
    build(tmp_path, [image(1)], [], {"id": 1, "name": "ball"}, category(2, []), category(3, None))
    with pytest.raises(UserError, match="no category names keypoints"):
        read_annotations(tmp_path / "result.json", "coco")
    with pytest.raises(UserError, match="no JSON file with"):
        read_annotations(tmp_path, "coco")
    build(tmp_path, [image(1)], [instance(1, MISSING * 3)])
    with pytest.raises(UserError, match="no usable image with a landmark") as error:
        read_annotations(tmp_path)
    assert "1 of 1 images have no instance" in str(error.value)


# Which folders are one


@pytest.mark.parametrize(
    "content",
    [
        [instance(1, [1, 2, 2])],  # predictions
        coco([image(1)], [instance(1)], {"id": 1, "name": "ball"}),  # boxes alone
        {"images": [], "categories": [category()]},
        {"keypoints": ["nose"]},
        {},
    ],
    ids=["results", "no names of keypoints", "no annotations", "no images", "nothing"],
)
def test_other_json_is_no_data_set(tmp_path: Path, content: Any) -> None:
    file = write_json(tmp_path / "any.json", content)
    (tmp_path / "empty.json").touch()
    assert find_datasets(tmp_path) == []
    for path in (file, tmp_path):
        with pytest.raises(UserError, match=r"not a data set.*\(coco\)"):
            detect_format(path)


def test_a_table_made_from_it_comes_first(tmp_path: Path) -> None:
    build(tmp_path / "set", [image(1)], [instance(1)])
    assert find_datasets(tmp_path) == [tmp_path / "set"] and detect_format(tmp_path / "set") == "coco"
    (tmp_path / "set/annotations.csv").write_text(
        "image,nose_x,nose_y,mm_per_px\n1.png,1,2,0.1\n", encoding="utf-8"
    )
    assert detect_format(tmp_path / "set") == "wide_csv"
    assert len(read_annotations(tmp_path / "set", "coco").landmark_names) == 3


def test_coco_real(shared_data: Path) -> None:
    folder = shared_data / "coco"
    if not folder.is_dir():
        pytest.skip(f"COCO is not in {folder}")
    assert detect_format(folder) == "coco" and folder in find_datasets(shared_data)
    annotations = read_annotations(folder)
    assert annotations.points_xy_image.shape == (4, 1, 17, 2)
    assert annotations.landmark_names[:2] == ("nose", "left_eye")
    assert set(annotations.images["split"]) == {"train"}  # all its files are called test
    assert dict(zip(annotations.images["image_id"], annotations.images["width"], strict=True)) == {
        "000000000785.jpg": 640,
        "000000040083.jpg": 500,
        "000000196141.jpg": 640,
        "000000197388.jpg": 640,
    }
    points = annotations.points_xy_image[:, 0]
    assert np.isfinite(points[..., 0]).sum(axis=1).tolist() == [17, 15, 17, 16]
    np.testing.assert_array_equal(points[0, 0], [367, 81])
    assert np.array_equal(
        points[np.isfinite(points)], points[np.isfinite(points)].round()
    )  # indices of pixels
    told = "\n".join(problems(annotations))
    assert len(problems(annotations)) == 5
    for wanted in (
        "by their names all annotations are test; they are taken as train",
        "image '000000040083.jpg': 2 instances; annotation 230195 with 15 landmarks was taken",
        "image '000000197388.jpg': 5 instances; annotation 533949 with 16 landmarks was taken",
        "keypoints are 399 numbers instead of 51 (x, y, visibility of 17 landmarks), as in 13 other "
        "annotations",
    ):
        assert wanted in told
    with pytest.raises(UserError, match="not a data set"):
        detect_format(folder / "test_coco_det_AP_H_56.json")
