"""DeepLabCut, one animal: `labeled-data/<video>/CollectedData_<scorer>.csv` below a project folder.

Three header rows (scorer, bodyparts, coords); the image's path stands in the first column, in newer files in
the first three. The scorer is the reader, the body parts are the landmarks, the video is the group. All
images are "train"; there is no pixel size.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from backend.data.annotations.csv_rows import Row, read_header, read_rows
from backend.data.annotations.draft import Draft, is_file
from backend.data.annotations.table import Annotations
from backend.errors import UserError

_PATTERN = "CollectedData_*.csv"
_HEADER_ROWS = ("scorer", "bodyparts", "coords")


@dataclass
class _Table:
    """One CollectedData file, its header understood."""

    path: Path
    scorer: str
    num_path_columns: int
    num_columns: int
    columns: dict[str, tuple[int, int]]  # body part -> positions of x and y
    rows: list[Row] = field(repr=False)


def matches(path: Path) -> bool:
    if path.is_file():
        return path.suffix.lower() == ".csv" and [row[0] for row in read_header(path)] == ["scorer"]
    return bool(_find_files(path))


def read(path: Path) -> Annotations:
    files = _find_files(path)
    if not files:
        raise UserError(f"no {_PATTERN} in {path}", field="dataset_path", cure="give the project folder")
    draft = Draft("deeplabcut", _project_folder(files[0]))
    tables = [table for file in files if (table := _read_table(draft, file, fatal=len(files) == 1))]
    draft.landmark_names = tuple(dict.fromkeys(part for table in tables for part in table.columns))
    draft.reader_names = tuple(dict.fromkeys(table.scorer for table in tables))
    for table in tables:
        absent = [name for name in draft.landmark_names if name not in table.columns]
        if absent:
            draft.report(
                table.path, f"no columns for {', '.join(absent)}", "label these body parts there too"
            )
    _add_images(draft, tables)
    return draft.finish("convert to wide CSV with a column mm_per_px if it is known")


def _find_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    videos = path if path.name == "labeled-data" else path / "labeled-data"
    return sorted(videos.glob(f"*/{_PATTERN}")) or sorted(path.glob(_PATTERN))


def _project_folder(file: Path) -> Path:
    video = file.absolute().parent
    return video.parent.parent if video.parent.name == "labeled-data" else video


def _read_table(draft: Draft, path: Path, *, fatal: bool) -> _Table | None:
    """The file with its header taken apart, or None after reporting what is wrong with it."""
    cure = "export the labels again from DeepLabCut"
    try:
        rows = read_rows(path)
    except UserError as error:
        draft.report(path, error.what, error.cure, fatal=fatal)
        return None
    titles = [cells[0] for _, cells in rows[:4]]
    if titles[1:2] == ["individuals"]:
        draft.report(
            path, "several animals an image are not supported", "label one animal an image", fatal=fatal
        )
        return None
    if tuple(titles[:3]) != _HEADER_ROWS:
        draft.report(path, f"the first three rows must be {', '.join(_HEADER_ROWS)}", cure, fatal=fatal)
        return None
    scorers, parts, axes = (cells for _, cells in rows[:3])
    num_path_columns = next((i for i, axis in enumerate(axes) if axis in ("x", "y")), len(axes))
    positions: dict[str, dict[str, int]] = {}
    pairs = list(zip(parts, axes, strict=False))[num_path_columns:]
    for position, (part, axis) in enumerate(pairs, start=num_path_columns):
        positions.setdefault(part, {})[axis] = position
    faults = [
        f"{part} {axis} stands there twice" for (part, axis), times in Counter(pairs).items() if times > 1
    ]
    faults += [f"{part} lacks x or y" for part, found in positions.items() if not {"x", "y"} <= set(found)]
    faults += [] if positions else ["there is no body part"]
    if faults or len(scorers) <= num_path_columns:
        draft.report(path, f"broken header: {', '.join(faults) or 'no scorer'}", cure, fatal=fatal)
        return None
    columns = {part: (found["x"], found["y"]) for part, found in positions.items()}
    return _Table(path, scorers[num_path_columns], num_path_columns, len(axes), columns, rows[3:])


def _add_images(draft: Draft, tables: list[_Table]) -> None:
    """Join the scorers' rows of one image, then hand the images over."""
    labels: dict[Path, dict[str, tuple[_Table, Row]]] = {}
    for table in tables:
        for line, cells in table.rows:
            where = f"{draft.relative(table.path)} line {line}"
            if not draft.has_all_cells(cells, table.num_columns, where):
                continue
            image = _find_image(draft.root, table, cells)
            by_scorer = labels.setdefault(image, {})
            if table.scorer in by_scorer:
                draft.report(
                    where, f"image {image.name} stands there twice; the first counts", "keep one line"
                )
            else:
                by_scorer[table.scorer] = table, (line, cells)
    for image, by_scorer in labels.items():
        points = draft.empty_points()
        for reader, name in enumerate(draft.reader_names):
            if name in by_scorer:
                points[reader] = _read_points(draft, *by_scorer[name])
        table, (line, _) = next(iter(by_scorer.values()))
        video = image.parent.name
        where = f"{draft.relative(table.path)} line {line}"
        draft.add_image(
            f"{video}/{image.stem}",
            image,
            points,
            split="train",
            group=video,
            group_kind="video",
            where=where,
        )


def _find_image(project: Path, table: _Table, cells: list[str]) -> Path:
    written = "/".join(cell for cell in cells[: table.num_path_columns] if cell).replace("\\", "/")
    image = project / written
    beside = table.path.absolute().parent / Path(written).name
    # A video folder that was moved out of its project has its images beside the CSV still.
    return beside if is_file(beside) and not is_file(image) else image


def _read_points(draft: Draft, table: _Table, row: Row) -> list[tuple[float, float]]:
    line, cells = row
    points = []
    for part in draft.landmark_names:
        x_text, y_text = [cells[position] for position in table.columns.get(part, ())] or ["", ""]
        places = [f"{draft.relative(table.path)} line {line} column {part} {axis}" for axis in "xy"]
        points.append(draft.parse_point(x_text, y_text, *places))
    return points
