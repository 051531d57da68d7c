"""A CSV table of any program: one row per image with two columns per landmark, or one row per point.

`image,<name>_x,<name>_y,...[,split][,mm_per_px][,group][,group_kind]`; `mm_per_px_x` and `mm_per_px_y` give
the axes separately. A group is a patient unless `group_kind` says video or device. `<name>_confidence` is
ignored, so that predictions can be read back; if there are annotated points too, those are the ground truth.
Image paths are absolute or relative to the CSV's folder. An empty cell is a missing landmark; without a split
column all images are "train". `csv_columns` has the other titles that are understood, `point_csv` the tables
with one row per point.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from backend.data.annotations.builder import AnnotationsBuilder, list_files
from backend.data.annotations.csv_columns import SPACING_COLUMNS, Columns, read_columns
from backend.data.annotations.csv_rows import SUFFIXES, Row, read_header, read_rows, settle_decimals
from backend.data.annotations.image_names import ImageQuery
from backend.data.annotations.point_csv import collect_points
from backend.data.annotations.table import GROUP_KINDS, Annotations, GroupKind
from backend.errors import UserError

READER_NAME = "annotator"
USUAL_NAMES = ("annotations.csv", "labels.csv")

_USUAL_KIND: GroupKind = "patient"
_SPLIT_ALIASES = {"": "train", "training": "train", "val": "valid", "validation": "valid", "testing": "test"}


@dataclass(frozen=True)
class _Line:
    """One line of the table: its cells, and their places, by name."""

    where: str
    columns: Columns
    cells: list[str]

    def cell(self, name: str) -> str:
        return self.cells[self.columns.named[name]] if name in self.columns.named else ""

    def place(self, name: str) -> str:
        named = self.columns.named
        return f"{self.where} column {self.columns.titles[named[name]] if name in named else name}"


def matches(path: Path) -> bool:
    return bool(_candidates(path))


def matches_annotated(path: Path) -> bool:
    """Whether there is a file with annotations, not only with predictions."""
    return any(not _columns_of(file).is_predicted for file in _candidates(path))


def read(path: Path) -> Annotations:
    file = _choose_file(path)
    builder = AnnotationsBuilder("wide_csv", file.parent, reader_names=(READER_NAME,))
    rows = read_rows(file, builder.report)
    columns = _read_header(builder, file, rows)
    if columns:
        _read_lines(builder, file, columns, settle_decimals(rows[1:], _number_columns(columns)))
    return builder.finish("add a column mm_per_px")


def find_misses(path: Path) -> list[tuple[Path, str]]:
    """List the tables in a folder, or the file itself, that have no landmarks, with what each lacks."""
    files = [path] if path.is_file() else list_files(path, SUFFIXES)
    tables = _candidates(path)
    misses = []
    for file in files:
        if file.suffix.lower() not in SUFFIXES or file in tables:
            continue
        try:
            rows = read_rows(file, lambda *_: None)
        except UserError as error:
            misses.append((file, error.what.removeprefix(f"{file} ")))
            continue
        faults = read_columns(rows[0][1]).faults if rows else ()
        what = " and ".join(what for what, _ in faults)
        misses.append((file, f"line {rows[0][0]}: {what}" if rows else "is empty"))
    return misses


def _at(file: Path, row: Row) -> str:
    return f"{file.name} line {row[0]}"


def _candidates(path: Path) -> list[Path]:
    """List tables whose header is, or nearly is, ours: `read` explains a broken one."""
    if path.is_file():
        return [path] if path.suffix.lower() in SUFFIXES else []
    return [file for file in list_files(path, SUFFIXES) if _columns_of(file).resembles_ours]


def _columns_of(file: Path) -> Columns:
    return read_columns(next(iter(read_header(file)), []))


def _choose_file(path: Path) -> Path:
    if path.is_file():
        return path
    files = _candidates(path)
    files = [file for file in files if not _columns_of(file).is_predicted] or files
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


def _read_header(builder: AnnotationsBuilder, file: Path, rows: list[Row]) -> Columns | None:
    """Read the columns; None after reporting why there is nothing to read."""
    if not rows:
        builder.report(file, "the file is empty", "write a header and one line per image", fatal=True)
        return None
    columns = read_columns(rows[0][1])
    where = _at(file, rows[0])
    for what, cure in columns.faults:
        builder.report(where, what, cure, fatal=True)
    if columns.faults:
        return None
    builder.landmark_names = tuple(columns.points)
    unnamed = [
        f"column {k + 1} (without a name)"
        for k, title in enumerate(columns.titles)
        if not title and any(cells[k] for _, cells in rows[1:] if k < len(cells))
    ]
    ignored = [*columns.ignored, *unnamed]
    if ignored:
        builder.report(where, f"unknown columns are ignored: {', '.join(ignored)}", "remove or rename them")
    return columns


def _number_columns(columns: Columns) -> set[int]:
    pairs = [*columns.points.values(), *([columns.point] if columns.point else [])]
    spacings = {columns.named[name] for name in SPACING_COLUMNS if name in columns.named}
    return {position for pair in pairs for position in pair} | spacings


def _read_lines(builder: AnnotationsBuilder, file: Path, columns: Columns, rows: list[Row]) -> None:
    num_columns = len(columns.titles)
    if columns.point:
        rows = [row for row in rows if builder.has_all_cells(row[1], num_columns, _at(file, row))]
        images = list(collect_points(builder, file.name, columns, rows))
        match_of = builder.find_images(ImageQuery.of(image.name, builder.root) for image in images)
        for image in images:
            lines = [_Line(_at(file, row), columns, row[1]) for row in image.rows]
            _report_contradictions(builder, lines)
            query = ImageQuery.of(image.name, builder.root)
            if path := builder.accept(lines[0].where, query, match_of[query]):
                _add_image(builder, lines[0], query, path, image.points_xy_image)
        return
    lines = [_Line(_at(file, row), columns, row[1]) for row in rows]
    whole = (line for line in lines if len(line.cells) == num_columns)
    match_of = builder.find_images(ImageQuery.of(line.cell("image"), builder.root) for line in whole)
    for line in lines:
        if not builder.has_all_cells(line.cells, num_columns, line.where):
            continue
        if not line.cell("image"):
            builder.report(line.place("image"), "no image path; the line is left out", "fill it in")
            continue
        query = ImageQuery.of(line.cell("image"), builder.root)
        if path := builder.accept(line.where, query, match_of[query]):
            _add_image(builder, line, query, path, _read_points(builder, line))


def _read_points(builder: AnnotationsBuilder, line: _Line) -> npt.NDArray[np.float64]:
    """Read points (1, K, 2), original image pixels, NaN missing."""
    points = builder.empty_points()
    for index, pair in enumerate(line.columns.points.values()):
        places = (f"{line.where} column {line.columns.titles[k]}" for k in pair)
        points[0, index] = builder.parse_point(*(line.cells[k] for k in pair), *places)
    return points


def _report_contradictions(builder: AnnotationsBuilder, lines: list[_Line]) -> None:
    """Report lines of one image that contradict each other; the first counts."""
    first, *others = lines
    for name in set(first.columns.named) - {"image", "landmark"}:
        other = next((line for line in others if line.cell(name) != first.cell(name)), None)
        if other:
            builder.report(
                other.place(name),
                f"{other.cell(name)!r} and, in {first.where}, {first.cell(name)!r} for one image; "
                "the latter counts",
                "write the same in all lines of an image",
            )


def _add_image(
    builder: AnnotationsBuilder, line: _Line, query: ImageQuery, path: Path, points: npt.NDArray[np.float64]
) -> None:
    """Add one image with its (1, K, 2) points and what else its line states."""
    spacings = {name: builder.parse_spacing(line.cell(name), line.place(name)) for name in SPACING_COLUMNS}
    both, *per_axis = spacings.values()
    mm_per_px_x, mm_per_px_y = (both if math.isnan(spacing) else spacing for spacing in per_axis)
    known = not math.isnan(mm_per_px_x + mm_per_px_y)
    split = line.cell("split").lower()
    builder.add_image(
        query.name,
        path,
        points,
        split=_SPLIT_ALIASES.get(split, split),
        group=line.cell("group"),
        group_kind=_read_group_kind(builder, line.cell("group_kind"), line.place("group_kind")),
        mm_per_px_xy=(mm_per_px_x, mm_per_px_y) if known else (math.nan, math.nan),
        where=line.where,
    )


def _read_group_kind(builder: AnnotationsBuilder, text: str, where: str) -> GroupKind:
    """Read the kind of the line's group; an unknown one is reported."""
    kind = next((kind for kind in GROUP_KINDS if kind == text.lower()), _USUAL_KIND)
    if text and text.lower() != kind:
        builder.report(
            where, f"{text!r} is not a kind of group; {kind} is taken", f"write {', '.join(GROUP_KINDS)}"
        )
    return kind
