"""DeepLabCut and Lightning Pose, one animal: the tables of labels of a project.

DeepLabCut writes `labeled-data/<video>/CollectedData_<scorer>.csv`. Lightning Pose writes `CollectedData.csv`
into the project's folder, or `CollectedData_<view>.csv` for each camera; if there is no such file, all tables
there with the same header count, except predictions, which have a likelihood. Labels of both places are
joined; if one contradicts an earlier one, the earlier one counts.

Three header rows (scorer, bodyparts, coords), or four (individuals after the scorer): then only one animal
has labels; `single` are body parts without an animal, which are landmarks too. The image's path is in the
first column, in newer files of DeepLabCut in the first three. The scorer is the reader, the body parts are
the landmarks.

The video is the group. The views of a session, `labeled-data/<session>_<view>`, are images of one data set,
and one group. All images are "train", except those of Lightning Pose's tables that end in `_test` or `_new`,
which are "test". There is no pixel size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from backend.data.annotations.builder import AnnotationsBuilder, list_files
from backend.data.annotations.csv_rows import Row, read_header, read_rows, settle_decimals
from backend.data.annotations.image_names import ImageQuery, loosen
from backend.data.annotations.joining import Contradictions, join_points
from backend.data.annotations.table import Annotations
from backend.errors import UserError

_NAME = "CollectedData"
_VIDEOS = "labeled-data"
_HEADER_ROWS = ("scorer", "bodyparts", "coords")
_HEADER_ROWS_OF_ANIMALS = ("scorer", "individuals", "bodyparts", "coords")
_NO_ANIMAL = "single"  # DeepLabCut's name for body parts that are there once per image
_TEST_SUFFIXES = ("test", "new")
_EXPORT_AGAIN = "export the labels again"


@dataclass(frozen=True)
class _Table:
    """One file of labels, with its columns."""

    path: Path
    scorer: str
    num_path_columns: int
    num_columns: int
    columns: dict[str, tuple[int, int]]  # body part -> positions of x and y
    rows: list[Row] = field(repr=False)
    split: str
    view: str  # the camera's name, "" if there is only one


def matches(path: Path) -> bool:
    if path.is_file():
        return path.suffix.lower() == ".csv" and [row[0] for row in read_header(path)] == ["scorer"]
    return bool(_find_files(path))


def read(path: Path) -> Annotations:
    files = _find_files(path)
    if not files:
        raise UserError(
            f"no {_VIDEOS}/*/{_NAME}_*.csv and no {_NAME}*.csv in {path}",
            field="dataset_path",
            cure="give the project folder",
        )
    builder = AnnotationsBuilder("deeplabcut", _project_folder(files[0]))
    tables = [table for file in files if (table := _read_table(builder, file, fatal=len(files) == 1))]
    tables = _assign_splits(builder, tables)
    builder.landmark_names = tuple(dict.fromkeys(part for table in tables for part in table.columns))
    builder.reader_names = tuple(dict.fromkeys(table.scorer for table in tables))
    for table in tables:
        absent = [name for name in builder.landmark_names if name not in table.columns]
        if absent:
            builder.report(
                table.path, f"no columns for {', '.join(absent)}", "label these body parts there too"
            )
    views = sorted({table.view for table in tables if table.view})
    if len(views) > 1:
        builder.report(
            builder.root.name,
            f"the views {', '.join(views)} are images of one data set, with the same landmarks",
            "to train a network for one view alone, give the path of its table",
        )
    _add_images(builder, tables)
    return builder.finish("convert to wide CSV with a column mm_per_px if it is known")


# Files


def _find_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    project = path.parent if path.name == _VIDEOS else path
    videos = sorted(folder for folder in (project / _VIDEOS).glob("*") if folder.is_dir())
    named = [
        file for folder in (*videos, project) for file in list_files(folder, (".csv",)) if _is_named(file)
    ]
    return named or [file for file in list_files(project, (".csv",)) if _has_labels(file)]


def _is_named(file: Path) -> bool:
    return file.stem == _NAME or file.stem.startswith(f"{_NAME}_")


def _has_labels(file: Path) -> bool:
    """Whether the header is one of labels; predictions have a likelihood beside x and y."""
    header = read_header(file, len(_HEADER_ROWS_OF_ANIMALS))
    titles = tuple(cells[0] for cells in header)
    for header_rows in (_HEADER_ROWS, _HEADER_ROWS_OF_ANIMALS):
        if titles[: len(header_rows)] == header_rows:
            return not set(header[len(header_rows) - 1][1:]) - {"x", "y", ""}
    return False


def _project_folder(file: Path) -> Path:
    folder = file.absolute().parent
    return folder.parent.parent if _is_of_video(file) else folder


def _is_of_video(file: Path) -> bool:
    return file.absolute().parent.parent.name == _VIDEOS


# Header


def _read_table(builder: AnnotationsBuilder, path: Path, *, fatal: bool) -> _Table | None:
    """Read a file and its header; None after reporting what is wrong with it."""
    try:
        return _parse_table(builder, path)
    except UserError as error:
        builder.report(path, error.what, error.cure, fatal=fatal)
        return None


def _parse_table(builder: AnnotationsBuilder, path: Path) -> _Table:
    """Parse a file. Raises UserError if the header is broken or labels several animals."""
    rows = read_rows(path, builder.report)
    titles = tuple(cells[0] for _, cells in rows[:4])
    of_animals = titles == _HEADER_ROWS_OF_ANIMALS
    if not of_animals and titles[:3] != _HEADER_ROWS:
        raise UserError(f"the first three rows must be {', '.join(_HEADER_ROWS)}", cure=_EXPORT_AGAIN)
    num_header_rows = 4 if of_animals else 3
    header, rows = [cells for _, cells in rows[:num_header_rows]], rows[num_header_rows:]
    scorers, parts, axes = header[0], header[-2], header[-1]
    num_path_columns = next((i for i, axis in enumerate(axes) if axis in ("x", "y")), len(axes))
    positions = list(range(num_path_columns, min(len(parts), len(axes))))
    if of_animals:
        positions = _keep_one_animal(builder, path, header[1], positions, rows)
    columns = _pair_columns(parts, axes, positions)
    rows = settle_decimals(rows, {position for pair in columns.values() for position in pair})
    if len(scorers) <= num_path_columns:
        raise UserError("broken header: no scorer", cure=_EXPORT_AGAIN)
    scorer = scorers[num_path_columns]
    split, view = _split_and_view(path, scorer, [_folder_of(cells, num_path_columns) for _, cells in rows])
    return _Table(
        path=path,
        scorer=scorer,
        num_path_columns=num_path_columns,
        num_columns=len(axes),
        columns=columns,
        rows=rows,
        split=split,
        view=view,
    )


def _keep_one_animal(
    builder: AnnotationsBuilder, path: Path, animals: list[str], positions: list[int], rows: list[Row]
) -> list[int]:
    """Select the columns of the one animal that has labels, and of body parts without an animal."""
    animal_of = dict(zip(positions, animals[positions[0] :] if positions else [], strict=False))
    names = {name for name in animal_of.values() if name != _NO_ANIMAL}
    labelled = {
        name
        for _, cells in rows
        for position, name in animal_of.items()
        if name != _NO_ANIMAL and cells[position : position + 1] not in ([], [""], ["nan"], ["NaN"])
    }
    candidates = sorted(labelled if len(names) > 1 and labelled else names)
    if len(candidates) > 1:
        raise UserError(
            f"several animals ({', '.join(candidates)}) are labelled; only one per image is supported",
            cure="export the labels of one animal, or crop the images to one animal each",
        )
    if len(names) > 1:
        builder.report(
            path,
            f"of the animals {', '.join(sorted(names))} only {candidates[0]} has labels; it is taken",
            "label one animal per image",
        )
    return [position for position, name in animal_of.items() if name in (_NO_ANIMAL, *candidates)]


def _pair_columns(parts: list[str], axes: list[str], positions: list[int]) -> dict[str, tuple[int, int]]:
    """Map each body part to the positions of its x and y.

    Raises UserError if one is missing or there twice.
    """
    axes_of: dict[str, dict[str, int]] = {}
    for position in positions:
        axes_of.setdefault(parts[position], {})[axes[position]] = position
    times = Counter((parts[position], axes[position]) for position in positions)
    faults = [f"{part} {axis} is there twice" for (part, axis), number in times.items() if number > 1]
    faults += [f"{part} lacks x or y" for part, by_axis in axes_of.items() if not {"x", "y"} <= set(by_axis)]
    faults += [] if axes_of else ["there is no body part"]
    if faults:
        raise UserError(f"broken header: {', '.join(faults)}", cure=_EXPORT_AGAIN)
    return {part: (by_axis["x"], by_axis["y"]) for part, by_axis in axes_of.items()}


# Splits, videos and views


def _split_and_view(path: Path, scorer: str, folders: Collection[str]) -> tuple[str, str]:
    """Read split and view from the name of a table in the project's folder, which may end with the scorer."""
    view = path.stem.removeprefix(_NAME).removeprefix("_")
    if _is_of_video(path) or view == scorer:
        return "train", ""
    split = "train"
    if view.rpartition("_")[2] in _TEST_SUFFIXES:
        split, view = "test", view.rpartition("_")[0]
    return split, view if any(folder.endswith(f"_{view}") for folder in folders) else ""


def _folder_of(cells: list[str], num_path_columns: int) -> str:
    """Return the last folder of the image's path as it is written."""
    return PurePosixPath(_written_path(cells, num_path_columns)).parent.name


def _assign_splits(builder: AnnotationsBuilder, tables: list[_Table]) -> list[_Table]:
    if {table.split for table in tables} != {"test"}:
        return tables
    builder.report(
        builder.root.name,
        "by their names all labels are test; they are taken as train",
        "add those to train on, or mind that these are trained on",
    )
    return [replace(table, split="train") for table in tables]


# Images


def _add_images(builder: AnnotationsBuilder, tables: list[_Table]) -> None:
    """Join what the tables state about each image, then add the images."""
    labels: dict[Path, list[tuple[_Table, Row]]] = {}
    named = [[_image_of(builder, table, cells) for _, cells in table.rows] for table in tables]
    match_of = builder.find_images(chain.from_iterable(named))
    for table, images in zip(tables, named, strict=True):
        _report_other_videos(builder, table, [query for query in images if match_of[query].path is None])
        for (line, cells), query in zip(table.rows, images, strict=True):
            where = f"{builder.relative(table.path)} line {line}"
            if not builder.has_all_cells(cells, table.num_columns, where):
                continue
            image = builder.accept(where, query, match_of[query])
            if image is None:
                continue
            entries = labels.setdefault(image, [])
            if any(known.path == table.path for known, _ in entries):
                builder.report(where, f"image {image.name} is there twice; the first counts", "keep one line")
            else:
                entries.append((table, (line, cells)))
    contradictions = Contradictions()
    for image, entries in labels.items():
        table, (line, _) = entries[0]
        video = image.parent.name
        # Some projects of Lightning Pose have no folder for each video.
        known_video = "" if image.parent.parent == builder.root else video
        builder.add_image(
            f"{video}/{image.stem}",
            image,
            _join_entries(builder, image, entries, contradictions),
            split=table.split,
            group=known_video.removesuffix(f"_{table.view}") if table.view else known_video,
            group_kind="video",
            where=f"{builder.relative(table.path)} line {line}",
        )
    contradictions.report(builder, Counter(table.path for entries in labels.values() for table, _ in entries))


def _join_entries(
    builder: AnnotationsBuilder,
    image: Path,
    entries: list[tuple[_Table, Row]],
    contradictions: Contradictions,
) -> npt.NDArray[np.float64]:
    """Join the points (R, K, 2) of the tables that label one image; per reader, the first table counts."""
    points = builder.empty_points()
    split = entries[0][0].split
    first_of: dict[str, str] = {}
    for table, row in entries:
        reader = builder.reader_names.index(table.scorer)
        earlier = first_of.setdefault(table.scorer, builder.relative(table.path))
        joined, differs = join_points([points[reader], np.array(_read_points(builder, table, row))])
        if table.split != split:
            what = f"split {table.split} instead of {split} as in {builder.relative(entries[0][0].path)}"
            contradictions.add(table.path, what, "list an image in one split only", image.name)
        elif differs.any():
            what = f"landmarks at other places than in {earlier}"
            contradictions.add(table.path, what, "correct or remove those that are wrong", image.name)
        else:
            points[reader] = joined
    return points


def _image_of(builder: AnnotationsBuilder, table: _Table, cells: list[str]) -> ImageQuery:
    """Return the image that a line names, below the project, or beside the table if it names no folder.

    A table in a video's folder is about that video only: all videos number their frames alike.
    """
    written = _written_path(cells, table.num_path_columns)
    beside = table.path.absolute().parent
    if "/" not in written:
        return ImageQuery.of(written, beside)
    return ImageQuery.of(written, builder.root, *([] if beside == builder.root else [beside.parent]))


def _report_other_videos(builder: AnnotationsBuilder, table: _Table, missing: Iterable[ImageQuery]) -> None:
    """Report a table that seems to be copied into another video's folder, whose frames have other landmarks.

    `missing` are its images that do not exist.
    """
    folder = table.path.absolute().parent
    if folder.parent.name != _VIDEOS:
        return  # it may be called anything
    absent = (PurePosixPath(query.name).parent.name for query in missing)
    others = [name for name in dict.fromkeys(absent) if name and loosen(name) != loosen(folder.name)]
    if others:
        builder.report(
            table.path,
            f"it names images of {', '.join(others)} that are not there, and is in the folder of "
            f"{folder.name}, which has other images",
            "put it into the folder of its own video, beside its images",
        )


def _written_path(cells: list[str], num_path_columns: int) -> str:
    return "/".join(cell for cell in cells[:num_path_columns] if cell).replace("\\", "/")


def _read_points(builder: AnnotationsBuilder, table: _Table, row: Row) -> list[tuple[float, float]]:
    line, cells = row
    points = []
    for part in builder.landmark_names:
        x_text, y_text = [cells[position] for position in table.columns.get(part, ())] or ["", ""]
        places = [f"{builder.relative(table.path)} line {line} column {part} {axis}" for axis in "xy"]
        points.append(builder.parse_point(x_text, y_text, *places))
    return points
