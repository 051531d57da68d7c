"""Written files are read back with the same points; corrected and missing ones stay so."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from backend.data.annotations import Annotations, read_annotations
from backend.data.annotations.aariz import LANDMARK_NAMES
from backend.data.annotations.csv_rows import guard_text, read_rows
from backend.data.annotations.writers import (
    EXPORTS,
    MarkedImage,
    read_json_export,
    to_csv,
    to_json,
    unused_name,
)
from backend.errors import UserError
from backend.overlays import encode_png

NAMES = ["S", "N`", "Upper lip"]
ARCHIVES = ["csv_zip", "coco_zip", "aariz_zip"]


def marked(
    folder: Path, name: str, seed: int, num: int = 3, mm: tuple[float, float] = (0.1, 0.1)
) -> MarkedImage:
    """An image of 60 x 50 pixels whose first landmark was moved and whose last was removed."""
    rng = np.random.default_rng(seed)
    predicted = rng.uniform(0, 49, (num, 2))
    points = predicted.copy()
    points[0] += (0.5, 0.25)
    points[-1] = np.nan
    path = folder / f"{seed}.png"
    path.write_bytes(encode_png(rng.integers(0, 256, (60, 50), np.uint8)))
    return MarkedImage(name, path, (60, 50), points, predicted, np.linspace(0.2, 1, num), mm, "typed")


def export(folder: Path, format: str, images: list[MarkedImage], names: list[str]) -> Path:
    """The exported file, or the folder into which the archive was unpacked."""
    name, write = EXPORTS[format]
    path = folder / name
    write(path, images, names)
    if path.suffix != ".zip":
        return path
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder / format)
    return folder / format


def points_by_stem(annotations: Annotations) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    stems = [Path(name).stem for name in annotations.images["path"]]
    return dict(zip(stems, annotations.points_xy_image[:, 0], strict=True))


@pytest.mark.parametrize("format", ARCHIVES)
def test_an_archive_is_a_data_set_with_the_same_points(tmp_path: Path, format: str) -> None:
    names = list(LANDMARK_NAMES) if format == "aariz_zip" else NAMES
    images = [marked(tmp_path, "a.jpg", 0, len(names)), marked(tmp_path, "b.dcm", 1, len(names))]
    read = read_annotations(export(tmp_path, format, images, names))
    assert read.format == format.removesuffix("_zip").replace("csv", "wide_csv")
    assert list(read.landmark_names) == names
    assert read.images["split"].tolist() == ["train", "train"]
    found = points_by_stem(read)
    for image in images:
        np.testing.assert_allclose(found[Path(image.name).stem], image.points_xy_image, atol=6e-4)
    if format != "coco_zip":  # which has no place for it
        assert read.images["mm_per_px_x"].tolist() == [0.1, 0.1]


@pytest.mark.parametrize("format", ARCHIVES)
def test_images_of_one_name_keep_a_file_each(tmp_path: Path, format: str) -> None:
    images = [marked(tmp_path, "a.jpg", 0), marked(tmp_path, "A.png", 1)]
    names = ["S", "Sn", "Go"]
    read = read_annotations(export(tmp_path, format, images, names))
    found = points_by_stem(read)
    assert sorted(found) == ["A-2", "a"]
    columns = [read.landmark_names.index(name) for name in names]
    np.testing.assert_allclose(found["A-2"][columns], images[1].points_xy_image, atol=6e-4)


def test_the_table_is_read_back_beside_its_images(tmp_path: Path) -> None:
    images = [marked(tmp_path, "0.png", 0, mm=(0.1, 0.2)), marked(tmp_path, "1.png", 1, mm=(np.nan, np.nan))]
    read = read_annotations(export(tmp_path, "csv", images, NAMES))
    np.testing.assert_allclose(
        read.points_xy_image[:, 0], [image.points_xy_image for image in images], atol=6e-4
    )
    spacings = read.images[["mm_per_px_x", "mm_per_px_y"]].to_numpy()
    assert np.array_equal(spacings, [(0.1, 0.2), (np.nan, np.nan)], equal_nan=True)
    assert "mm_per_px" not in to_csv(images[1:], NAMES)


def test_a_corrected_landmark_has_no_confidence_in_the_table(tmp_path: Path) -> None:
    image = marked(tmp_path, "0.png", 0)
    assert image.corrected == [True, False, True]
    header, line = (
        row.split(",") for row in export(tmp_path, "csv", [image], NAMES).read_text().splitlines()
    )
    confidences = [cell for name, cell in zip(header, line, strict=True) if name.endswith("_confidence")]
    assert confidences == ["", f"{image.confidence[1]:.4f}", ""]


def test_json_tells_prediction_correction_and_millimetres_apart(tmp_path: Path) -> None:
    image = marked(tmp_path, "a.png", 0, mm=(0.1, 0.2))
    content = json.loads(export(tmp_path, "json", [image], NAMES).read_text())
    first, second, last = (content["images"][0]["landmarks"][name] for name in NAMES)
    assert first["corrected"] and last["corrected"] and not second["corrected"]
    assert first["xy"] == pytest.approx(image.points_xy_image[0], abs=1e-3)
    assert first["xy_mm"] == pytest.approx(image.points_xy_image[0] * (0.1, 0.2), abs=1e-3)
    assert first["predicted_xy"] == pytest.approx(image.predicted_xy_image[0], abs=1e-3)
    assert last["xy"] is None and last["xy_mm"] is None and last["predicted_xy"] is not None
    names, found = read_json_export(content)
    assert names == NAMES
    np.testing.assert_allclose(found["a.png"][0], image.predicted_xy_image, atol=1e-3)
    assert [one["confidence"] for one in (first, second, last)] == [
        None,
        pytest.approx(image.confidence[1]),
        None,
    ]
    np.testing.assert_allclose(found["a.png"][1], [np.nan, image.confidence[1], np.nan])
    unknown = to_json([replace(image, mm_per_px_xy=(np.nan, np.nan))], NAMES)["images"][0]
    assert unknown["mm_per_px_xy"] is None and unknown["landmarks"]["S"]["xy_mm"] is None


def test_aariz_takes_only_its_own_landmarks_and_square_pixels(tmp_path: Path) -> None:
    write = EXPORTS["aariz_zip"][1]
    with pytest.raises(UserError, match="not Upper lip") as caught:
        write(tmp_path / "x.zip", [marked(tmp_path, "a.png", 0)], NAMES)
    assert "COCO" in caught.value.cure
    with pytest.raises(UserError, match=r"pixels of a\.png are 0\.1 x 0\.2 mm"):
        write(tmp_path / "x.zip", [marked(tmp_path, "a.png", 0, mm=(0.1, 0.2))], ["S", "N", "A"])


def test_an_unused_name_is_numbered_in_any_case() -> None:
    taken: set[str] = set()
    assert [unused_name(name, taken) for name in ("a", "A", "b", "a")] == ["a", "A-2", "b", "a-3"]


FORMULAS = ["=1+1", "+5", "-3.2", "@a", "'=b", "''-c", "plain", "don't"]


@pytest.mark.parametrize("text", FORMULAS)
def test_text_that_is_a_formula_is_guarded_and_read_back(tmp_path: Path, text: str) -> None:
    guarded = guard_text(text)
    assert guarded[0] not in "=+-@\t\r" and (guarded == text) == (text in ("plain", "don't"))
    (tmp_path / "a.csv").write_text(f"{guarded},x\n", encoding="utf-8")
    assert read_rows(tmp_path / "a.csv", lambda *_: None) == [(1, [text, "x"])]


def test_a_table_from_the_page_opens_in_excel_and_is_read_back(tmp_path: Path) -> None:
    names = ["-بینی", "=چانه", "+2"]
    image = replace(marked(tmp_path, "=علی.png", 0), points_xy_image=np.array([[-0.25, 3], [5, 6], [7, 8]]))
    (tmp_path / image.name).write_bytes(image.path.read_bytes())
    for format in ("csv", "csv_zip"):
        table = export(tmp_path, format, [image], names)
        written = (table if table.is_file() else table / "predictions.csv").read_bytes()
        assert written.startswith(b"\xef\xbb\xbf")
        header, row = csv.reader(io.StringIO(written.decode("utf-8-sig")))
        assert header[1] == "'-بینی_x" and row[1] == "-0.250"  # a number is no formula
        read = read_annotations(table)
        assert list(read.landmark_names) == names and Path(read.images["path"][0]).stem == "=علی"
        np.testing.assert_allclose(read.points_xy_image[0, 0], image.points_xy_image, atol=6e-4)


def test_the_table_of_the_command_line_has_neither_mark_nor_guard(tmp_path: Path) -> None:
    text = to_csv([marked(tmp_path, "=a.png", 0)], ["-nose", "chin", "ear"])
    assert text.startswith("image,-nose_x,-nose_y,") and "\n=a.png," in text
