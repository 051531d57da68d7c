"""Tables of other programs (encodings, delimiters, numbers, titles, a row per point), and written ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from backend.data.annotations import Annotations, detect_format, read_annotations
from backend.data.annotations.text_encoding import CODE_PAGES, decode_table
from backend.errors import UserError

HEIGHT, WIDTH = 60, 80
POINTS = [[[12.5, 20.25], [30, 40]], [[13.5, 21.25], [31, 41]]]
# Real words, some in letters that Arabic has not; cp1256 has no Persian yeh, so ي stands for it as in old
# programs.
NOSE, CHIN, EAR, LIP = "بيني", "چانه", "گوش", "لب"


def write_images(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        content = cv2.imencode(Path(name).suffix, np.zeros((HEIGHT, WIDTH), np.uint8))[1].tobytes()
        (folder / name).write_bytes(content)


def read_table(folder: Path, text: str, encoding: str = "utf-8", name: str = "labels.csv") -> Annotations:
    """Read as a data set of the pictures 0.png and 1.png."""
    write_images(folder, "0.png", "1.png")
    (folder / name).write_bytes(text.encode(encoding))
    return read_annotations(folder)


def told(annotations: Annotations) -> str:
    return "\n".join(str(problem) for problem in annotations.problems if "no pixel size" not in problem.what)


def check_points(annotations: Annotations, points: object = POINTS) -> None:
    np.testing.assert_allclose(annotations.points_xy_image[:, 0], np.array(points), atol=1e-4)


SAVE_AS = "save it as UTF-8 if a name in it looks wrong"
PLAIN = "image,nose_x,nose_y,chin_x,chin_y\n0.png,12.5,20.25,30,40\n1.png,13.5,21.25,31,41\n"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text.encode("utf-8-sig"), ""),
        (lambda text: ("\ufeff\ufeff" + text).encode(), ""),
        (lambda text: text.encode("utf-16"), "UTF-16"),
        (lambda text: text.encode("utf-16-le"), "UTF-16-LE"),
        (lambda text: text.encode("utf-16-be"), "UTF-16-BE"),
        (lambda text: b"\xfe\xff" + text.encode("utf-16-be"), "UTF-16"),
        (lambda text: text.encode("utf-32"), "UTF-32"),
        (lambda text: text.encode("utf-32-le"), "UTF-32-LE"),
        (lambda text: ("sep=,\r\n" + text).encode(), ""),
        (lambda text: ('"sep=;"\n' + text.replace(",", ";")).encode(), ""),
        (lambda text: text.replace(",", ";").replace(".5", ",5").replace(".25", ",25").encode(), ""),
        (
            lambda text: text.replace(",", "\t").replace(".5", ",5").replace(".25", ",25").encode("utf-16"),
            "UTF-16",
        ),
        (lambda text: text.replace(",", "|").encode(), ""),
        (lambda text: text.replace("\n", "\r").encode(), ""),
        (lambda text: text.replace("\n", ",,\n").encode(), ""),
        (lambda text: text.replace("40\n", "40,,,\n").encode(), ""),
        (lambda text: text.replace("chin_y\n", "chin_y,,\n").encode(), ""),
        (lambda text: text.replace("12.5", "۱۲٫۵").replace("30,40", "٣٠,٤٠").encode(), ""),
        (lambda text: text.replace("12.5", '"12,5"').encode(), ""),
    ],
)  # fmt: skip
def test_a_table_is_read_however_it_was_saved(
    tmp_path: Path, change: Callable[[str], bytes], says: str
) -> None:
    write_images(tmp_path, "0.png", "1.png")
    (tmp_path / "labels.csv").write_bytes(change(PLAIN))
    annotations = read_annotations(tmp_path)
    check_points(annotations)
    assert annotations.landmark_names == ("nose", "chin")
    assert told(annotations) == (f"labels.csv: read as {says}; {SAVE_AS}" if says else "")


@pytest.mark.parametrize(
    "header",
    [
        "image,x_nose,y_nose,x_chin,y_chin",
        "filename,nose.x,nose.y,chin.x,chin.y",
        "file_name,nose_X,nose_Y,chin_X,chin_Y",
        "Image Path,noseX,noseY,chinX,chinY",
        "path,nose x,nose y,chin x,chin y",
        "FILE,nose (x),nose (y),chin (x),chin (y)",
        "imageName,X_nose,Y_nose,X_chin,Y_chin",
        "img,nosex,nosey,chinX,chinY",
    ],
)
def test_columns_are_known_by_the_names_that_programs_give_them(tmp_path: Path, header: str) -> None:
    annotations = read_table(tmp_path, PLAIN.replace("image,nose_x,nose_y,chin_x,chin_y", header))
    check_points(annotations)
    assert annotations.landmark_names == ("nose", "chin") and told(annotations) == ""


def test_name_ending_in_an_axis_is_kept(tmp_path: Path) -> None:
    table = "image,x_a_x,y_a_x,x1_x,x1_y\n0.png,12.5,20.25,30,40\n1.png,13.5,21.25,31,41\n"
    annotations = read_table(tmp_path, table)
    check_points(annotations)
    assert annotations.landmark_names == ("a_x", "x1")


def test_the_corners_of_boxes_are_no_landmarks(tmp_path: Path) -> None:
    (tmp_path / "boxes.csv").write_text("filename,x1,y1,x2,y2\n0.png,1,2,3,4\n")
    (tmp_path / "more.csv").write_text("filename,x_min,y_min,x_max,y_max\n0.png,1,2,3,4\n")
    with pytest.raises(UserError, match=r"boxes\.csv line 1: no landmark"):
        detect_format(tmp_path)
    (tmp_path / "corners.csv").write_text("image,label,x,y,w,h\n0.png,dog,1,2,3,4\n")
    with pytest.raises(UserError, match=r"corners\.csv line 1: no landmark"):
        detect_format(tmp_path)
    numbered = "image,x1,y1,x2,y2,x3,y3\n0.png,1,2,3,4,5,6\n"
    (tmp_path / "points.csv").write_text(numbered)
    write_images(tmp_path, "0.png")
    check_points(read_annotations(tmp_path), [[[1, 2], [3, 4], [5, 6]]])


def test_unnamed_column_is_reported_if_not_empty(tmp_path: Path) -> None:
    table = ",image,nose_x,nose_y,\n0,0.png,1,2,\n1,1.png,3,4,\n"
    annotations = read_table(tmp_path, table)
    check_points(annotations, [[[1, 2]], [[3, 4]]])
    assert "ignored: column 1 (without a name);" in told(annotations)


# --- numbers ------------------------------------------------------------------------------------------------


def test_a_comma_that_can_stand_before_thousands_is_refused(tmp_path: Path) -> None:
    annotations = read_table(tmp_path, "image;a_x;a_y;b_x;b_y\n0.png;1,250;12;3;4\n1.png;1;2;3;4\n")
    assert "labels.csv line 2 column a_x: '1,250' can mean 1.250 or 1250; it is masked" in told(annotations)
    check_points(annotations, [[[np.nan, np.nan], [3, 4]], [[1, 2], [3, 4]]])


def test_one_certain_decimal_comma_decides_for_the_table(tmp_path: Path) -> None:
    for shown in ("12,5", "53,125"):
        annotations = read_table(tmp_path, f"image;a_x;a_y\n0.png;1,250;{shown}\n1.png;1,500;2\n")
        assert annotations.points_xy_image[:, 0, 0, 0].tolist() == [1.25, 1.5] and told(annotations) == ""


def test_a_decimal_comma_is_read_in_pixel_sizes_too(tmp_path: Path) -> None:
    annotations = read_table(tmp_path, "image;a_x;a_y;mm_per_px\n0.png;1;2;0,125\n1.png;1;2;۰٫۲۵\n")
    assert annotations.images["mm_per_px_x"].tolist() == [0.125, 0.25] and told(annotations) == ""


def test_a_deeplabcut_table_that_excel_saved_anew_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "labeled-data" / "video"
    write_images(folder, "0.png", "1.png")
    rows = ["scorer;علی;علی", "bodyparts;نوک;نوک", "coords;x;y"]
    rows += ["labeled-data/video/0.png;12,500;20,25;;", "labeled-data/video/1.png;1,250;2;;"]
    (folder / "CollectedData_a.csv").write_bytes("\r\n".join(rows).encode("utf-16"))
    annotations = read_annotations(tmp_path)
    check_points(annotations, [[[12.5, 20.25]], [[1.25, 2]]])
    assert annotations.reader_names == ("علی",) and annotations.landmark_names == ("نوک",)
    assert "CollectedData_a.csv: read as UTF-16" in told(annotations)


# --- encodings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "images"),
    [
        ((NOSE,), ("0.png",)),
        ((CHIN,), ("0.png",)),
        ((EAR, LIP), ("0.png", "1.png")),
        (("سر",), ("0.png",)),
        (("گوش راست", "چشم چپ"), ("بيمار 1.png", "بيمار 2.png")),
        (("nose",), ("پرونده.png",)),
        (("سلا", "ناسيون", "اربيتال", "پوريون"), ("علي.png", "رضا.png", "مريم.png")),
    ],
)
def test_persian_in_windows_1256_is_recognised_in_a_few_lines(
    tmp_path: Path, names: tuple[str, ...], images: tuple[str, ...]
) -> None:
    write_images(tmp_path, *images)
    header = ",".join(f"{name}_{axis}" for name in names for axis in "xy")
    lines = [f"image,{header}", *(f"{image}{',12.5,20' * len(names)}" for image in images)]
    (tmp_path / "labels.csv").write_bytes("\r\n".join(lines).encode("cp1256"))
    annotations = read_annotations(tmp_path)
    assert annotations.landmark_names == names
    assert sorted(annotations.images["image_id"]) == sorted(images)
    assert "labels.csv: is not UTF-8; read as cp1256 (Windows, Persian and Arabic)" in told(annotations)


def test_windows_1256_table_finds_images_with_persian_yeh(tmp_path: Path) -> None:
    write_images(tmp_path, "علی.png")
    (tmp_path / "labels.csv").write_bytes(f"image,{NOSE}_x,{NOSE}_y\nعلي.png,1,2\n".encode("cp1256"))
    annotations = read_annotations(tmp_path)
    assert list(annotations.images["image_id"]) == ["علی.png"] and annotations.landmark_names == ("بینی",)
    assert "with ی for ي as in the images' names" in told(annotations)


@pytest.mark.parametrize(
    ("encoding", "name"),
    [("cp1255", "סנטר"), ("cp1251", "сриш"), ("gb18030", "下颌"), ("cp949", "환자"), ("cp1254", "ağız")],
)
def test_the_names_of_images_decide_between_code_pages(tmp_path: Path, encoding: str, name: str) -> None:
    """The same bytes are words in several code pages; only one names the picture that is there."""
    write_images(tmp_path, f"pictures/{name}.png")
    (tmp_path / "labels.csv").write_bytes(f"image,a_x,a_y\npictures/{name}.png,1,2\n".encode(encoding))
    annotations = read_annotations(tmp_path)
    assert list(annotations.images["image_id"]) == [f"pictures/{name}.png"]
    assert f"read as {encoding}" in told(annotations)


@pytest.mark.parametrize(
    ("encoding", "header"),
    [
        ("cp1252", "image;Öhr_x;Öhr_y;Nasenflügel_x;Nasenflügel_y"),
        ("cp1252", "image,mâchoire_x,mâchoire_y,tête_x,tête_y"),
        ("cp1251", "image,нос_x,нос_y,ухо_x,ухо_y"),
        ("cp1253", "image,μύτη_x,μύτη_y,σαγόνι_x,σαγόνι_y"),
        ("cp932", "image,鼻_x,鼻_y,顎_x,顎_y"),
        ("gb18030", "image,鼻子_x,鼻子_y,左眼_x,左眼_y"),
    ],
)
def test_words_decide_where_no_image_does(tmp_path: Path, encoding: str, header: str) -> None:
    decoded = decode_table(f"{header}\n0.png,1,2,3,4\n".encode(encoding), tmp_path)
    assert (decoded.encoding, decoded.text.split("\n")[0]) == (encoding, header)
    assert CODE_PAGES[encoding] in decoded.remark


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"PK\x03\x04rest", "is an Excel workbook"),
        ("image,بینی_x,بینی_y\nعلی.png,1,2\n".encode() + "چانه.png,1,2\n".encode("cp1256"), "line 3 is not"),
        (b"\xef\xbb\xbfimage,\xff_x\n", "is not UTF-8 text from byte"),
        (bytes(range(256)) * 4, "is not text: byte 0 is zero"),
        (bytes([0x81, 1, 2, 3, 4]) * 40, "is not text in an encoding that is known"),
    ],
)
def test_what_is_no_text_says_so(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "labels.csv").write_bytes(content)
    with pytest.raises(UserError, match=says) as error:
        read_annotations(tmp_path / "labels.csv")
    assert error.value.cure


# --- one row per point --------------------------------------------------------------------------------------


NAMED, COUNTED = ("nose", "chin"), ("1", "2")


@pytest.mark.parametrize(
    ("table", "names"),
    [
        ("image,landmark,x,y/0.png,nose,1,2/0.png,chin,3,4/1.png,chin,7,8/1.png,nose,5,6", NAMED),
        ("Label,X,Y/0.png,1,2/0.png,3,4/1.png,5,6/1.png,7,8", COUNTED),
        (" ,Label,X,Y/1,0.png:nose,1,2/2,0.png:chin,3,4/3,1.png:nose,5,6/4,1.png:chin,7,8", NAMED),
        ("Label,X,Y/0.png:0002-0001,1,2/0.png:0004-0003,3,4/1.png,5,6/1.png,7,8", COUNTED),
        ("Label,X,Y/d:nose:0.png,1,2/d:chin:0.png,3,4/d:nose:1.png,5,6/d:chin:1.png,7,8", NAMED),
        ("Label;X;Y/d:0.png;1,0;2/d:0.png;3;4/d:1.png;5;6/d:1.png;7;8", COUNTED),
    ],
)
def test_a_table_with_a_row_per_point_is_read(tmp_path: Path, table: str, names: tuple[str, ...]) -> None:
    annotations = read_table(tmp_path, table.replace("/", "\n"), name="Results.csv")
    assert annotations.landmark_names == names
    check_points(annotations, [[[1, 2], [3, 4]], [[5, 6], [7, 8]]])
    if table.startswith(" "):  # the number of the row
        assert "column 1 (without a name)" in told(annotations)
    else:
        assert told(annotations) == ""


def test_points_without_names_are_never_counted_off_where_one_is_missing(tmp_path: Path) -> None:
    write_images(tmp_path, "2.png")
    rows = [f"{k}.png,{10 + n},{20 + n}" for k in range(3) for n in range(3) if (k, n) != (1, 1)]
    annotations = read_table(tmp_path, "\n".join(["Label,X,Y", *rows]))
    assert list(annotations.images["image_id"]) == ["0.png", "2.png"]
    assert "labels.csv line 5: 1.png has 2 points without names, most images have 3; it is left out" in told(
        annotations
    )


def test_a_point_twice_and_lines_that_contradict_are_reported(tmp_path: Path) -> None:
    lines = [
        "image,name,x,y,split",
        "0.png,nose,1,2,train",
        "0.png,nose,9,9,test",
        "1.png,nose,3,4,test",
        "1.png,,5,6,test",
    ]
    annotations = read_table(tmp_path, "\n".join(lines))
    check_points(annotations, [[[1, 2]], [[3, 4]]])
    assert list(annotations.images["split"]) == ["train", "test"]
    for words in (
        "line 3: landmark nose is in line 2 too; the first counts",
        "line 3 column split: 'test' and, in labels.csv line 2, 'train' for one image",
        "line 5: no landmark's name",
    ):
        assert words in told(annotations)


@pytest.mark.parametrize("name", ["d2", "d3", "d6"])
def test_the_planted_tables_are_read(shared_cases: Path, name: str) -> None:
    annotations = read_annotations(shared_cases / "csv" / name)
    assert annotations.landmark_names == ("alpha", "beta", "gamma", "delta")
    base = np.array([[0.25, 0.3], [0.7, 0.25], [0.6, 0.7], [0.3, 0.75]])
    shifts = [np.random.default_rng(1000 + k).uniform(-0.08, 0.08, (4, 2)) for k in range(3)]
    check_points(annotations, [np.round((base + shift) * [128, 96], 2) for shift in shifts])
