"""A run as one zip to hand on: its checkpoint, config, notes, metrics, events and evaluation reports."""

from __future__ import annotations

import secrets
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from backend.run.folder import RunFolder

_CHUNK_BYTES = 2**20


def write_bundle(
    folder: RunFolder, target: Path, extra: Mapping[str, bytes] | None = None
) -> Iterator[float]:
    """Write `target`, every member below a folder of the run's name; `extra` holds further files by name.

    Yields the share that is packed, from 0 to 1: it goes on as far as it is asked. Nobody sees `target` before it is
    whole. A checkpoint is stored as it is: weights do not compress.
    """
    paths = folder.bundle_paths()
    total = max(1, sum(path.stat().st_size for path in paths))
    done = 0
    part = target.with_name(f"{target.name}.{secrets.token_hex(4)}.part")  # two browsers may pack at once
    try:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in (extra or {}).items():
                archive.writestr(f"{folder.run_id}/{name}", content)
            for path in paths:
                name = f"{folder.run_id}/{path.relative_to(folder.path).as_posix()}"
                member = zipfile.ZipInfo.from_file(path, name)
                member.compress_type = zipfile.ZIP_STORED if path.suffix == ".pt" else zipfile.ZIP_DEFLATED
                with path.open("rb") as source, archive.open(member, "w", force_zip64=True) as packed:
                    while chunk := source.read(_CHUNK_BYTES):
                        packed.write(chunk)
                        done += len(chunk)
                        yield min(1.0, done / total)  # a file that grows meanwhile is no reason to pass 1
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
