"""Fingerprints of images: a hash of the bytes and a thumbnail, kept in the user's cache directory."""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from backend.cache import cache_folder
from backend.data.images import read_thumbnail
from backend.errors import UserError
from backend.files import write_bytes_atomic

THUMBNAIL_SIDE_PX = 128
NUM_THREADS = 4
_FORMAT_VERSION = 1  # increase whenever thumbnails change


@dataclass(frozen=True)
class Fingerprint:
    """The digest of an image file's bytes, and its thumbnail, uint8 (THUMBNAIL_SIDE_PX, THUMBNAIL_SIDE_PX).

    The thumbnail is None if only the digest is known.
    """

    digest: str
    thumbnail: npt.NDArray[np.uint8] | None


def read_fingerprints(
    paths: Sequence[Path], root: Path, *, keep_others: bool = False
) -> list[Fingerprint | None]:
    """Return the fingerprint of every image of the data set in `root`; None for one that cannot be read.

    It comes from the cache if path, size and time of change are the same. The cache then holds these images,
    and others only with `keep_others`, for a caller that reads a part of a data set. A damaged cache is
    rebuilt; one that cannot be written only costs time.
    """
    cache_path = _cache_path(root)
    cached = _read_cache(cache_path)
    keys = [_key(path) for path in paths]
    missing = {key: path for key, path in zip(keys, paths, strict=True) if key and key not in cached}
    with ThreadPoolExecutor(NUM_THREADS) as pool:  # OpenCV releases the interpreter lock
        computed = dict(zip(missing, pool.map(_compute, missing.values()), strict=True))
    fingerprints = {key: cached.get(key) or computed.get(key) for key in keys}
    readable = {key: fingerprint for key, fingerprint in fingerprints.items() if fingerprint is not None}
    to_cache = {**cached, **readable} if keep_others else readable
    if to_cache.keys() != cached.keys():
        _write_cache(cache_path, to_cache)
    return [fingerprints[key] for key in keys]


def read_digests(paths: Sequence[Path], root: Path) -> list[str]:
    """Return the digest of every file's bytes, as in its fingerprint; empty if it cannot be read."""
    cached = _read_cache(_cache_path(root))
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        return list(pool.map(lambda path: _digest(path, cached.get(_key(path))), paths))


def _digest(path: Path, cached: Fingerprint | None) -> str:
    try:
        return cached.digest if cached is not None else _hash(path.read_bytes())
    except OSError:
        return ""


def _cache_path(root: Path) -> Path:
    return cache_folder() / "fingerprints" / f"{_hash(str(root.absolute()).encode())}.npz"


def _key(path: Path) -> str:
    """Return a key that changes whenever the file does; empty if the file is missing."""
    try:
        status = path.stat()
    except OSError:
        return ""
    return _hash(f"{path.absolute()}\0{status.st_size}\0{status.st_mtime_ns}".encode())


def _hash(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _compute(path: Path) -> Fingerprint | None:
    try:
        thumbnail = read_thumbnail(path, THUMBNAIL_SIDE_PX)
        return Fingerprint(_hash(path.read_bytes()), thumbnail)
    except (UserError, OSError):  # reported when its pixels are needed
        return None


def _read_cache(path: Path) -> dict[str, Fingerprint]:
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as archive:
            if int(archive["format_version"]) != _FORMAT_VERSION:
                return {}
            keys, digests = archive["keys"].tolist(), archive["digests"].tolist()
            thumbnails = archive["thumbnails"]
            if thumbnails.dtype != np.uint8 or thumbnails.shape[1:] != (THUMBNAIL_SIDE_PX,) * 2:
                return {}
            fingerprints = map(Fingerprint, digests, thumbnails)
            return dict(zip(keys, fingerprints, strict=True))
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return {}


def _write_cache(path: Path, fingerprints: dict[str, Fingerprint]) -> None:
    values = list(fingerprints.values())
    side = THUMBNAIL_SIDE_PX
    buffer = io.BytesIO()
    np.savez(
        buffer,
        format_version=np.array(_FORMAT_VERSION),
        keys=np.array(list(fingerprints), dtype=np.str_),
        digests=np.array([fingerprint.digest for fingerprint in values], dtype=np.str_),
        thumbnails=np.array([fingerprint.thumbnail for fingerprint in values], dtype=np.uint8).reshape(
            -1, side, side
        ),
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes_atomic(path, buffer.getbuffer())
    except OSError:  # a full disk, or a folder that may not be written
        return
