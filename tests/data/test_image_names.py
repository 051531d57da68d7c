from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from backend.data.annotations import Annotations, read_annotations
from backend.data.annotations.aariz import LANDMARK_NAMES
from backend.data.annotations.image_names import (
    CASE,
    FOLDER,
    PERCENT,
    SUFFIX,
    UNICODE,
    ImageMatch,
    ImageQuery,
    find_images,
)
from backend.data.images import IMAGE_SUFFIXES
from backend.errors import UserError

Write = Callable[[Path, Sequence[str]], Path]
DICOM_WITHOUT_A_SUFFIX = "1.2.840.55"
OPENCV_WRITES = [suffix for suffix in IMAGE_SUFFIXES if suffix != ".dcm"]


def write_image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, np.zeros((60, 80), np.uint8))[1].tobytes())
    return path


def write_table(folder: Path, names: Sequence[str]) -> Path:
    lines = ["image,nose_x,nose_y", *(f"{name},{10 + k},20" for k, name in enumerate(names))]
    (folder / "labels.csv").write_text("\n".join(lines), encoding="utf-8")
    return folder


def find(
    folder: Path, names: Sequence[str], files: Sequence[str], *, is_stem: bool = False
) -> list[ImageMatch]:
    for name in files:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(bytes(128) + b"DICM")  # known without a suffix; nobody decodes it
    wanted = [ImageQuery(name.replace("\\", "/"), (folder,), is_stem) for name in names]
    found = find_images(wanted, lambda path: path.relative_to(folder).as_posix())
    return [found[one] for one in wanted]


def problems(annotations: Annotations) -> str:
    return "\n".join(map(str, annotations.problems[:-1]))  # the last one: no pixel size


def decomposed(name: str) -> str:
    return unicodedata.normalize("NFD", name)


# The one function that finds images


@pytest.mark.parametrize(
    ("written", "file", "differs"),
    [
        ("a/x.png", "a/x.png", ()),
        ("a\\x.png", "a/x.png", ()),
        ("./a/../x.png", "x.png", ()),
        ("José.png", decomposed("José.png"), (UNICODE,)),
        (decomposed("آرمان/رؤیا.png"), "آرمان/رؤیا.png", (UNICODE,)),
        ("بیماریك.png", "بيماریک.png", (UNICODE,)),
        ("a%20b.png", "a b.png", (PERCENT,)),
        ("a b.png", "a%20b.png", (PERCENT,)),
        ("%D8%A2/x.png", "آ/x.png", (PERCENT,)),
        ("set%2Fx.png", "set/x.png", (PERCENT,)),
        ("IM0.PNG", "im0.png", (CASE,)),
        ("Films/x.png", "films/x.png", (CASE,)),
        ("x.tif", "x.webp", (SUFFIX,)),
        ("x.gif", "x.bmp", (SUFFIX,)),
        ("x", "x.jpeg", (SUFFIX,)),
        ("x.tif", "x.tif.png", (SUFFIX,)),
        ("film.v2", "film.v2.png", (SUFFIX,)),
        (f"{DICOM_WITHOUT_A_SUFFIX}.dcm", DICOM_WITHOUT_A_SUFFIX, (SUFFIX,)),
        ("D:\\films\\x.png", "x.png", (FOLDER,)),
        ("D:\\films\\x.png", "films/x.png", (FOLDER,)),
        ("\\\\server\\share\\films\\x.png", "x.png", (FOLDER,)),
        ("/home/a/x.png", "x.png", (FOLDER,)),
        ("../../films/x.png", "films/x.png", (FOLDER,)),
        ("https://host/a%20b/x.png", "x.png", (FOLDER,)),
        ("films/x.png", "x.png", (FOLDER,)),
        ("D:\\Films%201\\Jos%C3%A9.TIF", "films 1/josé.png", (PERCENT, CASE, SUFFIX, FOLDER)),
    ],
)
def test_an_image_is_found_by_its_name_or_nearly_so(
    tmp_path: Path, written: str, file: str, differs: tuple[str, ...]
) -> None:
    (found,) = find(tmp_path, [written], [file, "other.png"])
    assert found == ImageMatch(tmp_path / file, differs)


@pytest.mark.parametrize(
    ("written", "files", "taken"),
    [
        ("x.png", ["x.png", "X.png", "x.tif"], "x.png"),
        ("D:\\cam1\\x.png", ["cam1/x.png", "x.png"], "cam1/x.png"),  # the longest end
        ("D:\\x.png", ["x.png", "x.tif"], "x.png"),  # not the one that differs in more
        ("a%20b.png", ["a b.png", "A B.png"], "a b.png"),
        ("x.png", ["X.png", "x.tif"], None),
        ("x", ["x.png", "x.tif"], None),
        ("x.jpg", ["x.png", "x.tif"], None),
        ("x.png", ["X.png", "x.PNG"], None),
        ("D:\\x.jpg", ["x.png", "x.tif"], None),
    ],
)
def test_of_two_that_could_be_meant_none_is_taken(
    tmp_path: Path, written: str, files: list[str], taken: str | None
) -> None:
    (found,) = find(tmp_path, [written], files)
    if taken:
        assert found.path == tmp_path / taken
    else:
        assert found.path is None and found.why.startswith("is ambiguous")
        assert all(name in found.why for name in files)


@pytest.mark.parametrize(
    ("written", "files"),
    [
        ("x.png", []),
        ("x.png", ["y.png", "xx.png", "a/x.png", ".x.png"]),
        ("x.png", ["x.txt"]),
        ("patient.3", ["patient.png"]),  # no suffix of an image
        ("cam2/x.png", ["x.png", "cam2/y.png"]),  # its folder is here, and lacks it
        ("x" * 5000, ["x.png"]),
        ("nul\0.png", ["x.png"]),
        ("", ["x.png"]),
        ("/", ["x.png"]),
        ("..", ["x.png"]),
    ],
)
def test_what_is_not_there_is_missing(tmp_path: Path, written: str, files: list[str]) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert find(tmp_path, [written], []) == [ImageMatch(None)]


@pytest.mark.parametrize("other", ["X.png", "x.tif", "x", "D:\\films\\x.png", "cam2/x.png", "x%2Epng"])
def test_the_image_of_another_annotation_is_never_taken(tmp_path: Path, other: str) -> None:
    own, near = find(tmp_path, ["x.png", other], ["x.png"])
    assert own == ImageMatch(tmp_path / "x.png")
    assert near.path is None
    assert near.why == "is missing; x.png has nearly the same name, but is the image of x.png"


@pytest.mark.parametrize(
    ("names", "files"),
    [
        (["cam1/0001.png", "cam2/0001.png"], ["0001.png"]),
        (["D:\\cam1\\0001.png", "D:\\cam2\\0001.tif"], ["0001.png"]),
        (["/a/0001.png", "0001"], ["0001.png"]),
        (["0001.tif", "0001.bmp"], ["0001.png"]),
        (["é.PNG", "É.png"], [decomposed("é.png")]),
    ],
)
def test_a_picture_that_two_annotations_could_mean_is_given_to_none(
    tmp_path: Path, names: list[str], files: list[str]
) -> None:
    first, second = find(tmp_path, names, files)
    for found, other in ((first, names[1]), (second, names[0])):
        assert found.path is None and found.why.startswith("is ambiguous")
        assert other.replace("\\", "/") in found.why and files[0] in found.why


def test_of_many_that_could_mean_a_picture_some_are_named(tmp_path: Path) -> None:
    first, *_ = find(tmp_path, [f"cam{number}/0001.png" for number in range(9)], ["0001.png"])
    assert first.why.endswith(
        "0001.png could be this image or cam1/0001.png or cam2/0001.png or cam3/0001.png or others"
    )


def test_stray_image_is_not_taken_for_an_existing_cameras_missing_one(tmp_path: Path) -> None:
    names = ["cam1/0001.png", "cam2/0001.png"]
    first, second = find(tmp_path, names, ["cam1/0001.png", "0001.png"])
    assert first == ImageMatch(tmp_path / names[0])
    assert second.path is None and "0001.png could be this image or cam1/0001.png" in second.why


def test_stems_say_nothing_of_the_suffix(tmp_path: Path) -> None:
    names = ["a", "B", DICOM_WITHOUT_A_SUFFIX, "d"]
    found = find(tmp_path, names, ["a.tif", "b.webp", DICOM_WITHOUT_A_SUFFIX, "d.png", "d.jpg"], is_stem=True)
    assert [one.differs for one in found] == [(), (CASE,), (), ()]
    assert [one.path and one.path.name for one in found] == ["a.tif", "b.webp", DICOM_WITHOUT_A_SUFFIX, None]


# Every reader goes by it


def write_coco(folder: Path, names: Sequence[str], file: str = "a.json") -> Path:
    category = {"id": 1, "name": "x", "keypoints": ["nose"]}
    images = [{"id": k, "file_name": name} for k, name in enumerate(names)]
    found = [
        {"id": k, "image_id": k, "category_id": 1, "keypoints": [10 + k, 20, 2]} for k in range(len(names))
    ]
    content = {"images": images, "annotations": found, "categories": [category]}
    (folder / file).write_text(json.dumps(content), encoding="utf-8")
    return folder


def write_dlc(video: Path, names: Sequence[str]) -> Path:
    lines = ["scorer,A,A", "bodyparts,nose,nose", "coords,x,y"]
    lines += [f"{name},{10 + k},20" for k, name in enumerate(names)]
    (video / "CollectedData_A.csv").write_text("\n".join(lines), encoding="utf-8")
    return video


@pytest.mark.parametrize("write", [write_table, write_coco, write_dlc])
def test_readers_take_nearly_the_same_names_and_report_each(tmp_path: Path, write: Write) -> None:
    for name in ("same.png", decomposed("é.png"), "a b.png"):
        write_image(tmp_path / name)
    annotations = read_annotations(write(tmp_path, ["same.png", "é.png", "D:\\films\\a%20b.tif"]))
    assert sorted(annotations.points_xy_image[:, 0, 0, 0]) == [10, 11, 12]
    told = problems(annotations)
    assert "image é.png is not there" in told
    assert "(percent-encoded, another suffix, another folder)" in told and "same.png" not in told
    (about,) = [one for one in annotations.problems if "percent" in one.what]
    assert about.image == tmp_path / "a b.png"


@pytest.mark.parametrize("write", [write_table, write_coco, write_dlc])
def test_readers_never_put_two_annotations_on_one_picture(tmp_path: Path, write: Write) -> None:
    for name in ("0001.png", "other.png"):
        write_image(tmp_path / name)
    names = ["cam1/0001.png", "cam2/0001.png", "other.png"]
    annotations = read_annotations(write(tmp_path, names))
    assert annotations.points_xy_image[:, 0, 0, 0].tolist() == [12]
    assert all(name in problems(annotations) for name in names[:2])


def test_cameras_of_two_coco_files_are_judged_together(tmp_path: Path) -> None:
    for name in ("0001.png", "other.png"):
        write_image(tmp_path / name)
    write_coco(tmp_path, ["cam1/0001.png"])
    annotations = read_annotations(write_coco(tmp_path, ["cam2/0001.png", "other.png"], "b.json"))
    assert list(annotations.images["image_id"]) == ["other.png"]


def test_path_with_parent_folders_gives_the_same_data_set(tmp_path: Path) -> None:
    write_image(tmp_path / "isbi/RawImage/TrainingData/001.bmp")
    (tmp_path / "isbi/AnnotationsByMD/400_senior").mkdir(parents=True)
    (tmp_path / "isbi/AnnotationsByMD/400_senior/001.txt").write_text("3,4\n" * 19)
    assert len(read_annotations(tmp_path / "isbi" / ".." / "isbi").images) == 1
    write_image(tmp_path / "csv/X.png")
    write_table(tmp_path / "csv", ["x.png"])
    assert "x.png is not there: X.png was taken" in problems(
        read_annotations(tmp_path / "csv" / ".." / "csv")
    )


def test_many_names_that_differ_alike_are_one_problem(tmp_path: Path) -> None:
    for number in range(9):
        write_image(tmp_path / f"{number}.png")
    annotations = read_annotations(write_table(tmp_path, [f"D:\\films\\{number}.png" for number in range(9)]))
    assert len(annotations.images) == 9
    (told,) = annotations.problems[:-1]
    assert told.what.startswith(
        "9 images were taken by nearly the same names (another folder): D:/films/0.png"
    )


def test_deeplabcut_table_in_another_videos_folder_is_reported(tmp_path: Path) -> None:
    video = write_image(tmp_path / "labeled-data/v2/img0.png").parent
    write_dlc(video, ["labeled-data/v1/img0.png", "v1\\img0.png", "C:\\p\\labeled-data\\v1\\img0.png"])
    with pytest.raises(UserError, match="names images of v1 that are not there, and is in the folder of v2"):
        read_annotations(tmp_path)
    write_dlc(video, ["C:\\p\\labeled-data\\v2\\img0.png"])
    annotations = read_annotations(tmp_path)
    assert list(annotations.images["image_id"]) == ["v2/img0"] and "another folder" in problems(annotations)


@pytest.mark.parametrize("suffix", OPENCV_WRITES)
def test_layouts_that_join_by_the_stem_take_every_kind_of_image(tmp_path: Path, suffix: str) -> None:
    ceph = tmp_path / "ceph"
    write_image(ceph / f"train/Cephalograms/c0{suffix}")
    entries = [{"symbol": name, "value": {"x": 1, "y": 2}} for name in LANDMARK_NAMES]
    file = ceph / "train/Annotations/Cephalometric Landmarks/Senior Orthodontists/c0.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"landmarks": entries}), encoding="utf-8")
    isbi = tmp_path / "isbi"
    write_image(isbi / f"RawImage/TrainingData/001{suffix}")
    (isbi / "AnnotationsByMD/400_senior").mkdir(parents=True)
    (isbi / "AnnotationsByMD/400_senior/001.txt").write_text("3,4\n" * 19)
    for folder in (ceph, isbi):
        assert [Path(path).suffix for path in read_annotations(folder).images["path"]] == [suffix]
