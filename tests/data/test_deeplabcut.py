"""One animal under a header of individuals, and the layouts of Lightning Pose."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from backend.data.annotations import Annotations, detect_format, find_datasets, read_annotations
from backend.errors import UserError

nan = np.nan


def write_table(
    file: Path,
    rows: dict[str, list[object]],
    *,
    parts: tuple[str, ...] = ("snout", "tail"),
    scorer: str = "Ada",
    animals: tuple[str, ...] = (),
    num_path_columns: int = 1,
) -> Path:
    """A table of labels whose images are written where its rows name them, below the project's folder.

    `parts` has a name per pair of columns, `animals` too where there is a row of them.
    """
    project = file.parents[2] if file.parent.parent.name == "labeled-data" else file.parent
    pad = [""] * (num_path_columns - 1)
    header = [["scorer", *pad, *[scorer] * 2 * len(parts)]]
    if animals:
        header.append(["individuals", *pad, *(name for name in animals for _ in "xy")])
    header.append(["bodyparts", *pad, *(name for name in parts for _ in "xy")])
    header.append(["coords", *pad, *["x", "y"] * len(parts)])
    lines = [",".join(cells) for cells in header]
    for image, values in rows.items():
        path = project / image
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(path.suffix, np.zeros((60, 80), np.uint8))[1].tobytes())
        place = image if num_path_columns == 1 else image.replace("/", ",")
        lines.append(",".join([place, *map(str, values)]))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def problems(annotations: Annotations) -> list[str]:
    """All but the one that every data set of this format has: no pixel size."""
    assert "no pixel size: errors are in pixels" in annotations.problems[-1].what
    return [str(problem) for problem in annotations.problems[:-1]]


def column(annotations: Annotations, name: str) -> list[str]:
    return list(annotations.images[name])


FRAME = "labeled-data/v1/img0.png"
NEXT = "labeled-data/v1/img1.png"
TABLE = "labeled-data/v1/CollectedData_Ada.csv"


# Individuals


@pytest.mark.parametrize("num_path_columns", [1, 3])
def test_one_animal_under_individuals(tmp_path: Path, num_path_columns: int) -> None:
    rows: dict[str, list[object]] = {FRAME: [1, 2, 3, 4], NEXT: [5, 6, "", ""]}
    write_table(tmp_path / TABLE, rows, animals=("m1", "m1"), num_path_columns=num_path_columns)
    annotations = read_annotations(tmp_path)
    assert annotations.landmark_names == ("snout", "tail") and problems(annotations) == []
    np.testing.assert_array_equal(annotations.points_xy_image[:, 0], [[[1, 2], [3, 4]], [[5, 6], [nan, nan]]])


def test_body_parts_without_an_animal_are_landmarks_too(tmp_path: Path) -> None:
    write_table(
        tmp_path / TABLE,
        {FRAME: [1, 2, 3, 4, 5, 6]},
        parts=("snout", "tail", "corner"),
        animals=("m1", "m1", "single"),
    )
    annotations = read_annotations(tmp_path)
    assert annotations.landmark_names == ("snout", "tail", "corner") and problems(annotations) == []
    np.testing.assert_array_equal(annotations.points_xy_image[0, 0], [[1, 2], [3, 4], [5, 6]])


@pytest.mark.parametrize("empty", ["", "nan", "NaN"])
def test_animals_without_a_label_do_not_count(tmp_path: Path, empty: str) -> None:
    parts, animals = ("snout", "tail") * 2, ("m1", "m1", "m2", "m2")
    write_table(tmp_path / TABLE, {FRAME: [*[empty] * 4, 3, 4, 5, 6]}, parts=parts, animals=animals)
    annotations = read_annotations(tmp_path)
    np.testing.assert_array_equal(annotations.points_xy_image[0, 0], [[3, 4], [5, 6]])
    (told,) = problems(annotations)
    assert "of the animals m1, m2 only m2 has labels; it is taken" in told


def test_several_animals_are_refused(tmp_path: Path) -> None:
    parts, animals = ("snout", "tail") * 2, ("m1", "m1", "m2", "m2")
    rows: dict[str, list[object]] = {FRAME: [1, 2, 3, 4, "", "", "", ""], NEXT: ["", "", "", "", 5, 6, 7, 8]}
    write_table(tmp_path / TABLE, rows, parts=parts, animals=animals)
    with pytest.raises(UserError, match=r"CollectedData_Ada\.csv: several animals \(m1, m2\).*one animal"):
        read_annotations(tmp_path)


# Lightning Pose


def test_a_table_in_the_projects_folder(tmp_path: Path) -> None:
    file = write_table(
        tmp_path / "CollectedData.csv", {FRAME: [1, 2, 3, 4], "labeled-data/v2/a.png": [5, 6, 7, 8]}
    )
    for path in (tmp_path, tmp_path / "labeled-data", file):
        assert detect_format(path) == "deeplabcut"
        annotations = read_annotations(path)
        assert column(annotations, "image_id") == ["v1/img0", "v2/a"]
        assert column(annotations, "group") == ["v1", "v2"] and set(column(annotations, "split")) == {"train"}
        assert problems(annotations) == []
    assert find_datasets(tmp_path)[0] == tmp_path


def test_images_without_a_folder_for_each_video_have_no_group(tmp_path: Path) -> None:
    write_table(tmp_path / "CollectedData.csv", {"labeled-data/img0.png": [1, 2, 3, 4]})
    annotations = read_annotations(tmp_path)
    assert column(annotations, "group") == column(annotations, "group_kind") == [""]


@pytest.mark.parametrize("pattern", ["CollectedData_{}.csv", "{}.csv"])
def test_views_of_a_session_are_images_of_one_group(tmp_path: Path, pattern: str) -> None:
    """The tables may have any name where none is called CollectedData."""
    for number, view in enumerate(("left", "right_top")):
        rows: dict[str, list[object]] = {
            f"labeled-data/s{session}_{view}/frame1.png": [10 * session + number, 2, 3, 4]
            for session in (0, 1)
        }
        write_table(tmp_path / pattern.format(view), rows)
    bboxes = "image,x,y,h,w\nlabeled-data/s0_left/frame1.png,1,2,3,4\n"
    (tmp_path / "bboxes_left.csv").write_text(bboxes, encoding="utf-8")
    annotations = read_annotations(tmp_path)
    assert annotations.landmark_names == ("snout", "tail") and annotations.reader_names == ("Ada",)
    assert column(annotations, "image_id") == [
        "s0_left/frame1",
        "s1_left/frame1",
        "s0_right_top/frame1",
        "s1_right_top/frame1",
    ]
    assert column(annotations, "group") == ["s0", "s1", "s0", "s1"]
    np.testing.assert_array_equal(annotations.points_xy_image[:, 0, 0, 0], [0, 10, 1, 11])
    (told,) = problems(annotations)
    assert "the views left, right_top are images of one data set" in told
    one = read_annotations(tmp_path / pattern.format("left"))
    assert column(one, "group") == ["s0", "s1"] and problems(one) == []


@pytest.mark.parametrize("suffix", ["test", "new"])
@pytest.mark.parametrize("view", ["", "_left"])
def test_tables_of_test_labels(tmp_path: Path, suffix: str, view: str) -> None:
    write_table(tmp_path / f"CollectedData{view}.csv", {f"labeled-data/s0{view}/a.png": [1, 2, 3, 4]})
    write_table(
        tmp_path / f"CollectedData{view}_{suffix}.csv", {f"labeled-data/s1{view}/a.png": [1, 2, 3, 4]}
    )
    annotations = read_annotations(tmp_path)
    assert column(annotations, "split") == ["train", "test"] and column(annotations, "group") == ["s0", "s1"]
    assert problems(annotations) == []
    (told,) = problems(read_annotations(tmp_path / f"CollectedData{view}_{suffix}.csv"))
    assert "by their names all labels are test; they are taken as train" in told


def test_a_scorer_called_test_has_no_test_labels(tmp_path: Path) -> None:
    write_table(tmp_path / TABLE, {FRAME: [1, 2, 3, 4]})
    write_table(
        tmp_path / "labeled-data/v2/CollectedData_test.csv",
        {"labeled-data/v2/img0.png": [1, 2, 3, 4]},
        scorer="test",
    )
    assert set(column(read_annotations(tmp_path), "split")) == {"train"}
    (tmp_path / "labeled-data/v2").rename(tmp_path / "moved")
    moved = read_annotations(tmp_path / "moved")
    assert set(column(moved, "split")) == {"train"}
    assert all("another folder" in problem for problem in problems(moved))


def test_predictions_are_no_labels(tmp_path: Path) -> None:
    file = write_table(tmp_path / "predictions.csv", {FRAME: [1, 2, 3, 4]})
    text = file.read_text(encoding="utf-8").replace("coords,x,y,x,y", "coords,x,y,likelihood,x")
    file.write_text(text, encoding="utf-8")
    assert find_datasets(tmp_path) == []


# Several tables


def test_labels_of_a_project_that_was_converted_are_read_once(tmp_path: Path) -> None:
    """Lightning Pose's converter copies DeepLabCut's tables into one, and leaves them where they are."""
    write_table(tmp_path / TABLE, {FRAME: [1, 2, "", ""]})
    write_table(tmp_path / "CollectedData.csv", {FRAME: [1.25, 2, 3, 4], NEXT: [5, 6, 7, 8]})
    annotations = read_annotations(tmp_path)
    np.testing.assert_array_equal(annotations.points_xy_image[:, 0], [[[1, 2], [3, 4]], [[5, 6], [7, 8]]])
    assert problems(annotations) == []


def test_tables_that_contradict_each_other(tmp_path: Path) -> None:
    write_table(tmp_path / TABLE, {FRAME: [1, 2, "", ""], NEXT: [5, 6, 7, 8]})
    write_table(tmp_path / "CollectedData.csv", {FRAME: [9, 2, 3, 4], NEXT: [5, 6, 7, 8]})
    write_table(tmp_path / "CollectedData_test.csv", {NEXT: [5, 6, 7, 8]})
    annotations = read_annotations(tmp_path)
    np.testing.assert_array_equal(annotations.points_xy_image[0, 0], [[1, 2], [nan, nan]])
    assert column(annotations, "split") == ["train", "train"]
    assert problems(annotations) == [
        f"CollectedData.csv: landmarks at other places than in {TABLE}, which counts, for 1 of 2 images: "
        "['img0.png']; correct or remove those that are wrong",
        f"CollectedData_test.csv: split test instead of train as in {TABLE}, which counts, for 1 of 1 "
        f"images: "
        "['img1.png']; list an image in one split only",
    ]
