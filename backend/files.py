"""Atomic replacement of files, and JSON lines: files stay readable even when the writer is killed."""

from __future__ import annotations

import errno
import json
import math
import os
import secrets
import sys
import time
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import filelock
import numpy as np

if sys.platform != "win32":
    import fcntl

REPOSITORY = Path(__file__).resolve().parents[1]
Row = dict[str, Any]
Stamp = tuple[int, int, int, int]  # device, inode, modification time in ns, bytes; see `read_stamp`
T = TypeVar("T")

_PAUSE_S = 0.05
_PROBES = 5


def patiently(action: Callable[[], T], patience_s: float = 1.0) -> T:
    """Call `action` until it does not raise PermissionError, for about `patience_s` seconds.

    Windows refuses to replace, rename or open a file while another process, such as a virus scanner, holds it
    open, usually for milliseconds. Raises the last PermissionError.
    """
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return action()
        except PermissionError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(_PAUSE_S)


def write_bytes_atomic(path: Path, content: bytes | memoryview, patience_s: float = 1.0) -> None:
    """Replace `path` by `content`: at any time there is the old file or the new one, never a partial one.

    Waits up to `patience_s` seconds if a process on Windows holds the old one open.
    """
    # not a name by tempfile, whose files only their owner may read
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

        patiently(lambda: os.replace(temporary, path), patience_s)  # noqa: PTH105
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json_atomic(path: Path, value: Any) -> None:
    """Replace `path` by `value` as indented JSON; a NaN or an infinity becomes null."""
    write_bytes_atomic(path, _encode_json(value, indent=2) + b"\n")


def append_json_line(path: Path, row: Row) -> None:
    """Append `row` as one line of JSON in one write call; a NaN or an infinity becomes null.

    If the last line is unfinished (its writer was killed), a newline comes first, so that only that line is
    lost. Raises OSError if the disk takes only a part of the line.
    """
    line = _encode_json(row) + b"\n"
    with patiently(lambda: path.open("a+b", buffering=0)) as file:
        if file.seek(0, os.SEEK_END) > 0:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                line = b"\n" + line
        if file.write(line) != len(line):
            raise OSError(errno.ENOSPC, "the line was written only in part", str(path))


def read_json(path: Path) -> Row | None:
    """Return the object in `path`; None if the file is absent or is not a JSON object."""
    try:
        content = patiently(path.read_bytes)
    except FileNotFoundError:
        return None
    return _decode_row(content)


def read_json_lines(path: Path, offset: int = 0) -> tuple[list[Row], int]:
    """Return the finished lines of `path` from byte `offset` on, and the offset to go on from next time.

    An unfinished last line is left for the next call; a finished line that is not a JSON object is skipped.
    An absent file has no rows; a file shorter than `offset` is read from its start.
    """
    try:
        with patiently(lambda: path.open("rb")) as file:
            if file.seek(0, os.SEEK_END) < offset:
                offset = 0
            finished = read_finished(file, offset)
    except FileNotFoundError:
        return [], 0
    return decode_json_lines(finished), offset + len(finished)


def read_finished(file: BinaryIO, offset: int) -> bytes:
    """Read the lines from byte `offset` on, without an unfinished last one."""
    file.seek(offset)
    content = file.read()
    return content[: content.rfind(b"\n") + 1]


def decode_json_lines(content: bytes) -> list[Row]:
    """Decode finished lines; one that is not a JSON object is skipped."""
    rows = (_decode_row(line) for line in content.split(b"\n"))
    return [row for row in rows if row is not None]


def read_stamp(path: Path) -> Stamp | None:
    """Return a value that changes if the file is written to or replaced; None if there is no such file."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


def read_tail(path: Path, max_bytes: int) -> str:
    """Return the last whole lines of a text file within `max_bytes` bytes; empty if the file is absent."""
    try:
        with patiently(lambda: path.open("rb")) as file:
            start = max(0, file.seek(0, os.SEEK_END) - max_bytes)
            file.seek(start)
            content = file.read(max_bytes)
    except FileNotFoundError:
        return ""
    # A cut first line is dropped, unless it is the only one (a progress bar writes no newlines).
    if start > 0 and b"\n" in content[:-1]:
        content = content[content.index(b"\n") + 1 :]
    return content.decode("utf-8", errors="replace").replace("\r\n", "\n")


def is_lock_held(path: Path) -> bool:
    """Whether a process holds the `filelock.FileLock` at `path`, which is neither created nor changed.

    False if this cannot be determined: an absent file, one that may not be read, a file system without locks.
    """
    try:
        with path.open("rb") as file:  # a read-only folder does not matter
            return not _is_free(file.fileno())
    except OSError:
        return False


def _is_free(descriptor: int) -> bool:
    """Try the lock and release it at once: a process that wants it meanwhile gets it on its next try."""
    if sys.platform == "win32":
        return _is_free_after_retries(descriptor)
    try:
        # Shared, so that two processes that check at once do not take each other for the holder.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    # Closing the file is not enough: a child that was forked in the meantime would keep the lock.
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return True


def _is_free_after_retries(descriptor: int) -> bool:
    """Try the lock several times: a process that only checks it holds it for a much shorter time."""
    for _ in range(_PROBES):
        if filelock.lock_descriptor(descriptor, blocking=False):
            filelock.unlock_descriptor(descriptor)
            return True
        time.sleep(_PAUSE_S)
    return False


def _encode_json(value: Any, indent: int | None = None) -> bytes:
    text = json.dumps(_to_plain(value), ensure_ascii=False, allow_nan=False, indent=indent)
    # a lone surrogate (an undecodable file name) cannot be UTF-8, but its backslash form is valid JSON
    return text.encode("utf-8", errors="backslashreplace")


def _decode_row(content: bytes) -> Row | None:
    try:
        value = json.loads(content.decode("utf-8"), parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _to_plain(value: Any) -> Any:
    """Convert to the types that JSON has: numpy to Python, Path to str, NaN and infinity to None."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, dict):
        return {str(key): _to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return os.fspath(value) if isinstance(value, os.PathLike) else value
