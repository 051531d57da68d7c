"""Wide CSV: one line an image, two columns a landmark.

`image,<name>_x,<name>_y,...[,split][,mm_per_px][,group][,group_kind]`; `mm_per_px_x` and `mm_per_px_y` give
the axes apart. A group is a patient unless `group_kind` says video or device. `<name>_confidence` is ignored, so
that predictions can be read back; where they lie beside marked points, those are the truth. Image paths are absolute
or relative to the CSV's folder. An empty cell is a missing landmark; without a split column all images are "train".
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from backend.data.annotations.csv_rows import Row, read_header, read_rows
from backend.data.annotations.draft import Draft
from backend.data.annotations.table import GROUP_KINDS, Annotations, GroupKind
from backend.errors import UserError

READER_NAME = "annotator"
USUAL_NAMES = ("annotations.csv", "labels.csv")

_SPACING_COLUMNS = ("mm_per_px", "mm_per_px_x", "mm_per_px_y")
_RESERVED = ("image", "split", "group", "group_kind", *_SPACING_COLUMNS)
_USUAL_KIND: GroupKind = "patient"
_SPLIT_ALIASES = {"": "train", "training": "train", "val": "valid", "validation": "valid", "testing": "test"}


@dataclass(frozen=True)
class _Header:
    column: dict[str, int]  # name -> position, reserved names in lower case
    landmark_names: tuple[str, ...]
    num_columns: int


def matches(path: Path) -> bool:
    return bool(_candidates(path))


def matches_marked(path: Path) -> bool:
    """Whether there is a file that is more than predictions."""
    return any(not _is_predicted(file) for file in _candidates(path))


def read(path: Path) -> Annotations:
    file = _choose_file(path)
    draft = Draft("wide_csv", file.parent, reader_names=(READER_NAME,))
    rows = read_rows(file)
    header = _read_header(draft, file, rows)
    if header:
        draft.landmark_names = header.landmark_names
        for line, cells in rows[1:]:
            _read_row(draft, file, header, line, cells)
    return draft.finish("add a column mm_per_px")


def _candidates(path: Path) -> list[Path]:
    """CSV files whose header is, or tries to be, ours: a broken one is for `read` to explain."""
    if path.is_file():
        return [path] if path.suffix.lower() == ".csv" else []
    return [file for file in sorted(path.glob("*.[cC][sS][vV]")) if _looks_right(file)]


def _looks_right(file: Path) -> bool:
    names = [name.lower() for header in read_header(file) for name in header]
    has_axes = any(name.endswith("_x") for name in names), any(name.endswith("_y") for name in names)
    return all(has_axes) or (any(has_axes) and "image" in names)


def _is_predicted(file: Path) -> bool:
    """Nobody marks a confidence: such a file is what a network said."""
    return any(name.lower().endswith("_confidence") for header in read_header(file) for name in header)


def _choose_file(path: Path) -> Path:
    if path.is_file():
        return path
    files = _candidates(path)
    files = [file for file in files if not _is_predicted(file)] or files
    for name in USUAL_NAMES:
        for file in files:
            if file.name.lower() == name:
                return file
    if len(files) != 1:
        found = ", ".join(file.name for file in files) or "none"
        raise UserError(
            f"{path} needs one CSV file with columns image, <name>_x, <name>_y; found: {found}",
            field="dataset_path",
            cure="give the path of the file itself",
        )
    return files[0]


def _read_header(draft: Draft, file: Path, rows: list[Row]) -> _Header | None:
    """The columns, or None after reporting why there is nothing to read."""
    if not rows:
        draft.report(file, "the file is empty", "write a header and a line an image", fatal=True)
        return None
    line, cells = rows[0]
    where = f"{file.name} line {line}"
    names = [name.lower() if name.lower() in _RESERVED else name for name in cells]
    axes = {axis: [n[:-2] for n in names if n.endswith(axis) and n not in _RESERVED] for axis in ("_x", "_y")}
    landmark_names = tuple(dict.fromkeys(axes["_x"]))
    twice = [name for name, times in Counter(names).items() if times > 1 and name]
    faults = [
        (twice, "column {} stands there twice", "keep one of them"),
        (
            [n for n in axes["_x"] if n not in axes["_y"]],
            "landmark {} has x without y",
            "add the column <name>_y",
        ),
        (
            [n for n in axes["_y"] if n not in axes["_x"]],
            "landmark {} has y without x",
            "add the column <name>_x",
        ),
        ([] if "image" in names else ["image"], "no column {}", "name the column of the image paths so"),
        (
            [] if any(axes.values()) else ["<name>_x"],
            "no landmark: no column {}",
            "add two columns a landmark",
        ),
    ]
    for which, what, cure in faults:
        if which:
            draft.report(where, what.format(", ".join(dict.fromkeys(which))), cure, fatal=True)
    if any(which for which, _, _ in faults):
        return None
    known = {*_RESERVED, *(name + axis for name in landmark_names for axis in ("_x", "_y"))}
    unknown = [name for name in names if name and name not in known and not name.endswith("_confidence")]
    if unknown:
        draft.report(where, f"unknown columns are ignored: {', '.join(unknown)}", "remove or rename them")
    return _Header({name: position for position, name in enumerate(names)}, landmark_names, len(names))


def _read_row(draft: Draft, file: Path, header: _Header, line: int, cells: list[str]) -> None:
    where = f"{file.name} line {line}"
    if not draft.has_all_cells(cells, header.num_columns, where):
        return

    def cell(name: str) -> str:
        return cells[header.column[name]] if name in header.column else ""

    def place(name: str) -> str:
        return f"{where} column {name}"

    if not cell("image"):
        draft.report(place("image"), "no image path; the line is left out", "fill it in")
        return
    points = draft.empty_points()
    for index, name in enumerate(header.landmark_names):
        x, y = f"{name}_x", f"{name}_y"
        points[0, index] = draft.parse_point(cell(x), cell(y), place(x), place(y))
    spacings = {name: draft.parse_spacing(cell(name), place(name)) for name in _SPACING_COLUMNS}
    both, *per_axis = spacings.values()
    mm_per_px_x, mm_per_px_y = (both if math.isnan(spacing) else spacing for spacing in per_axis)
    known = not math.isnan(mm_per_px_x + mm_per_px_y)
    image_path = cell("image").replace("\\", "/")
    split = cell("split").lower()
    draft.add_image(
        image_path,
        draft.root / image_path,
        points,
        split=_SPLIT_ALIASES.get(split, split),
        group=cell("group"),
        group_kind=_read_group_kind(draft, cell("group_kind"), place("group_kind")),
        mm_per_px_xy=(mm_per_px_x, mm_per_px_y) if known else (math.nan, math.nan),
        where=where,
    )


def _read_group_kind(draft: Draft, text: str, where: str) -> GroupKind:
    """What the line's group is; a word that is no kind is reported."""
    kind = next((kind for kind in GROUP_KINDS if kind == text.lower()), _USUAL_KIND)
    if text and text.lower() != kind:
        draft.report(
            where, f"{text!r} is not a kind of group; {kind} is taken", f"write {', '.join(GROUP_KINDS)}"
        )
    return kind
