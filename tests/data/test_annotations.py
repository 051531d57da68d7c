from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.config import DatasetFormat
from backend.data.annotations import (
    FORMATS,
    IMAGE_COLUMNS,
    Annotations,
    aariz,
    detect_format,
    find_datasets,
    isbi2015,
    read_annotations,
    select_reader,
)
from backend.errors import UserError

HEIGHT, WIDTH = 60, 80


def write_image(path: Path, size_hw: tuple[int, int] = (HEIGHT, WIDTH)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix.lower(), np.zeros(size_hw, np.uint8))[1].tobytes())


def write_text(path: Path, lines: Iterable[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def problems(annotations: Annotations) -> str:
    return "\n".join(map(str, annotations.problems))


def ids(annotations: Annotations) -> list[str]:
    return list(annotations.images["image_id"])


def check_consistent(annotations: Annotations) -> None:
    images, points = annotations.images, annotations.points_xy_image
    assert tuple(images.columns) == IMAGE_COLUMNS
    num_readers, num_landmarks = len(annotations.reader_names), len(annotations.landmark_names)
    assert points.shape == (len(images), num_readers, num_landmarks, 2)
    assert points.dtype == np.float32
    assert (np.isnan(points[..., 0]) == np.isnan(points[..., 1])).all()
    assert images["image_id"].is_unique
    assert all(Path(path).is_absolute() for path in images["path"])


# --- wide CSV -----------------------------------------------------------------------------------------------


@pytest.fixture
def csv_folder(tmp_path: Path) -> Callable[..., Path]:
    def build(*lines: str, name: str = "annotations.csv", images: int = 3) -> Path:
        for i in range(images):
            write_image(tmp_path / "pictures" / f"{i}.png")
        write_text(tmp_path / name, lines)
        return tmp_path

    return build


def test_a_wide_csv_says_what_kind_its_groups_are(csv_folder: Callable[..., Path]) -> None:
    folder = csv_folder(
        "image,a_x,a_y,mm_per_px,Group,group_kind",
        "pictures/0.png,1,2,0.1,x,Device",
        "pictures/1.png,1,3,0.1,y,video",
        "pictures/2.png,1,4,0.1,z,clinic",
        "pictures/3.png,1,5,0.1,,video",
        images=4,
    )
    annotations = read_annotations(folder)
    check_consistent(annotations)
    assert list(annotations.images["group_kind"]) == ["device", "video", "patient", ""]
    (problem,) = annotations.problems
    assert (problem.where, problem.what) == (
        "annotations.csv line 4 column group_kind",
        "'clinic' is not a kind of group; patient is taken",
    )
    assert problem.cure == "write patient, video, device"


def test_wide_csv(csv_folder: Callable[..., Path]) -> None:
    folder = csv_folder(
        "image,nose tip_x,nose tip_y,ear_x,ear_y,ear_confidence,split,mm_per_px,group",
        "pictures/0.png,1.5,2,3,4,0.9,train,0.1,a",
        "pictures\\1.png,,,79.5,59.5,0.9,val,0.2,b",
        "pictures/2.png,5,6,nan,nan,,,,",
    )
    annotations = read_annotations(folder)
    check_consistent(annotations)
    assert annotations.format == "wide_csv"
    assert annotations.landmark_names == ("nose tip", "ear")
    assert ids(annotations) == ["pictures/0.png", "pictures/1.png", "pictures/2.png"]
    assert list(annotations.images["split"]) == ["train", "valid", "train"]
    assert list(annotations.images["group"]) == ["a", "b", ""]
    assert list(annotations.images["group_kind"]) == ["patient", "patient", ""]
    assert list(annotations.images["height"]) == [HEIGHT] * 3
    assert list(annotations.images["width"]) == [WIDTH] * 3
    np.testing.assert_array_equal(annotations.images["mm_per_px_x"], [0.1, 0.2, np.nan])
    np.testing.assert_array_equal(annotations.images["mm_per_px_y"], [0.1, 0.2, np.nan])
    nan = np.nan
    truth = [[[1.5, 2], [3, 4]], [[nan, nan], [79.5, 59.5]], [[5, 6], [nan, nan]]]
    for name in ("mean", "Annotator"):
        np.testing.assert_array_equal(select_reader(annotations, name), np.array(truth, np.float32))
    assert len(annotations.problems) == 1
    assert "no pixel size for 1 of 3 images" in problems(annotations)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("delimiter", [",", ";"])
def test_wide_csv_spellings(csv_folder: Callable[..., Path], encoding: str, delimiter: str) -> None:
    folder = csv_folder(name="my points.csv")
    text = "Image,بینی_x,بینی_y,mm_per_px_x,mm_per_px_y\r\npictures/0.png,1,2,0.1,0.3\r\n\r\n"
    (folder / "my points.csv").write_text(text.replace(",", delimiter), encoding=encoding, newline="")
    for path in (folder, folder / "my points.csv"):
        annotations = read_annotations(path)
        assert annotations.landmark_names == ("بینی",)
        assert annotations.problems == ()
        assert annotations.images[["mm_per_px_x", "mm_per_px_y"]].to_numpy().tolist() == [[0.1, 0.3]]
        assert list(annotations.images["split"]) == ["train"]


def test_wide_csv_absolute_path_and_usual_name_first(csv_folder: Callable[..., Path]) -> None:
    folder = csv_folder("image,a_x,a_y", "pictures/0.png,1,2", "pictures/1.png,1,2", name="other.csv")
    write_text(folder / "labels.csv", ["image,a_x,a_y", f"{(folder / 'pictures/2.png').as_posix()},1,2"])
    write_text(folder / "prices.csv", ["fruit,price", "apple,2"])
    assert len(read_annotations(folder).images) == 1
    (folder / "labels.csv").rename(folder / "another.csv")
    with pytest.raises(UserError, match=r"another\.csv, other\.csv"):
        read_annotations(folder)


def test_predictions_beside_what_was_marked_are_not_the_truth(csv_folder: Callable[..., Path]) -> None:
    folder = csv_folder("image,a_x,a_y,a_confidence", "pictures/0.png,33,33,0.9", name="annotations.csv")
    assert read_annotations(folder).points_xy_image.max() == 33  # alone, they are read back
    write_text(folder / "marked.csv", ["image,a_x,a_y", "pictures/0.png,10,10"])
    assert read_annotations(folder).points_xy_image.max() == 10
    (folder / "marked.csv").unlink()
    keypoints = {"id": 1, "image_id": 1, "category_id": 1, "keypoints": [10, 10, 2], "num_keypoints": 1}
    write_text(
        folder / "marked.json",
        [
            json.dumps(
                {
                    "images": [{"id": 1, "file_name": "pictures/0.png", "width": WIDTH, "height": HEIGHT}],
                    "categories": [{"id": 1, "name": "face", "keypoints": ["a"]}],
                    "annotations": [keypoints],
                }
            )
        ],
    )
    assert read_annotations(folder).points_xy_image.max() == 10


def test_wide_csv_finds_every_problem(csv_folder: Callable[..., Path]) -> None:
    folder = csv_folder(
        "image,a_x,a_y,b_x,b_y,mm_per_px,colour",
        "pictures/0.png,1,2,3,4,0.1,red",
        "pictures/1.png,oops,2,3,inf,-1,red",
        "pictures/2.png,5,,80,10,0.1,red",
        "pictures/3.png,1,2,3,4,0.1,red",
        "pictures/0.png,7,7,7,7,0.1,red",
        "pictures/4.png,1,2,3,4,0.1,red",
        "pictures/5.png,1,2,3,4,0.1",
        "pictures/6.png,,,,,0.1,red",
        ",1,2,3,4,0.1,red",
        "pictures/7.png,-3,5,1,1,0.1,red",
        f"pictures/{'x' * 300}.png,1,2,3,4,0.1,red",
    )
    (folder / "pictures/4.png").write_bytes(b"nothing")
    for i in (5, 6, 7):
        write_image(folder / f"pictures/{i}.png")
    annotations = read_annotations(folder)
    check_consistent(annotations)
    assert ids(annotations) == ["pictures/0.png", "pictures/7.png"]
    np.testing.assert_array_equal(annotations.points_xy_image[0, 0], [[1, 2], [3, 4]])
    np.testing.assert_array_equal(annotations.points_xy_image[1, 0], [[np.nan, np.nan], [1, 1]])
    found = [(problem.where, problem.what) for problem in annotations.problems]
    expected = [
        ("annotations.csv line 1", "unknown columns are ignored: colour"),
        ("annotations.csv line 3 column a_x", "'oops' is not a finite number"),
        ("annotations.csv line 3 column b_y", "'inf' is not a finite number"),
        ("annotations.csv line 3 column mm_per_px", "a pixel size of -1 mm"),
        ("annotations.csv line 3", "image without a landmark"),
        ("annotations.csv line 4 column a_y", "x without y"),
        ("annotations.csv line 4", "landmarks outside the image of 80 x 60 px, masked: b (80, 10)"),
        ("annotations.csv line 4", "no landmark lies inside"),
        ("annotations.csv line 5", "image pictures/3.png is missing"),
        ("annotations.csv line 6", "is taken by annotations.csv line 2"),
        ("annotations.csv line 7", "damaged or not an image"),
        ("annotations.csv line 8", "6 cells, but the header has 7"),
        ("annotations.csv line 9", "image without a landmark"),
        ("annotations.csv line 10 column image", "no image path"),
        ("annotations.csv line 11", "masked: a (-3, 5)"),
        ("annotations.csv line 12", "x.png is missing"),
    ]
    assert len(found) == len(expected), problems(annotations)
    for (where, what), (wanted_where, wanted_what) in zip(found, expected, strict=True):
        assert where == wanted_where
        assert wanted_what in what
    assert not any(problem.fatal for problem in annotations.problems)
    assert all(problem.cure for problem in annotations.problems)


@pytest.mark.parametrize(
    ("header", "word"),
    [
        ("image,a_x,b_x,b_y", "a has x without y"),
        ("image,a_y,b_x,b_y", "a has y without x"),
        ("image,a_x,a_y,a_x", "a_x is there twice"),
        ("image,image,a_x,a_y", "image is there twice"),
        ("picture,a_x,a_y", "no column image"),
        ("image,colour", "no landmark"),
    ],
)
def test_wide_csv_broken_header_is_fatal(csv_folder: Callable[..., Path], header: str, word: str) -> None:
    folder = csv_folder(header, "pictures/0.png,1,2,3,4")
    with pytest.raises(UserError, match=word) as error:
        read_annotations(folder / "annotations.csv")
    assert error.value.field == "dataset_path"


def test_wide_csv_lists_all_fatal_problems(csv_folder: Callable[..., Path]) -> None:
    with pytest.raises(UserError) as error:
        read_annotations(csv_folder("fruit,a_x,b_y"), "wide_csv")
    for word in ("a has x without y", "b has y without x", "no column image"):
        assert word in str(error.value)


def test_wide_csv_without_usable_image(csv_folder: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="no usable image") as error:
        read_annotations(csv_folder("image,a_x,a_y", "absent.png,1,2"))
    assert r"absent.png is missing" in str(error.value)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(-0.5, WIDTH - 0.5, width=32), st.floats(-0.5, HEIGHT - 0.5, width=32)),
        min_size=1,
        max_size=6,
    )
)
def test_wide_csv_keeps_every_point_inside(
    tmp_path_factory: pytest.TempPathFactory, points: list[tuple[float, float]]
) -> None:
    folder = tmp_path_factory.mktemp("points")
    write_image(folder / "a.png")
    header = ",".join(f"p{i}_x,p{i}_y" for i in range(len(points)))
    row = ",".join(f"{x!r},{y!r}" for x, y in points)
    annotations = read_annotations(write_text(folder / "a.csv", [f"image,{header}", f"a.png,{row}"]))
    np.testing.assert_array_equal(select_reader(annotations, "mean")[0], np.array(points, np.float32))


# --- ISBI 2015 ----------------------------------------------------------------------------------------------

ISBI_LINES = [f"{i + 1},{i + 20}" for i in range(19)]


def write_isbi_texts(
    root: Path, number: str, lines: list[str], readers: tuple[str, ...] = ("senior", "junior")
) -> None:
    for reader in readers:
        write_text(root / "AnnotationsByMD" / f"400_{reader}" / f"{number}.txt", lines)


@pytest.fixture
def isbi(tmp_path: Path) -> Path:
    root = tmp_path / "ISBI"
    images = {"TrainingData/001.bmp": "001", "TrainingData/002.JPG": "002", "Test1Data/151.jpg": "151"}
    for name, number in images.items():
        write_image(root / "RawImage" / name)
        write_isbi_texts(root, number, [*ISBI_LINES, "1", "2"])
    write_isbi_texts(root, "001", [f"{i + 1},{i + 19}" for i in range(19)])
    return root


def test_isbi(isbi: Path) -> None:
    annotations = read_annotations(isbi)
    check_consistent(annotations)
    assert annotations.problems == ()
    assert annotations.format == "isbi2015"
    assert annotations.reader_names == ("Senior Orthodontists", "Junior Orthodontists")
    assert annotations.landmark_names == isbi2015.LANDMARK_NAMES and len(annotations.landmark_names) == 19
    assert ids(annotations) == ["001", "002", "151"]
    assert list(annotations.images["split"]) == ["train", "train", "test1"]
    assert set(annotations.images["mm_per_px_x"]) == {0.1}
    np.testing.assert_array_equal(annotations.points_xy_image[2, 1, 18], [19, 38])


def test_isbi_problems(isbi: Path) -> None:
    junior = isbi / "AnnotationsByMD/400_junior"
    write_text(junior / "001.txt", [*ISBI_LINES[:18], "1", "2"])
    write_text(junior / "002.txt", ["1,x", *ISBI_LINES[1:18], "500,3"])
    (junior / "151.txt").unlink()
    for name in ("003.bmp", "004.bmp", "004.jpg"):
        write_image(isbi / "RawImage/TrainingData" / name)
    for number in ("004", "005", "301", "160"):
        write_isbi_texts(isbi, number, ISBI_LINES, ("senior",))
    annotations = read_annotations(isbi)
    check_consistent(annotations)
    assert ids(annotations) == ["001", "002", "151"]
    points = annotations.points_xy_image
    assert np.isnan(points[0, 1]).all() and np.isfinite(points[0, 0]).all()
    assert np.flatnonzero(np.isnan(points[1, 1, :, 0])).tolist() == [0, 18]
    np.testing.assert_array_equal(select_reader(annotations, "mean"), points[:, 0])
    text = problems(annotations)
    for wanted in (
        "AnnotationsByMD/400_junior/001.txt: 18 lines of x,y instead of 19",
        "AnnotationsByMD/400_junior/002.txt line 1 column 2: 'x' is not a finite number",
        "Junior Orthodontists outside the image of 80 x 60 px, masked: Articulare (500, 3)",
        "RawImage/Test1Data/151.jpg: no annotation by Junior Orthodontists; add AnnotationsByMD/400",
        "RawImage/TrainingData/003.bmp: image without annotation",
        "400_senior/004.txt: the image is ambiguous: RawImage/TrainingData/004.bmp or "
        "RawImage/TrainingData/004.jpg could be meant; it is left out",
        "AnnotationsByMD/400_senior/005.txt: the image of this annotation is missing",
        "AnnotationsByMD/400_senior/160.txt: the image of this annotation is missing",
    ):
        assert wanted in text
    assert "301" not in text  # the folder Test2Data as a whole is not there


def test_isbi_with_one_reader(isbi: Path) -> None:
    for file in (isbi / "AnnotationsByMD/400_junior").iterdir():
        file.unlink()
    (isbi / "AnnotationsByMD/400_junior").rmdir()
    annotations = read_annotations(isbi)
    assert annotations.reader_names == ("Senior Orthodontists",)
    assert "no annotations by Junior Orthodontists" in problems(annotations)
    assert len(annotations.problems) == 1
    np.testing.assert_array_equal(
        select_reader(annotations, "mean"), select_reader(annotations, "senior orthodontists")
    )


def test_isbi_real(shared_data: Path) -> None:
    folder = shared_data / "isbi2015"
    if not folder.is_dir():
        pytest.skip(f"ISBI 2015 is not in {folder}")
    annotations = read_annotations(folder)
    check_consistent(annotations)
    assert annotations.problems == ()
    assert annotations.images["split"].value_counts().to_dict() == {"train": 150, "test1": 150}
    assert annotations.points_xy_image.shape == (300, 2, 19, 2)
    test1 = annotations.points_xy_image[(annotations.images["split"] == "test1").to_numpy()]
    apart_mm = np.linalg.norm(test1[:, 0] - test1[:, 1], axis=-1).mean() * 0.1
    assert apart_mm == pytest.approx(2.36, rel=0.02)
    mean = select_reader(annotations, "mean")
    np.testing.assert_allclose(mean, annotations.points_xy_image.mean(axis=1), rtol=1e-6)


# --- Aariz --------------------------------------------------------------------------------------------------


def aariz_entries(offset: float = 0.0) -> list[dict[str, Any]]:
    return [
        {"landmark_id": f"id{i}", "title": name, "symbol": name, "value": {"x": i + offset, "y": 20 + i}}
        for i, name in enumerate(aariz.LANDMARK_NAMES)
    ]


def aariz_file(root: Path, split: str, reader: str, image_id: str) -> Path:
    folder = root / split / "Annotations/Cephalometric Landmarks" / f"{reader} Orthodontists"
    return folder / f"{image_id}.json"


def write_aariz_file(path: Path, entries: list[dict[str, Any]]) -> None:
    write_text(path, [json.dumps({"ceph_id": path.stem, "landmarks": entries}, ensure_ascii=False)])


@pytest.fixture
def ceph(tmp_path: Path) -> Path:
    root = tmp_path / "any name"
    mapping = ["cephalogram_id,machine,pixel_size,image_format,mode"]
    for split, image_id, suffix in (("train", "t1", "png"), ("train", "t2", "JPG"), ("valid", "v1", "bmp")):
        write_image(root / split / "Cephalograms" / f"{image_id}.{suffix}")
        moved = 1.0 if split == "valid" else 0.0
        write_aariz_file(aariz_file(root, split, "Senior", image_id), aariz_entries(moved))
        write_aariz_file(aariz_file(root, split, "Junior", image_id), aariz_entries(moved + 2.0))
        mapping.append(f"{image_id},Machine {split},0.1{len(mapping)},{suffix},{split.upper()}")
    write_text(root / aariz.MACHINES_FILE, mapping)
    return root


def test_aariz(ceph: Path) -> None:
    annotations = read_annotations(ceph)
    check_consistent(annotations)
    assert annotations.problems == ()
    assert annotations.format == "aariz"
    assert len(annotations.landmark_names) == 29
    assert ids(annotations) == ["t1", "t2", "v1"]
    assert list(annotations.images["split"]) == ["train", "train", "valid"]
    assert list(annotations.images["group"]) == ["Machine train", "Machine train", "Machine valid"]
    assert set(annotations.images["group_kind"]) == {"device"}
    assert (
        list(annotations.images["mm_per_px_x"])
        == list(annotations.images["mm_per_px_y"])
        == [0.11, 0.12, 0.13]
    )
    np.testing.assert_array_equal(select_reader(annotations, "mean")[1, 28], [29, 48])
    np.testing.assert_array_equal(select_reader(annotations, "JUNIOR orthodontists")[1, 28], [30, 48])


def test_a_short_line_of_aariz_machines_is_told_and_skipped(ceph: Path) -> None:
    machines = ["pixel_size,machine,cephalogram_id", "0.5", "0.1,M,t1", "0.1,M,t2", "0.1,M,v1"]
    write_text(ceph / aariz.MACHINES_FILE, machines)
    annotations = read_annotations(ceph)
    assert f"{aariz.MACHINES_FILE} line 2" in problems(annotations)
    assert list(annotations.images["mm_per_px_x"]) == [0.1] * 3


@pytest.mark.parametrize("prime", ["`", "'", "′", "’"])
def test_aariz_joins_by_symbol_then_id_never_by_position(ceph: Path, prime: str) -> None:
    entries = [
        {**entry, "symbol": entry["symbol"].replace("`", prime)} for entry in reversed(aariz_entries())
    ]
    entries[0]["symbol"] = "?"  # its landmark_id is known from the other files
    write_aariz_file(aariz_file(ceph, "train", "Senior", "t1"), entries)
    annotations = read_annotations(ceph)
    assert annotations.problems == ()
    np.testing.assert_array_equal(annotations.points_xy_image[0, 0], annotations.points_xy_image[1, 0])


def test_aariz_problems(ceph: Path) -> None:
    entries = aariz_entries()
    entries[3]["symbol"] = "Me"  # as it is
    entries[4]["value"] = {"x": "wide", "y": 1}
    entries[5]["value"] = None
    entries[6]["value"] = {"x": WIDTH, "y": 1}
    entries += [entries[0], {"landmark_id": "new", "symbol": "XX", "value": {"x": 1, "y": 1}}]
    del entries[7]
    write_aariz_file(aariz_file(ceph, "train", "Senior", "t1"), entries)
    write_text(aariz_file(ceph, "train", "Junior", "t1"), ["{", "no json"])
    aariz_file(ceph, "train", "Junior", "t2").unlink()
    write_image(ceph / "valid/Cephalograms/t1.png")
    write_aariz_file(aariz_file(ceph, "valid", "Senior", "t1"), aariz_entries())
    write_aariz_file(aariz_file(ceph, "valid", "Senior", "lost"), aariz_entries())
    write_image(ceph / "valid/Cephalograms/bare.png")
    write_text(ceph / aariz.MACHINES_FILE, ["cephalogram_id,machine,pixel_size", "t1,M,0", "t2,M,0.1"])
    annotations = read_annotations(ceph)
    check_consistent(annotations)
    assert ids(annotations) == ["t1", "t2", "v1"]
    assert np.flatnonzero(np.isnan(annotations.points_xy_image[0, 0, :, 0])).tolist() == [0, 4, 5, 6, 7]
    senior = "train/Annotations/Cephalometric Landmarks/Senior Orthodontists/t1.json"
    junior = senior.replace("Senior", "Junior")
    text = problems(annotations)
    for wanted in (
        f"{aariz.MACHINES_FILE} line 2 column pixel_size: a pixel size of 0 mm",
        f"{senior} landmark N x: 'wide' is not a finite number",
        f'{senior} landmark Or: no "value"',
        f"{senior}: landmark A is there 2 times",
        f"{senior}: landmark 'XX' is unknown",
        f"{senior}: 28 of 29 landmarks; missing: PNS",
        "train/Cephalograms/t1.png: landmarks of Senior Orthodontists outside the image",
        f"{junior} line 2 column 1: not JSON",
        "train/Cephalograms/t2.JPG: no annotation by Junior Orthodontists",
        "valid/Cephalograms/t1.png: image id 't1' is taken by train/Cephalograms/t1.png",
        "lost.json: the image of this annotation is missing",
        "valid/Cephalograms/bare.png: image without annotation",
        "no pixel size for 2 of 3 images",
    ):
        assert wanted in text, text


@pytest.mark.parametrize("content", ["{}", "[]", '{"landmarks": []}', '{"landmarks": [1]}', "", "\xff"])
def test_aariz_file_without_landmarks(ceph: Path, content: str) -> None:
    aariz_file(ceph, "train", "Senior", "t1").write_bytes(content.encode("latin-1"))
    annotations = read_annotations(ceph)
    assert len(annotations.problems) == 1
    assert np.isnan(annotations.points_xy_image[0, 0]).all()
    np.testing.assert_array_equal(select_reader(annotations, "mean")[0], annotations.points_xy_image[0, 1])


@pytest.mark.parametrize("mapping", [None, ["a,b", "1,2"], [""]])
def test_aariz_without_pixel_sizes(ceph: Path, mapping: list[str] | None) -> None:
    (ceph / aariz.MACHINES_FILE).unlink()
    if mapping is not None:
        write_text(ceph / aariz.MACHINES_FILE, mapping)
    annotations = read_annotations(ceph)
    assert annotations.images["mm_per_px_x"].isna().all()
    assert sum("no pixel size: errors are in pixels" in problem.what for problem in annotations.problems) == 1
    assert len(annotations.problems) == (1 if mapping is None else 2)


# --- DeepLabCut ---------------------------------------------------------------------------------------------


def write_dlc(
    project: Path, video: str, scorer: str = "Ada", rows: list[str] | None = None, old: bool = True
) -> Path:
    pad = "" if old else ",,"
    lead = f"labeled-data/{video}/" if old else f"labeled-data,{video},"
    for i in range(2):
        write_image(project / "labeled-data" / video / f"img{i}.png")
    lines = [
        f"scorer{pad}," + ",".join([scorer] * 4),
        f"bodyparts{pad},snout,snout,tail,tail",
        f"coords{pad},x,y,x,y",
        *(rows if rows is not None else [f"{lead}img0.png,1,2,3.5,4", f"{lead}img1.png,5,6,,"]),
    ]
    return write_text(project / "labeled-data" / video / f"CollectedData_{scorer}.csv", lines)


def test_deeplabcut(tmp_path: Path) -> None:
    write_dlc(tmp_path, "one")
    file = write_dlc(tmp_path, "two", old=False)
    annotations = read_annotations(tmp_path)
    check_consistent(annotations)
    assert annotations.format == "deeplabcut"
    assert annotations.reader_names == ("Ada",) and annotations.landmark_names == ("snout", "tail")
    assert ids(annotations) == ["one/img0", "one/img1", "two/img0", "two/img1"]
    assert list(annotations.images["group"]) == ["one", "one", "two", "two"]
    assert set(annotations.images["group_kind"]) == {"video"}
    assert set(annotations.images["split"]) == {"train"}
    np.testing.assert_array_equal(annotations.points_xy_image[2, 0], [[1, 2], [3.5, 4]])
    np.testing.assert_array_equal(annotations.points_xy_image[3, 0], [[5, 6], [np.nan, np.nan]])
    assert [problem.what for problem in annotations.problems] == ["no pixel size: errors are in pixels"]
    np.testing.assert_array_equal(select_reader(annotations, "ada"), select_reader(annotations, "mean"))
    assert len(read_annotations(tmp_path / "labeled-data").images) == 4
    for path in (file.parent, file):
        assert ids(read_annotations(path)) == ["two/img0", "two/img1"]


def test_deeplabcut_two_scorers_are_two_readers(tmp_path: Path) -> None:
    write_dlc(tmp_path, "one")
    write_dlc(tmp_path, "one", scorer="Bob", rows=["labeled-data/one/img1.png,7,8,9,10"])
    annotations = read_annotations(tmp_path)
    assert annotations.reader_names == ("Ada", "Bob")
    np.testing.assert_array_equal(select_reader(annotations, "mean")[1], [[6, 7], [9, 10]])


def test_deeplabcut_moved_video_folder(tmp_path: Path) -> None:
    write_dlc(tmp_path, "one")
    (tmp_path / "labeled-data/one").rename(tmp_path / "elsewhere")
    assert ids(read_annotations(tmp_path / "elsewhere")) == ["elsewhere/img0", "elsewhere/img1"]


def test_deeplabcut_problems(tmp_path: Path) -> None:
    image = "labeled-data/one/img0.png"
    rows = [f"{image},1,2,x,4", f"{image},1,2,3,4", "labeled-data/one/img9.png,1,2,3,4", f"{image},1,2"]
    write_dlc(tmp_path, "one", rows=[*rows, "labeled-data/one/img1.png,1,2,300,4"])
    annotations = read_annotations(tmp_path)
    check_consistent(annotations)
    assert ids(annotations) == ["one/img0", "one/img1"]
    file = "labeled-data/one/CollectedData_Ada.csv"
    for wanted in (
        f"{file} line 4 column tail x: 'x' is not a finite number",
        f"{file} line 5: image img0.png is there twice",
        f"{file} line 6: image labeled-data/one/img9.png is missing",
        f"{file} line 7: 3 cells, but the header has 5",
        f"{file} line 8: landmarks outside the image of 80 x 60 px, masked: tail (300, 4)",
    ):
        assert wanted in problems(annotations)


@pytest.mark.parametrize(
    ("header", "word"),
    [
        (["scorer,A,A", "individuals,m1,m2", "bodyparts,n,n", "coords,x,y"], "several animals"),
        (["scorer,A,A", "bodyparts,n,n"], "the first three rows"),
        (["scorer,A", "bodyparts,n", "coords,x"], "n lacks x or y"),
        (["scorer,A,A,A", "bodyparts,n,n,n", "coords,x,y,x"], "n x is there twice"),
        (["scorer", "bodyparts", "coords"], "there is no body part"),
    ],
)
def test_deeplabcut_broken_header_is_fatal(tmp_path: Path, header: list[str], word: str) -> None:
    write_text(tmp_path / "CollectedData_A.csv", header)
    with pytest.raises(UserError, match=word):
        read_annotations(tmp_path)
    write_dlc(tmp_path, "one")  # with another file that is sound, the broken one is only shown
    (tmp_path / "CollectedData_A.csv").rename(tmp_path / "labeled-data/one/CollectedData_A.csv")
    annotations = read_annotations(tmp_path)
    assert word in problems(annotations) and len(annotations.images) == 2


def test_deeplabcut_real(shared_data: Path) -> None:
    folder = shared_data / "openfield"
    if not folder.is_dir():
        pytest.skip(f"openfield is not in {folder}")
    annotations = read_annotations(folder)
    check_consistent(annotations)
    assert annotations.points_xy_image.shape == (116, 1, 4, 2)
    assert annotations.landmark_names == ("snout", "leftear", "rightear", "tailbase")
    assert set(annotations.images["group"]) == {"m4s1"}
    assert len(annotations.problems) == 1


# --- any format ---------------------------------------------------------------------------------------------


def test_the_settings_offer_the_formats_that_there_are() -> None:
    assert get_args(DatasetFormat) == ("auto", *FORMATS)
    assert all(name == format.name and format.layout for name, format in FORMATS.items())
    assert len({format.title for format in FORMATS.values()}) == len(FORMATS)


@pytest.mark.parametrize("name", FORMATS)
def test_what_a_format_reads_has_its_name(name: str) -> None:
    source = inspect.getsource(inspect.getmodule(FORMATS[name].read))
    assert re.findall(r'AnnotationsBuilder\("(\w+)"', source) == [name]


def test_detect_format(isbi: Path, ceph: Path, tmp_path: Path) -> None:
    write_dlc(tmp_path / "mouse", "one")
    csv = write_text(tmp_path / "table" / "any.csv", ["image,a_x,a_y"])
    found = {path.name: detect_format(path) for path in (isbi, ceph, tmp_path / "mouse", csv.parent, csv)}
    assert found == {
        "ISBI": "isbi2015",
        "any name": "aariz",
        "mouse": "deeplabcut",
        "table": "wide_csv",
        "any.csv": "wide_csv",
    }
    (tmp_path / "empty").mkdir()
    assert [path.name for path in find_datasets(tmp_path)] == ["ISBI", "any name", "mouse", "table"]
    assert find_datasets(isbi) == [isbi]
    assert find_datasets(tmp_path / "absent") == []


def test_detect_format_says_what_it_looked_for(isbi: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="AnnotationsByMD") as error:
        detect_format(tmp_path)
    assert error.value.field == "dataset_path"
    assert str(isbi) in error.value.cure


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.csv", "picture,nose,chin\n",
        "wide_csv: a.csv line 1: no column image and no landmark: no column <name>_x"),
        ("a.csv", "\n\nimage,split\n", "wide_csv: a.csv line 3: no landmark"),
        ("a.csv", "", "wide_csv: a.csv is empty"),
        ("a.tsv", "time\tx\ty\n", "wide_csv: a.tsv line 1: no column image"),
        ("a.json", '{"images": [], "annotations": []}', 'coco: a.json no list "categories"'),
        ("a.json", '{"images": [],\n "annotations": [}', "; a.json line 2 column 18: not JSON"),
        ("a.json", '{"images": [], "annotations": [], "categories": []}',
        'coco: a.json no category has a list'),
        ("RawImage/TrainingData/001.bmp", "", "isbi2015: AnnotationsByMD is missing"),
    ],
)  # fmt: skip
def test_folder_that_is_no_data_set_reports_each_near_miss(
    tmp_path: Path, name: str, text: str, says: str
) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match="not a data set") as error:
        detect_format(tmp_path)
    assert says in error.value.what


def test_a_file_that_is_not_json_is_no_formats_own(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"assets": {')
    with pytest.raises(UserError) as error:
        detect_format(tmp_path)
    found = re.findall(r"(\S+ )?a\.json line 1 column \d+: not JSON", error.value.what)
    assert found == ["set; "]  # once, without the name of a format


def test_path_and_format_that_are_not_there(isbi: Path, tmp_path: Path) -> None:
    for ask in (detect_format, read_annotations):
        with pytest.raises(UserError, match="does not exist") as error:
            ask(tmp_path / "absent")
        assert error.value.field == "dataset_path"
    with pytest.raises(UserError, match="voc") as error:
        read_annotations(isbi, "voc")
    assert error.value.field == "dataset_format"


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_a_named_format_in_the_wrong_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError):
        read_annotations(tmp_path, name)


def test_unknown_reader(isbi: Path) -> None:
    with pytest.raises(UserError, match="Senior Orthodontists, Junior Orthodontists") as error:
        select_reader(read_annotations(isbi), "Median")
    assert error.value.field == "annotation_type"


# --- problems and their images ------------------------------------------------------------------------------


def test_a_problem_knows_the_image_that_it_is_about(tmp_path: Path) -> None:
    for name in ("a.png", "b c.png"):
        write_image(tmp_path / name)
    lines = ["image,nose_x,nose_y", "a.png,500,5", "b c.png,x,5", "gone.png,5,5", "b c.png,5"]
    write_image(tmp_path / "d.png")
    write_text(tmp_path / "marks.csv", [*lines, "d.png,5,5"])
    found = {one.where: one.image and one.image.name for one in read_annotations(tmp_path).problems}
    assert found["marks.csv line 2"] == "a.png"  # outside of its image
    assert found["marks.csv line 3 column nose_x"] == "b c.png"
    assert found["marks.csv line 4"] is None  # missing
    assert found["marks.csv line 5"] is None  # too few cells to be trusted
    assert found[tmp_path.name] is None  # no pixel size: about all of them


def test_a_problem_of_an_annotation_file_is_about_its_image(tmp_path: Path) -> None:
    write_image(tmp_path / "RawImage" / "TrainingData" / "001.bmp")
    write_image(tmp_path / "RawImage" / "TrainingData" / "002.bmp")
    marks = tmp_path / "AnnotationsByMD" / "400_senior"
    write_text(marks / "001.txt", [f"{k + 1},{k + 1}" for k in range(19)])
    write_text(marks / "002.txt", ["1,1"])
    (found,) = [one for one in isbi2015.read(tmp_path).problems if "lines of x,y" in one.what]
    assert found.where.endswith("002.txt") and found.image is not None and found.image.name == "002.bmp"
