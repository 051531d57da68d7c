from __future__ import annotations

import shutil
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from backend.data import importing
from backend.data.annotations import find_datasets, read_annotations
from backend.data.importing import import_zip
from backend.errors import UserError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data"


def zip_folder(folder: Path, archive: Path, inside: str = "") -> Path:
    with zipfile.ZipFile(archive, "w") as opened:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                opened.write(path, f"{inside}{path.relative_to(folder).as_posix()}")
    return archive


def zip_texts(archive: Path, texts: Mapping[str, str]) -> Path:
    with zipfile.ZipFile(archive, "w") as opened:
        for name, text in texts.items():
            opened.writestr(name, text)
    return archive


def refused(archive: Path, root: Path) -> str:
    """Why; nothing may be left of it, inside the data root or beside it."""
    before = sorted(root.parent.rglob("*"))
    with pytest.raises(UserError) as caught:
        import_zip(archive, root)
    assert [path for path in sorted(root.parent.rglob("*")) if path not in before and path != root] == []
    return str(caught.value)


def test_a_plain_archive_takes_its_file_name(tiny_dataset: Path, tmp_path: Path, root: Path) -> None:
    seen: list[tuple[int, int]] = []
    archive = zip_folder(tiny_dataset, tmp_path / "blobs.zip")
    folder = import_zip(archive, root, lambda done, total: seen.append((done, total)))
    assert folder == root.absolute() / "blobs"
    assert len(read_annotations(folder).images) == 12
    assert find_datasets(root) == [root / "blobs"] and list(root.iterdir()) == [root / "blobs"]
    assert seen[-1][0] == seen[-1][1] == sum(path.stat().st_size for path in tiny_dataset.iterdir())


@pytest.mark.parametrize("inside", ["blobs/", "download/v2/blobs/"])
def test_folders_that_only_wrap_it_are_taken_off(
    tiny_dataset: Path, tmp_path: Path, root: Path, inside: str
) -> None:
    folder = import_zip(zip_folder(tiny_dataset, tmp_path / "x.zip", inside), root)
    assert folder.name == "blobs" and (folder / "annotations.csv").is_file()


def test_a_data_set_beside_a_readme_is_found(tiny_dataset: Path, tmp_path: Path, root: Path) -> None:
    archive = zip_folder(tiny_dataset, tmp_path / "x.zip", "set/")
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr("README.txt", "thanks")
        opened.writestr("__MACOSX/set/._00.png", "noise")
    folder = import_zip(archive, root)
    assert folder.name == "set" and not list(root.rglob("*MACOSX*"))


def test_a_name_that_is_taken_gets_a_number(tiny_dataset: Path, tmp_path: Path, root: Path) -> None:
    archive = zip_folder(tiny_dataset, tmp_path / "blobs.zip")
    names = [import_zip(archive, root).name for _ in range(3)]
    assert names == ["blobs", "blobs-2", "blobs-3"]
    assert all(len(read_annotations(root / name).images) == 12 for name in names)


def test_a_name_that_would_hide_the_folder_is_made_plain(
    tiny_dataset: Path, tmp_path: Path, root: Path
) -> None:
    assert import_zip(zip_folder(tiny_dataset, tmp_path / ".a*b.zip"), root).name == "a_b"


@pytest.mark.parametrize(
    "name", ["../evil.csv", "set/../../evil.csv", "/tmp/evil.csv", "..\\evil.csv", "C:/evil.csv", "a:b"]
)
def test_no_file_can_be_written_outside(tmp_path: Path, root: Path, name: str) -> None:
    archive = zip_texts(tmp_path / "x.zip", {"ok.csv": "image,a_x,a_y\n", name: "x"})
    assert "outside its folder" in refused(archive, root)
    assert not (tmp_path / "evil.csv").exists()


def test_links_are_refused(tmp_path: Path, root: Path) -> None:
    archive = tmp_path / "x.zip"
    link = zipfile.ZipInfo("images")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr(link, "/etc")
    assert "link" in refused(archive, root)


def test_what_the_disk_cannot_hold_is_refused_before_unpacking(
    tiny_dataset: Path, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = zip_folder(tiny_dataset, tmp_path / "x.zip")
    total, used, _ = shutil.disk_usage(tmp_path)
    full = type(shutil.disk_usage(tmp_path))(total, used, importing.KEEP_FREE_BYTES + 100)
    monkeypatch.setattr(importing.shutil, "disk_usage", lambda path: full)
    assert "free" in refused(archive, root)


def test_what_no_reader_recognises_is_refused_in_the_words_of_the_archive(tmp_path: Path, root: Path) -> None:
    reason = refused(zip_texts(tmp_path / "holiday.zip", {"notes.txt": "x"}), root)
    assert reason.startswith("holiday.zip is no data set; looked for") and ".importing" not in reason


def test_a_fatal_problem_of_the_reader_is_the_reason(tmp_path: Path, root: Path) -> None:
    archive = zip_texts(tmp_path / "x.zip", {"a.csv": "image,nose_x,nose_y\nmissing.png,1,2\n"})
    reason = refused(archive, root)
    assert "no usable image" in reason and "missing.png is missing" in reason


def test_a_broken_archive_is_refused(tiny_dataset: Path, tmp_path: Path, root: Path) -> None:
    (tmp_path / "text.zip").write_text("no archive")
    assert "no zip file" in refused(tmp_path / "text.zip", root)
    archive = zip_folder(tiny_dataset, tmp_path / "x.zip")
    damaged = bytearray(archive.read_bytes())
    at = damaged.index(b"IDAT") + 8
    damaged[at : at + 4] = b"\0\0\0\0"
    archive.write_bytes(damaged)
    assert "damaged" in refused(archive, root)


def test_two_files_of_one_name_are_refused(tmp_path: Path, root: Path) -> None:
    assert "twice" in refused(zip_texts(tmp_path / "x.zip", {"A.csv": "x", "a.csv": "y"}), root)
