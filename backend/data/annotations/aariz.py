"""Aariz cephalograms: 29 landmarks, two readers, seven machines, a pixel size per image.

`{train,valid,test}/Cephalograms/<id>.png` (or any other image), beside it `Annotations/Cephalometric
Landmarks/<reader>/<id>.json`, and `cephalogram_machine_mappings.csv` at the root. Landmarks are joined by
symbol, else by landmark_id, never by position: no order is promised.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from backend.data.annotations.builder import UNKNOWN_SPACING, AnnotationsBuilder, pair_files, present_readers
from backend.data.annotations.csv_rows import read_rows
from backend.data.annotations.image_names import normalize, stem_of
from backend.data.annotations.table import Annotations
from backend.errors import UserError

# fmt: off
LANDMARK_NAMES = (
    "A", "ANS", "B", "Me", "N", "Or", "Pog", "PNS", "Pn", "R", "S", "Ar", "Co", "Gn", "Go",
    "Po", "LPM", "LIT", "LMT", "UPM", "UIA", "UIT", "UMT", "LIA", "Li", "Ls", "N`", "Pog`", "Sn",
)
# fmt: on
SPLITS = ("train", "valid", "test")
READER_NAMES = ("Senior Orthodontists", "Junior Orthodontists")
MACHINES_FILE = "cephalogram_machine_mappings.csv"

_INDEX = {name: index for index, name in enumerate(LANDMARK_NAMES)}
_PRIMES = str.maketrans(dict.fromkeys("'´‘’′ʹ", "`"))


@dataclass(frozen=True)
class _Machine:
    name: str
    mm_per_px: float


def matches(path: Path) -> bool:
    return any(
        (path / split / "Cephalograms").is_dir() and _reader_root(path, split).is_dir() for split in SPLITS
    )


def read(path: Path) -> Annotations:
    builder = AnnotationsBuilder("aariz", path, LANDMARK_NAMES)
    splits = [split for split in SPLITS if (builder.root / split).is_dir()]
    builder.reader_names = present_readers(
        builder,
        {name: [_reader_root(builder.root, split) / name for split in splits] for name in READER_NAMES},
    )
    machines = _read_machines(builder)
    images: list[tuple[str, Path, dict[str, Path]]] = []
    for split in splits:
        folders = {name: _reader_root(builder.root, split) / name for name in builder.reader_names}
        pairs = pair_files(builder, builder.root / split / "Cephalograms", folders, ".json")
        images += [(split, image, files) for image, files in pairs]
    entries = {file: _read_entries(builder, file) for _, _, files in images for file in files.values()}
    index_of_id = _learn_ids(entries.values())
    for split, image, files in images:
        points = builder.empty_points()
        for reader, name in enumerate(builder.reader_names):
            if name in files:
                points[reader] = _join(builder, files[name], entries[files[name]], index_of_id)
        names = [stem_of(image.name), *(file.stem for file in files.values())]
        machine = next((machines[name] for name in map(normalize, names) if name in machines), None)
        builder.add_image(
            names[0],
            image,
            points,
            split=split,
            group=machine.name if machine else "",
            group_kind="device",
            mm_per_px_xy=(machine.mm_per_px, machine.mm_per_px) if machine else UNKNOWN_SPACING,
        )
    return builder.finish(f"list the images in {MACHINES_FILE} with cephalogram_id and pixel_size")


def _reader_root(root: Path, split: str) -> Path:
    return root / split / "Annotations" / "Cephalometric Landmarks"


def _read_machines(builder: AnnotationsBuilder) -> dict[str, _Machine]:
    """Read the machines by the name of the image, in one Unicode form."""
    path = builder.root / MACHINES_FILE
    if not path.is_file():
        return {}  # `finish` counts the images without a pixel size
    try:
        (_, header), *rows = read_rows(path, builder.report)
    except (UserError, ValueError) as error:
        builder.report(path, f"cannot be read ({error})", "export it again as CSV in UTF-8")
        return {}
    missing = {"cephalogram_id", "pixel_size"} - set(header)
    if missing:
        builder.report(path, f"no column {' nor '.join(sorted(missing))}", "add it to the first line")
        return {}
    machines = {}
    for line, cells in rows:
        if not builder.has_all_cells(cells, len(header), f"{MACHINES_FILE} line {line}"):
            continue
        row = dict(zip(header, cells, strict=True))
        spacing = builder.parse_spacing(
            row.get("pixel_size", ""), f"{MACHINES_FILE} line {line} column pixel_size"
        )
        machines[normalize(row["cephalogram_id"])] = _Machine(row.get("machine", ""), spacing)
    return machines


def _read_entries(builder: AnnotationsBuilder, path: Path) -> list[dict[str, Any]]:
    """Read the file's landmark entries; [] if there are none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        where = f"{builder.relative(path)} line {error.lineno} column {error.colno}"
        builder.report(where, f"not JSON ({error.msg})", "export the annotation again")
        return []
    except (OSError, UnicodeDecodeError) as error:
        builder.report(path, f"cannot be read ({error})", "export the annotation again")
        return []
    entries = content.get("landmarks") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        builder.report(path, 'no list "landmarks"', "export the annotation again")
        return []
    ceph_id = content.get("ceph_id")
    if ceph_id is not None and str(ceph_id) != path.stem:
        builder.report(
            path, f"ceph_id is {ceph_id!r}; the file's name was used", "rename the file or correct the id"
        )
    return entries


def _learn_ids(files: Iterable[list[dict[str, Any]]]) -> dict[str, int]:
    """Learn the index of each landmark_id from entries with a known symbol; the usual pairing wins."""
    pairings = Counter(
        (str(entry["landmark_id"]), index)
        for entries in files
        for entry in entries
        if entry.get("landmark_id") is not None and (index := _index_of_symbol(entry)) is not None
    )
    return {landmark_id: index for (landmark_id, index), _ in reversed(pairings.most_common())}


def known_symbol(name: str) -> str | None:
    """Return the data set's own spelling of a landmark's symbol; None for an unknown landmark."""
    index = _INDEX.get(name.strip().translate(_PRIMES))
    return None if index is None else LANDMARK_NAMES[index]


def _index_of_symbol(entry: Mapping[str, Any]) -> int | None:
    symbol = known_symbol(str(entry.get("symbol", "")))
    return None if symbol is None else _INDEX[symbol]


def _join(
    builder: AnnotationsBuilder, path: Path, entries: list[dict[str, Any]], index_of_id: Mapping[str, int]
) -> npt.NDArray[np.float64]:
    """Join one reader's points (K, 2) of one image, in the order of LANDMARK_NAMES."""
    points = np.full((len(LANDMARK_NAMES), 2), np.nan)
    count: Counter[int] = Counter()
    for entry in entries:
        index = _index_of_symbol(entry)
        if index is None:
            index = index_of_id.get(str(entry.get("landmark_id")))
        if index is None:
            shown = entry.get("symbol", entry.get("title"))
            builder.report(
                path, f"landmark {shown!r} is unknown; it is ignored", "use the data set's symbols"
            )
            continue
        count[index] += 1
        points[index] = _read_point(
            builder, entry, f"{builder.relative(path)} landmark {LANDMARK_NAMES[index]}"
        )
    for index, times in count.items():
        if times > 1:
            builder.report(
                path, f"landmark {LANDMARK_NAMES[index]} is there {times} times; masked", "keep one"
            )
            points[index] = np.nan
    absent = [name for index, name in enumerate(LANDMARK_NAMES) if not count[index]]
    if entries and absent:
        number = len(LANDMARK_NAMES) - len(absent)
        builder.report(
            path, f"{number} of {len(LANDMARK_NAMES)} landmarks; missing: {', '.join(absent)}", "add them"
        )
    return points


def _read_point(builder: AnnotationsBuilder, entry: Mapping[str, Any], where: str) -> tuple[float, float]:
    value = entry.get("value")
    if not isinstance(value, dict):
        builder.report(where, 'no "value" with x and y; masked', "export the annotation again")
        return math.nan, math.nan
    x_text, y_text = ("" if value.get(axis) is None else str(value[axis]) for axis in "xy")
    return builder.parse_point(x_text, y_text, f"{where} x", f"{where} y")
