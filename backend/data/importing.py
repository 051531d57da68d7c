"""Imports a data set from a zip archive into the data root: all of it, or nothing.

An archive is not trusted. It is unpacked into a hidden folder beside the other data sets, which is renamed at
the end.
"""

from __future__ import annotations

import re
import shutil
import stat
import tempfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from backend.data.annotations import find_datasets, read_annotations
from backend.data.zip_names import member_names
from backend.errors import UserError

KEEP_FREE_BYTES = 512 * 2**20  # of the disk, for the runs that follow
_CHUNK_BYTES = 2**20
_BY_PRODUCTS = ("__MACOSX", ".DS_Store", "Thumbs.db", "desktop.ini")
_ENCRYPTED = 0x1


@dataclass(frozen=True)
class _Member:
    """A member of an archive, and its decoded name."""

    info: zipfile.ZipInfo
    name: str

    @property
    def parts(self) -> tuple[str, ...]:
        """The folders and the file of its path, () for an empty name."""
        return PurePosixPath(self.name).parts


OnProgress = Callable[[int, int], None]  # bytes unpacked, bytes in all


def import_zip(archive: Path, data_root: Path, on_progress: OnProgress = lambda done, total: None) -> Path:
    """Unpack a data set and return its folder below `data_root`.

    Folders that only wrap the data set are removed, with what is beside it. A name that exists gets a number.
    Raises UserError, and leaves nothing behind, for a file that is not a zip file, is damaged, would write
    outside, would fill the disk, or does not hold exactly one data set with its images.
    """
    members = _read_members(archive)
    total = sum(member.info.file_size for member in members)
    data_root.mkdir(parents=True, exist_ok=True)
    _require_space(total, data_root)
    with tempfile.TemporaryDirectory(prefix=".importing-", dir=data_root) as unpacked:
        folder = Path(unpacked).absolute() / "unpacked"
        folder.mkdir()
        _unpack(archive, members, folder, lambda done: on_progress(done, total))
        dataset = _find_dataset(folder, archive)
        name = _plain_name(dataset.name if dataset != folder else archive.stem)
        target = _free_path(data_root.absolute(), name)
        dataset.rename(target)
    return target


def _read_members(archive: Path) -> list[_Member]:
    """List the files in the archive, without those of operating systems.

    Raises UserError for a harmful one.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [_Member(info, name) for info, name in member_names(opened)]
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError) as error:
        raise UserError(
            f"{archive.name} is not a zip file, or damaged", cure="make the archive again as .zip"
        ) from error
    for member in members:
        _require_harmless(member)
    files = [member for member in members if member.parts and not member.name.endswith("/")]
    files = [member for member in files if not _is_by_product(member.parts)]
    _require_once(files)
    return files


def _require_harmless(member: _Member) -> None:
    name = member.name
    # a name that Windows would read differently is refused everywhere: the data root may move there
    is_ambiguous = any(not part.strip(" .") for part in member.parts) or "\0" in name or ":" in name
    if is_ambiguous or PurePosixPath(name).is_absolute():
        raise UserError(
            f"the archive would write outside its folder: {name!r}",
            cure="make a zip of the data set's folder, with plain paths below it",
        )
    if stat.S_ISLNK(member.info.external_attr >> 16):
        raise UserError(f"the archive holds a link: {name!r}", cure="put the file itself in its place")
    if member.info.flag_bits & _ENCRYPTED:
        raise UserError("the archive is encrypted", cure="make it without a password")


def _require_once(files: Sequence[_Member]) -> None:
    """Raise UserError for two names that differ only in case or Unicode form, which some systems ignore."""
    seen: set[str] = set()
    for member in files:
        name = unicodedata.normalize("NFC", "/".join(member.parts)).casefold()
        if name in seen:
            raise UserError(f"{member.name!r} is in the archive twice", cure="rename one of the two")
        seen.add(name)


def _is_by_product(parts: Sequence[str]) -> bool:
    return any(part in _BY_PRODUCTS or part.startswith("._") for part in parts)


def _require_space(num_bytes: int, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if num_bytes + KEEP_FREE_BYTES > free:
        raise UserError(
            f"the data set unpacks to {num_bytes / 2**30:.1f} GiB, and the disk has "
            f"{free / 2**30:.1f} GiB free",
            cure=f"free some space; {KEEP_FREE_BYTES / 2**30:g} GiB stay for the runs",
        )


def _unpack(
    archive: Path, members: Sequence[_Member], folder: Path, on_progress: Callable[[int], None]
) -> None:
    """Write the files. zipfile reads no more of one than the size that was compared with the free space."""
    done = 0
    try:
        with zipfile.ZipFile(archive) as opened:
            for member in members:
                target = folder.joinpath(*member.parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                with opened.open(member.info) as source, target.open("xb") as file:
                    while chunk := source.read(_CHUNK_BYTES):
                        file.write(chunk)
                        done += len(chunk)
                        on_progress(done)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise UserError(f"{archive.name} is damaged ({error})", cure="make the archive again") from error
    except OSError as error:
        raise UserError(
            f"{archive.name} cannot be unpacked ({error.strerror})",
            cure="check the disk and the names of the files",
        ) from error


def _find_dataset(folder: Path, archive: Path) -> Path:
    """Find the data set in the unpacked folder, and read it once to check it."""
    datasets = _list_datasets(folder) or [folder]
    if len(datasets) > 1:
        names = ", ".join(dataset.relative_to(folder).as_posix() for dataset in datasets)
        raise UserError(f"{archive.name} holds several data sets: {names}", cure="make a zip of each")
    try:
        read_annotations(datasets[0], confined=True)
    except UserError as error:
        # the message names the hidden folder, which will not exist any more when the user reads it
        message = error.what.replace(str(datasets[0]), archive.name).replace(str(folder), archive.name)
        cure = error.cure.replace(str(folder), archive.name)
        raise UserError(message, cure=cure) from error
    return datasets[0]


def _list_datasets(folder: Path) -> list[Path]:
    """Find the data sets nearest to the top, below folders that only wrap them."""
    level = [folder]
    while level:
        if datasets := [place for place in level if place in find_datasets(place)]:
            return datasets
        level = [below for place in level for below in _list_folders(place)]
    return []


def _list_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _plain_name(name: str) -> str:
    """Keep letters of any language, digits, spaces and a few signs; the folder must not be hidden."""
    return re.sub(r"[^\w .()+-]", "_", name).strip(" .") or "imported"


def _free_path(data_root: Path, name: str) -> Path:
    """Return the path of this name, or with the first free number if it is taken."""
    taken = {path.name.casefold() for path in data_root.iterdir()}
    number = 1
    candidate = name
    while candidate.casefold() in taken:
        number += 1
        candidate = f"{name}-{number}"
    return data_root / candidate
