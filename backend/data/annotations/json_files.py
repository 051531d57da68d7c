"""The JSON files of a data set: where they may be, how a format knows its own, and their content."""

from __future__ import annotations

import json
import mmap
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from backend.data.annotations.builder import list_files
from backend.errors import UserError

EXPORT_AGAIN = "export the annotations again"
_SPLIT_OF_WORD = {
    "train": "train",
    "training": "train",
    "val": "valid",
    "valid": "valid",
    "validation": "valid",
    "test": "test",
    "testing": "test",
}


def json_files(path: Path) -> list[Path]:
    """List the file itself, or the JSON files of a folder, its `annotations/` and its folders of splits."""
    if path.is_file():
        return [path] if path.suffix.lower() == ".json" else []
    named = [
        folder for folder in folders_in(path) if folder.name.lower() == "annotations" or split_of(folder.name)
    ]
    return [file for folder in (path, *named) for file in list_files(folder, (".json",))]


def folders_in(folder: Path) -> list[Path]:
    """List the folders in a folder, sorted by name."""
    return sorted(path for path in folder.glob("*") if path.is_dir())


def split_of(name: str) -> str:
    """Return the split that a name mentions, "" if it mentions none or several."""
    found = {_SPLIT_OF_WORD[word] for word in re.findall("[a-z]+", name.lower()) if word in _SPLIT_OF_WORD}
    return found.pop() if len(found) == 1 else ""


def has_signs(file: Path, signs: Sequence[bytes]) -> bool:
    """Whether the bytes of a file match all these patterns; damaged JSON may, and `read` explains it."""
    with file.open("rb") as stream:
        if os.fstat(stream.fileno()).st_size == 0:
            return False
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return all(re.search(sign, content) for sign in signs)


def load_json(path: Path) -> Any:
    """Parse a file. Raises UserError with the place where it is damaged."""
    try:
        return json.loads(path.read_bytes())
    except json.JSONDecodeError as error:
        what = f"{path} line {error.lineno} column {error.colno}: not JSON ({error.msg})"
        raise UserError(what, field="dataset_path", cure=EXPORT_AGAIN) from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} cannot be read ({error})", field="dataset_path", cure=EXPORT_AGAIN
        ) from error


def find_unreadable(path: Path) -> list[tuple[Path, str]]:
    """List the JSON files of a folder, or the file itself, that no format can read, with what is wrong."""
    unreadable = []
    for file in json_files(path):
        try:
            load_json(file)
        except UserError as error:
            unreadable.append((file, without_path(error, file)))
    return unreadable


def without_path(error: UserError, file: Path) -> str:
    """Return an error's text without the path, for a place that names the file already."""
    return error.what.removeprefix(str(file)).lstrip(": ")
