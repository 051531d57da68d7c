"""Cache of the memory predictions in the user's cache folder: one JSON file per question.

The name of a file is a hash of everything that changes the answer: the question, torch's version, and the
source code that is traced or that traces.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from backend.cache import cache_file
from backend.files import REPOSITORY, read_json, write_json_atomic

MAX_ANSWERS = 256  # a few KiB each
TRACED_CODE = (
    "models", "backend/training", "backend/memory", "backend/data/dataset.py", "backend/config",
    "backend/geometry.py",
)  # fmt: skip


def load_memory(question: Mapping[str, Any]) -> dict[str, Any] | None:
    """The answer to a question; None where it is not cached or its file is damaged."""
    try:
        content = read_json(_path_of(question))
    except OSError:
        return None
    return content


def save_memory(question: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
    """Cache an answer, and keep only the newest ones; where the folder cannot be written, nothing is
    cached."""
    path = _path_of(question)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json_atomic(path, answer)
        kept = sorted(path.parent.glob("*.json"), key=lambda file: file.stat().st_mtime, reverse=True)
        for old in kept[MAX_ANSWERS:]:
            old.unlink(missing_ok=True)
    except (
        OSError
    ):  # a full disk, a folder that is not ours to write, or a file that another process just removed
        return


def torch_version() -> str:
    """`torch.__version__`, without importing torch."""
    return version("torch")


def code_hash(root: Path = REPOSITORY) -> str:
    """Changes with any line of the code that is traced or traces."""
    found = hashlib.blake2b(digest_size=16)
    for name in TRACED_CODE:
        path = root / name
        for file in [path] if path.is_file() else sorted(path.glob("*.py")):
            content = file.read_bytes()
            found.update(f"{file.relative_to(root).as_posix()}\0{len(content)}\0".encode())
            found.update(content)
    return found.hexdigest()


@functools.cache
def _own_code_hash() -> str:
    """Of the code that this process imports."""
    return code_hash()


def _path_of(question: Mapping[str, Any]) -> Path:
    whole = {**question, "torch": torch_version(), "code": _own_code_hash()}
    return cache_file("step_memory", whole)
