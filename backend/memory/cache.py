"""Cache of the memory predictions in the user's cache folder: one JSON file per question.

The name of a file is a hash of everything that changes the answer: the question, torch's version, and the
source code that is traced or that traces.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from contextlib import suppress
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


def load_prediction(question: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the answer to a question; None if it is not cached or its file is damaged."""
    try:
        return read_json(_cache_path(question))
    except OSError:
        return None


def save_prediction(question: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
    """Cache an answer, and keep only the newest ones. If the folder cannot be written, nothing is cached."""
    path = _cache_path(question)
    # a full disk, a folder that is not ours to write, or a file that another process just removed
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json_atomic(path, answer)
        newest_first = sorted(path.parent.glob("*.json"), key=lambda file: file.stat().st_mtime, reverse=True)
        for old in newest_first[MAX_ANSWERS:]:
            old.unlink(missing_ok=True)


def torch_version() -> str:
    """Return the version of torch that is installed, without importing it."""
    return version("torch")


def code_hash(root: Path = REPOSITORY) -> str:
    """Hash the code that traces or is traced, so that a change of it makes cached answers unreachable.

    That is the files in TRACED_CODE; of a folder its own *.py files, not those of its subfolders.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name in TRACED_CODE:
        path = root / name
        for file in [path] if path.is_file() else sorted(path.glob("*.py")):
            content = file.read_bytes()
            digest.update(f"{file.relative_to(root).as_posix()}\0{len(content)}\0".encode())
            digest.update(content)
    return digest.hexdigest()


@functools.cache
def _own_code_hash() -> str:
    """Hash the code that this process runs, once."""
    return code_hash()


def _cache_path(question: Mapping[str, Any]) -> Path:
    key = {**question, "torch": torch_version(), "code": _own_code_hash()}
    return cache_file("step_memory", key)
