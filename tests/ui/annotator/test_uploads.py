"""What is kept of an uploaded file, and what becomes of predictions and corrections."""

from __future__ import annotations

import csv
import math
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from backend.errors import UserError
from ui.annotator.uploads import (
    Uploads,
    adopt,
    correct,
    forget,
    list_for_prediction,
    pixels_path,
    shown_path,
    take_in,
    thumbnail_path,
    uploads_root,
)

NAMES = ["nose", "chin"]


def upload(folder: Path, name: str, pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, pixels)[1].tobytes())
    return path


@pytest.fixture
def grey() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (60, 50), np.uint8)


@pytest.fixture
def uploads(tmp_path: Path, grey: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Uploads:
    """Two images with predictions."""
    held = Uploads()
    for name in ("a.png", "b.png"):
        take_in(held, upload(tmp_path, name, grey))
    points = np.array([[10.0, 20.0], [30.0, 40.0]])
    adopt(held, NAMES, {f"{image.key}.png": (points, np.array([0.9, 0.3])) for image in held.images})
    return held


def write_film(path: Path, **fields: object) -> Path:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1", "1.2.3"
    dataset.PatientName, dataset.PhotometricInterpretation = "Secret^Name", "MONOCHROME2"
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = 6, 4, 1
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    dataset.PixelData = bytes(range(24))
    for name, value in fields.items():
        setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


def test_only_pixels_and_pixel_size_are_kept(tmp_path: Path) -> None:
    uploads = Uploads()
    path = write_film(tmp_path / "film.dcm", ImagerPixelSpacing=[0.2, 0.1])
    image = take_in(uploads, path)
    assert not path.exists()
    assert (image.name, image.size_hw) == ("film.dcm", (6, 4))
    assert (image.mm_per_px_xy, image.spacing_field) == ((0.1, 0.2), "ImagerPixelSpacing")
    assert uploads.folder is not None and uploads.folder.parent == uploads_root()
    kept = sorted(uploads.folder.iterdir())
    assert kept == sorted(
        [pixels_path(uploads.folder, image.key), shown_path(uploads, image), thumbnail_path(uploads, image)]
    )
    assert not any(b"Secret" in file.read_bytes() for file in kept)
    stored = cv2.imread(str(pixels_path(uploads.folder, image.key)), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(stored, np.arange(24).reshape(6, 4))
    forget(uploads)
    assert not kept[0].parent.exists() and uploads.images == [] and uploads.folder is None


def test_a_16_bit_film_is_kept_as_the_networks_see_it(tmp_path: Path) -> None:
    deep = np.linspace(0, 60000, 60 * 50).reshape(60, 50).astype(np.uint16)
    path = tmp_path / "deep.tif"
    cv2.imwrite(str(path), deep)
    uploads = Uploads()
    image = take_in(uploads, path)
    assert uploads.folder is not None
    stored = cv2.imread(str(pixels_path(uploads.folder, image.key)), cv2.IMREAD_UNCHANGED)
    assert stored is not None and stored.dtype == np.uint8 and (stored.min(), stored.max()) == (0, 255)
    forget(uploads)


def test_a_bad_file_is_named_as_the_user_does_and_goes_too(tmp_path: Path) -> None:
    path = tmp_path / "notes.png"
    path.write_bytes(b"nonsense")
    uploads = Uploads()
    with pytest.raises(UserError) as caught:
        take_in(uploads, path)
    assert str(caught.value).startswith("notes.png is damaged") and not path.exists()
    assert uploads.images == [] and uploads.folder is None


def test_images_of_one_name_get_a_number(
    tmp_path: Path, grey: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
) -> None:
    uploads = Uploads()
    for folder in ("one", "two"):
        take_in(uploads, upload(tmp_path / folder, "same.png", grey))
    assert [image.name for image in uploads.images] == ["same.png", "same-2.png"]
    forget(uploads)


def test_a_typed_pixel_size_counts_where_the_file_states_none(uploads: Uploads, tmp_path: Path) -> None:
    film = take_in(uploads, write_film(tmp_path / "film.dcm", PixelSpacing=[0.2, 0.1]))
    plain = uploads.images[0]
    assert math.isnan(uploads.mm_per_px_xy(plain)[0]) and uploads.spacing_source(plain) == ""
    uploads.typed_mm_per_px = 0.5
    assert uploads.mm_per_px_xy(plain) == (0.5, 0.5) and uploads.spacing_source(plain) == "typed"
    assert uploads.mm_per_px_xy(film) == (0.1, 0.2) and "PixelSpacing" in uploads.spacing_source(film)
    with list_for_prediction(uploads).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["mm_per_px_x"] for row in rows] == ["0.5", "0.5", "0.1"]
    assert all((list_for_prediction(uploads).parent / row["image"]).is_file() for row in rows)


def test_corrections_count_stay_in_the_image_and_survive_a_new_prediction(uploads: Uploads) -> None:
    first = uploads.images[0]
    assert first.num_low == 1
    assert correct(uploads, first.key, [[12.5, -99], None], 1) is first
    assert first.points_xy_image is not None
    assert np.array_equal(first.points_xy_image, [[12.5, -0.5], [np.nan, np.nan]], equal_nan=True)
    assert first.is_corrected and not uploads.images[1].is_corrected and first.num_low == 0
    again = np.array([[1.0, 2.0], [3.0, 4.0]])
    adopt(uploads, NAMES, {f"{image.key}.png": (again, np.ones(2)) for image in uploads.images})
    assert np.array_equal(first.points_xy_image, [[12.5, -0.5], [np.nan, np.nan]], equal_nan=True)
    assert np.array_equal(uploads.images[1].points_xy_image, again)
    marked = uploads.marked()
    assert marked[0].corrected == [True, True] and marked[1].corrected == [False, False]


def test_a_landmark_predicted_outside_the_image_stays_there_while_another_is_moved(uploads: Uploads) -> None:
    image = uploads.images[0]
    outside = np.array([[3.123, 4.456], [-7.5, 2.1]])
    adopt(uploads, NAMES, {f"{image.key}.png": (outside, np.array([0.9, 0.2]))})
    correct(uploads, image.key, [[5, 5], [-7.5, 2.1]], 1)
    assert image.points_xy_image is not None and image.points_xy_image.tolist() == [[5, 5], [-7.5, 2.1]]
    assert image.corrected.tolist() == [True, False] and image.num_low == 1


def test_corrections_are_not_lost_to_a_run_of_other_landmarks(uploads: Uploads) -> None:
    correct(uploads, uploads.images[0].key, [[1, 1], [2, 2]], 1)
    with pytest.raises(UserError, match="other landmarks"):
        adopt(uploads, ["tail"], {"0000.png": (np.zeros((1, 2)), np.ones(1))})
    assert uploads.landmark_names == NAMES


@pytest.mark.parametrize(
    ("key", "points"), [("nowhere", [[1, 1], [2, 2]]), ("0000", [[1, 1]]), ("0000", [[1, 1], [2, 2, 2]])]
)
def test_what_is_no_list_of_the_images_points_is_ignored(
    uploads: Uploads, key: str, points: list[list[float]]
) -> None:
    before = uploads.images[0].points_xy_image
    assert correct(uploads, key, points, 1) is None
    assert uploads.images[0].points_xy_image is before


def test_what_a_killed_program_left_is_deleted_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    of_ended = tmp_path / "fiducial-4194304-x"  # above the largest pid
    of_living = tmp_path / f"fiducial-{os.getpid()}-y"
    of_ended.mkdir()
    of_living.mkdir()
    root = uploads_root.__wrapped__()
    assert not of_ended.exists() and of_living.exists() and root.parent == tmp_path.resolve()
