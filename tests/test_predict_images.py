"""Which files of a folder `backend.predict` takes, which it names, and which it leaves alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from backend.errors import UserError
from backend.predict import find_images
from tests.data.tiff_file import Page, tiff_bytes

GREY = np.zeros((6, 4), np.uint8)
DICOM = bytes(128) + b"DICM"


def place(folder: Path, name: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", GREY)[1].tobytes())
    return path


def test_dicom_of_any_name_is_found_among_the_images(tmp_path: Path) -> None:
    place(tmp_path, "b.png")
    place(tmp_path, "license.png")
    for name in ("IM0001", "1.2.840.10008.5", "deep/er/scan.ima"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(DICOM)
    (tmp_path / "DICOMDIR").write_bytes(DICOM)
    found = [source.path.relative_to(tmp_path).as_posix() for source in find_images(tmp_path)]
    assert sorted(found) == ["1.2.840.10008.5", "IM0001", "b.png", "deep/er/scan.ima", "license.png"]


def test_files_that_are_no_images_are_counted_and_the_first_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place(tmp_path, "a.png")
    for name in ("1.heic", "2.heic", "sub/3.gif", "z", "README", "readme.md", "labels.csv", "about.PDF"):
        place(tmp_path, name)
    assert [source.path.name for source in find_images(tmp_path)] == ["a.png"]
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "skipped, not images: 4 files (1.heic, 2.heic, sub/3.gif ...)"


def test_files_beside_images_need_no_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.png", "README", "labels.csv", "notes.txt"):
        place(tmp_path, name)
    find_images(tmp_path)
    assert capsys.readouterr().err == ""


def test_hidden_files_and_folders_are_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / ".mine"  # hidden itself, but asked for
    for name in ("a.png", ".b.png", ".cache/c.png", "d/.e/f.png", "__MACOSX/a.png", ".DS_Store"):
        place(folder, name)
    assert [source.path.relative_to(folder).as_posix() for source in find_images(folder)] == ["a.png"]
    assert capsys.readouterr().err == ""


def test_a_folder_that_is_called_like_an_image_is_none(tmp_path: Path) -> None:
    place(tmp_path, "scan.png/a.png")
    assert [source.path.name for source in find_images(tmp_path)] == ["a.png"]


def test_a_folder_without_images_says_what_lies_there(tmp_path: Path) -> None:
    place(tmp_path, "a.heic")
    with pytest.raises(UserError, match=r"among 1 file \(a\.heic\)"):
        find_images(tmp_path)
    shutil.rmtree(tmp_path)
    with pytest.raises(UserError, match="no image at"):
        find_images(tmp_path)


def test_pages_beyond_the_first_are_remarked_on(tmp_path: Path) -> None:
    (tmp_path / "pages.tif").write_bytes(tiff_bytes(Page(GREY), Page(GREY)))
    (source,) = find_images(tmp_path)
    assert [remark.what for remark in source.remarks] == ["a TIFF of 2 pages: only the first is used"]
