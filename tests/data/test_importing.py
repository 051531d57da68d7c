from __future__ import annotations

import json
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from backend.data import importing
from backend.data.annotations import find_datasets, read_annotations
from backend.data.importing import import_zip
from backend.data.zip_names import member_names
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


Write = Callable[[Path, Sequence[str]], Path]


def write_table(folder: Path, images: Sequence[str]) -> Path:
    (folder / "labels.csv").write_text(table_of(images), encoding="utf-8")
    return folder


def write_coco(folder: Path, images: Sequence[str]) -> Path:
    content = {
        "images": [{"id": number, "file_name": name} for number, name in enumerate(images)],
        "annotations": [
            {"id": number, "image_id": number, "category_id": 1, "keypoints": [1, 2, 2]}
            for number in range(len(images))
        ],
        "categories": [{"id": 1, "name": "x", "keypoints": ["nose"]}],
    }
    (folder / "labels.json").write_text(json.dumps(content))
    return folder


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


@pytest.mark.parametrize("before", ["", "readme/", "download/v2/"])
def test_whatever_lies_beside_its_folder_is_harmless(
    tiny_dataset: Path, tmp_path: Path, root: Path, before: str
) -> None:
    archive = zip_folder(tiny_dataset, tmp_path / "x.zip", f"{before}a/b/set/")
    others = (
        "README.txt",
        f"{before}notes.txt",
        f"{before}a/b/LICENSE",
        f"{before}a/.DS_Store",
        "docs/1/x.txt",
    )
    with zipfile.ZipFile(archive, "a") as opened:
        for name in (*others, "__MACOSX/._a", f"__MACOSX/{before}a/b/set/._00.png", "Thumbs.db"):
            opened.writestr(name, "noise")
    folder = import_zip(archive, root)
    assert folder.name == "set" and len(read_annotations(folder).images) == 12


def test_two_data_sets_in_one_archive_are_named(tiny_dataset: Path, tmp_path: Path, root: Path) -> None:
    archive = zip_folder(tiny_dataset, tmp_path / "x.zip", "all/first/")
    with zipfile.ZipFile(archive, "a") as opened:
        opened.write(tiny_dataset / "annotations.csv", "all/second/annotations.csv")
    assert "holds several data sets: all/first, all/second" in refused(archive, root)


# Names of members


def zip_raw(archive: Path, members: Mapping[bytes, bytes]) -> Path:
    """Members under names of these bytes, without the flag of UTF-8."""
    written = {f"{number:04}" + "_" * (len(name) - 4): name for number, name in enumerate(members)}
    with zipfile.ZipFile(archive, "w") as opened:
        for placeholder, content in zip(written, members.values(), strict=True):
            opened.writestr(placeholder, content)
    data = archive.read_bytes()
    for placeholder, name in written.items():
        data = data.replace(placeholder.encode(), name)
    archive.write_bytes(data)
    return archive


def png() -> bytes:
    return cv2.imencode(".png", np.zeros((60, 80), np.uint8))[1].tobytes()


def table_of(images: Sequence[str]) -> str:
    return "\n".join(["image,nose_x,nose_y", *(f"{name},{k},2" for k, name in enumerate(images))])


def zip_named(archive: Path, images: Sequence[str], encoding: str, separator: str = "/") -> Path:
    """A wide CSV in UTF-8 and its images, whose names are in an encoding."""
    members = {f"folder{separator}{name}".encode(encoding): png() for name in images}
    table = f"folder{separator}labels.csv".encode(encoding)
    return zip_raw(archive, {**members, table: table_of(images).encode()})


PERSIAN = ["تصوير اول.png", "كودك پنجم.png", "چهار/گوش چپ.png"]


@pytest.mark.parametrize(
    ("images", "encoding"),
    [
        (PERSIAN, "utf-8"),
        (PERSIAN, "cp1256"),
        (["صورة.png", "رأس.png"], "cp720"),
        (["Müller.png", "Ångström.png"], "cp850"),
        (["Müller.png", "Ångström.png"], "cp1252"),
        (["снимок.png", "Череп 2.png"], "cp1251"),
        (["снимок.png", "Череп 2.png"], "cp866"),
        (["čelist.png", "zub ž.png"], "cp1250"),
        (["頭部.png", "表示ソ.png"], "cp932"),  # its second ソ holds the byte of a backslash
    ],
)
@pytest.mark.parametrize("separator", ["/", "\\"])
def test_names_are_read_in_the_code_page_of_the_table(
    tmp_path: Path, root: Path, images: list[str], encoding: str, separator: str
) -> None:
    archive = zip_named(tmp_path / "x.zip", images, encoding, separator=separator)
    folder = import_zip(archive, root)
    annotations = read_annotations(folder)
    assert folder.name == "folder" and list(annotations.images["image_id"]) == images
    assert [problem.what for problem in annotations.problems] == ["no pixel size: errors are in pixels"]


@pytest.mark.parametrize(
    ("names", "encoding"),
    [
        (["خواندني", "چاپ"], "cp1256"),
        (["résumé", "Müller"], "cp437"),
        (["Jürgen", "Ångström"], "cp1252"),
        (["снимок", "Череп"], "cp1251"),
        (["снимок", "Череп"], "cp866"),
        (["頭部のレントゲン"], "cp932"),
    ],
)
def test_names_that_no_table_gives_are_those_that_read_like_names(
    tiny_dataset: Path, tmp_path: Path, root: Path, names: list[str], encoding: str
) -> None:
    contents = {path.name.encode(): path.read_bytes() for path in sorted(tiny_dataset.iterdir())}
    notes = {f"{name}.txt".encode(encoding): b"" for name in names}
    folder = import_zip(zip_raw(tmp_path / "blobs.zip", contents | notes), root)
    assert {path.stem for path in folder.glob("*.txt")} == set(names)


@pytest.mark.parametrize(
    ("file", "table"),
    [
        ("labels.csv", table_of(PERSIAN).encode("cp1256")),
        ("labels.csv", table_of(PERSIAN).encode("utf-16")),
        ("labels.json", json.dumps({"images": [{"file_name": name} for name in PERSIAN]}).encode()),
    ],
)
def test_the_table_may_be_in_any_encoding(tmp_path: Path, file: str, table: bytes) -> None:
    members = {name.encode("cp1256"): b"" for name in PERSIAN}
    with zipfile.ZipFile(zip_raw(tmp_path / "x.zip", {**members, file.encode(): table})) as opened:
        assert [name for _, name in member_names(opened)] == [*PERSIAN, file]


def test_letters_missing_in_a_code_page_match_arabic_forms(tmp_path: Path, root: Path) -> None:
    members = {"بيمار.png".encode("cp1256"): png(), b"labels.csv": table_of(["بیمار.png"]).encode()}
    annotations = read_annotations(import_zip(zip_raw(tmp_path / "x.zip", members), root))
    assert [Path(path).name for path in annotations.images["path"]] == ["بيمار.png"]
    assert "another Unicode form" in str(annotations.problems[0])


def test_a_name_that_is_repeated_in_unicode_is_read_from_there(
    tiny_dataset: Path, tmp_path: Path, root: Path
) -> None:
    archive = zip_folder(tiny_dataset, tmp_path / "blobs.zip")
    info = zipfile.ZipInfo("old____.txt")
    name = "یاد.txt".encode()
    info.extra = struct.pack("<HHBI", 0x7075, 5 + len(name), 1, zlib.crc32(info.filename.encode())) + name
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr(info, "")
    assert (import_zip(archive, root) / "یاد.txt").is_file()


def test_a_member_without_a_name_is_passed_over(tiny_dataset: Path, tmp_path: Path, root: Path) -> None:
    archive = zip_folder(tiny_dataset, tmp_path / "blobs.zip")
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr(zipfile.ZipInfo(""), "x")
        opened.writestr("./", "")
    assert len(read_annotations(import_zip(archive, root)).images) == 12


@pytest.mark.parametrize(
    "name",
    [
        *("../evil.csv", "set/../../evil.csv", "/tmp/evil.csv", "..\\evil.csv", "C:/evil.csv", "a:b"),
        *("set\\..\\..\\evil.csv", "\\evil.csv", "\\\\server\\evil.csv", "C:\\evil.csv", ".. /evil.csv"),
    ],
)
def test_no_file_can_be_written_outside(tmp_path: Path, root: Path, name: str) -> None:
    archive = zip_texts(tmp_path / "x.zip", {"ok.csv": "image,a_x,a_y\n", name: "x"})
    assert "outside its folder" in refused(archive, root)
    assert not (tmp_path / "evil.csv").exists()


@pytest.mark.parametrize("name", ["..\\تصوير.png", "/تصوير.png", "a\\..\\..\\تصوير.png"])
@pytest.mark.parametrize("encoding", ["utf-8", "cp1256"])
def test_no_decoded_name_leads_outside(tmp_path: Path, root: Path, name: str, encoding: str) -> None:
    archive = zip_raw(tmp_path / "x.zip", {name.encode(encoding): b"x", b"labels.csv": name.encode()})
    assert "outside its folder" in refused(archive, root)


def test_a_name_that_ends_early_is_refused(tmp_path: Path, root: Path) -> None:
    assert "outside its folder" in refused(zip_raw(tmp_path / "x.zip", {b"ok.csv\0.png": b"x"}), root)


@pytest.mark.parametrize("write", [write_table, write_coco])
@pytest.mark.parametrize(
    "name", ["{}/00.png", "../00.png", "a/../../00.png", "..\\gone.png", "/gone.png", "D:\\gone.png"]
)
@pytest.mark.parametrize("names", [[], ["ok.png"]])
def test_no_image_is_fetched_from_outside_the_data_set(
    tiny_dataset: Path, tmp_path: Path, root: Path, write: Write, name: str, names: list[str]
) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    shutil.copyfile(tiny_dataset / "00.png", folder / "ok.png")
    archive = zip_folder(write(folder, [*names, name.format(tiny_dataset)]), tmp_path / "x.zip", "a/set/")
    reason = refused(archive, root)
    assert "name images outside of the data set's folder" in reason
    assert name.format(tiny_dataset).replace("\\", "/") in reason and ".importing" not in reason


def test_folders_of_another_machine_do_not_lead_outside(
    tiny_dataset: Path, tmp_path: Path, root: Path
) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    shutil.copyfile(tiny_dataset / "00.png", folder / "ok.png")
    archive = zip_folder(write_table(folder, ["D:\\films\\ok.png"]), tmp_path / "x.zip")
    assert "ok.png was taken" in str(read_annotations(import_zip(archive, root)).problems[0])


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


def test_unrecognized_archive_is_refused_by_its_own_name(tmp_path: Path, root: Path) -> None:
    reason = refused(zip_texts(tmp_path / "holiday.zip", {"notes.txt": "x"}), root)
    assert reason.startswith("holiday.zip is not a data set; looked for") and ".importing" not in reason


def test_a_fatal_problem_of_the_reader_is_the_reason(tmp_path: Path, root: Path) -> None:
    archive = zip_texts(tmp_path / "x.zip", {"a.csv": "image,nose_x,nose_y\nmissing.png,1,2\n"})
    reason = refused(archive, root)
    assert "no usable image" in reason and "missing.png is missing" in reason


def test_a_broken_archive_is_refused(tiny_dataset: Path, tmp_path: Path, root: Path) -> None:
    (tmp_path / "text.zip").write_text("no archive")
    assert "not a zip file" in refused(tmp_path / "text.zip", root)
    archive = zip_folder(tiny_dataset, tmp_path / "x.zip")
    damaged = bytearray(archive.read_bytes())
    at = damaged.index(b"IDAT") + 8
    damaged[at : at + 4] = b"\0\0\0\0"
    archive.write_bytes(damaged)
    assert "damaged" in refused(archive, root)


def test_two_files_of_one_name_are_refused(tmp_path: Path, root: Path) -> None:
    assert "twice" in refused(zip_texts(tmp_path / "x.zip", {"A.csv": "x", "a.csv": "y"}), root)
