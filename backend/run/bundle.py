"""A run as one zip file to hand on, with a README that says what each file is and how to use the weights."""

from __future__ import annotations

import secrets
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from backend.run.folder import RunFolder

_CHUNK_BYTES = 2**20
README = "README.txt"
_DESCRIPTIONS = {  # by name, else by suffix
    "best.pt": "the weights of the best validation epoch, which predict (PyTorch)",
    "last.pt": "the weights of the last epoch, and what a training goes on from (PyTorch)",
    "config.json": "the settings, and what was chosen for the user",
    "notes.json": "tags and notes",
    "metrics.jsonl": "the values of every epoch, one JSON object a line",
    "metrics.csv": "the same as a table",
    "events.jsonl": "what happened during the training",
    "outcome.json": "how it ended",
    "log.txt": "what the training printed",
    ".json": "the record of an evaluation: every number and every single error",
    ".html": "the same as a page for a browser",
}


def write_bundle(
    folder: RunFolder, target: Path, extra: Mapping[str, bytes] | None = None
) -> Iterator[float]:
    """Write the run's files, those of `extra` by name, and a README.txt into the zip file `target`.

    All are in a folder of the run's name. Yields the share that is packed, from 0 to 1, and packs only while
    it is iterated. `target` appears once it is complete. A checkpoint is stored as it is: weights do not
    compress.
    """
    paths = folder.bundle_paths()
    total = max(1, sum(path.stat().st_size for path in paths))
    done = 0
    part = target.with_name(f"{target.name}.{secrets.token_hex(4)}.part")  # two browsers may pack at once
    try:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
            names = [path.relative_to(folder.path).as_posix() for path in paths]
            readme = describe_bundle(folder.run_id, [*names, *(extra or {})]).encode()
            for name, content in {README: readme, **(extra or {})}.items():
                archive.writestr(f"{folder.run_id}/{name}", content)
            for path, name in zip(paths, names, strict=True):
                member = zipfile.ZipInfo.from_file(path, f"{folder.run_id}/{name}")
                member.compress_type = zipfile.ZIP_STORED if path.suffix == ".pt" else zipfile.ZIP_DEFLATED
                with path.open("rb") as source, archive.open(member, "w", force_zip64=True) as packed:
                    while chunk := source.read(_CHUNK_BYTES):
                        packed.write(chunk)
                        done += len(chunk)
                        yield min(1.0, done / total)  # a file may have grown meanwhile
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def describe_bundle(run_id: str, names: Sequence[str]) -> str:
    """Return the text of README.txt: the files, and the commands that use the checkpoint if there is one."""
    width = max(map(len, names), default=0)
    files = [f"  {name:<{width}}  {_describe_file(name)}".rstrip() for name in names]
    lines = [f"Run {run_id}, trained with Fiducial.", "", "Files", *files, ""]
    checkpoint = next((name for name in names if name.endswith(".pt")), None)
    if checkpoint is not None:
        option = f"--checkpoint {run_id}/{checkpoint}"
        lines += [
            "Use the weights: in Fiducial's folder, with this one unpacked there",
            "",
            "  mark images (IMAGES: an image, or a folder of them)",
            f"  python -m backend.predict {option} --images IMAGES --out predictions.csv",
            "",
            "  measure on annotated images (DATA: a data set's folder; SPLIT: one of its splits, such as "
            "test)",
            f"  python -m backend.evaluate {option} --dataset_path DATA --split SPLIT --report report.html",
            "",
            "On the page: unpack the folder into the folder of runs, and it appears on the tabs Runs and "
            "Predict.",
            "",
        ]
    return "\n".join(lines)


def _describe_file(name: str) -> str:
    path = PurePosixPath(name)
    return _DESCRIPTIONS.get(path.name) or _DESCRIPTIONS.get(path.suffix, "")
