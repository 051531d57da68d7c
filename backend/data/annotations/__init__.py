"""Reads a folder or file of annotations, in any known format, as one table with all problems found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from backend.data.annotations import aariz, coco, coco_files, deeplabcut, isbi2015, wide_csv
from backend.data.annotations.json_files import find_unreadable
from backend.data.annotations.table import IMAGE_COLUMNS, Annotations, Problem
from backend.errors import UserError
from backend.geometry import FloatArray

__all__ = [
    "FORMATS",
    "IMAGE_COLUMNS",
    "AnnotationFormat",
    "Annotations",
    "Problem",
    "detect_format",
    "find_datasets",
    "mean_of_readers",
    "read_annotations",
    "select_reader",
]

NUM_SHOWN = 3  # files that an error names per format
Miss = tuple[Path, str]  # a file that is nearly an annotation file, and what is wrong with it


@dataclass(frozen=True)
class AnnotationFormat:
    """One annotation format. Its functions take a folder, or a file of annotations."""

    name: str  # as in `backend.config.DatasetFormat` and in the `AnnotationsBuilder` of `read`
    title: str  # as people call it; the page and the documentation list it
    layout: str  # what a data set of it looks like, for the error that lists all formats
    # Whether the path is a data set of this format, damaged ones too, which `read` explains. It is asked
    # about every folder below the data root, so it looks at names, headers, or the signs of a JSON file
    # (`json_files.has_signs`).
    matches: Callable[[Path], bool]
    # The data set; `AnnotationsBuilder` shows how. Raises UserError for another path, with what was looked
    # for.
    read: Callable[[Path], Annotations]

    # What follows is for better answers, and may be left out.
    # A sign that other files have as well: asked only where no format's `matches` holds.
    matches_weakly: Callable[[Path], bool] = lambda path: False
    # Patterns of files and folders that belong together: where a folder has some of them and fits no format,
    # the error names those that it lacks.
    parts: tuple[str, ...] = ()
    # Files that nearly are of this format, each with what it lacks, for the error where the path fits no
    # format. JSON files that cannot be parsed need no mention: they are reported once for all formats.
    find_misses: Callable[[Path], list[Miss]] = lambda path: []


# In the order of detection: the strictest layout first; a table made for this program comes before what it
# was made from, but predictions, which may be in the folder of what they were made for, come last.
_ALL = (
    AnnotationFormat(
        "aariz",
        title="Aariz",
        layout="train/Cephalograms with train/Annotations",
        matches=aariz.matches,
        read=aariz.read,
        parts=("train/Cephalograms", "train/Annotations/Cephalometric Landmarks"),
    ),
    AnnotationFormat(
        "isbi2015",
        title="ISBI 2015",
        layout="RawImage/TrainingData with AnnotationsByMD",
        matches=isbi2015.matches,
        read=isbi2015.read,
        parts=("RawImage/TrainingData", "AnnotationsByMD"),
    ),
    AnnotationFormat(
        "deeplabcut",
        title="DeepLabCut",
        layout="labeled-data/*/CollectedData_*.csv or CollectedData*.csv",
        matches=deeplabcut.matches,
        read=deeplabcut.read,
        parts=("labeled-data", "labeled-data/*/CollectedData_*.csv"),
    ),
    AnnotationFormat(
        "wide_csv",
        title="CSV",
        layout="a CSV file with columns image, <name>_x, <name>_y",
        matches=wide_csv.matches_annotated,
        matches_weakly=wide_csv.matches,
        read=wide_csv.read,
        find_misses=wide_csv.find_misses,
    ),
    AnnotationFormat(
        "coco",
        title="COCO",
        layout="a JSON file with images, annotations and categories with keypoints",
        matches=coco.matches,
        read=coco.read,
        find_misses=coco_files.find_misses,
    ),
)
FORMATS = {format.name: format for format in _ALL}


def detect_format(path: Path) -> str:
    """Detect the format of a folder or file; return its name in FORMATS.

    Raises UserError if none fits; it says what is wrong with files that nearly fit a format.
    """
    _require_path(path)
    if format := _match(path):
        return format
    inside = find_datasets(path)
    cure = f"give {inside[0]}, which is one" if inside else "give the folder that holds one of these"
    layouts = ", ".join(f"{format.layout} ({format.name})" for format in FORMATS.values())
    what = "; ".join([f"{path} is not a data set", *_explain(path), f"looked for {layouts}"])
    raise UserError(what, field="dataset_path", cure=cure)


def read_annotations(path: Path, format: str = "auto", *, confined: bool = False) -> Annotations:
    """Read a data set; problems that leave something to train on are in `problems`.

    `format` is a name in FORMATS or "auto". Raises UserError that lists every fatal problem and, if
    `confined`, one for annotations that name images outside of the data set's folder.
    """
    _require_path(path)
    if format == "auto":
        format = detect_format(path)
    if format not in FORMATS:
        raise UserError(
            f"unknown format {format!r}", field="dataset_format", cure=f"choose auto, {', '.join(FORMATS)}"
        )
    annotations = FORMATS[format].read(path)
    if confined and annotations.outside:
        listed = "\n".join(annotations.outside[:5])
        raise UserError(
            f"annotations name images outside of the data set's folder:\n{listed}",
            field="dataset_path",
            cure="put the images into the folder, and write their paths relative to the annotations",
        )
    fatal = [problem for problem in annotations.problems if problem.fatal]
    if fatal:
        # The others say why, if the fatal one is only that nothing is left.
        others = [problem for problem in annotations.problems if not problem.fatal][:5]
        raise UserError("\n".join(map(str, fatal + others)), field="dataset_path")
    return annotations


def select_reader(annotations: Annotations, annotation_type: str) -> FloatArray:
    """Return the ground truth to train on: (N, K, 2) float32, original image pixels.

    `annotation_type` is a reader's name, in any case, or "mean": the mean over those readers who marked the
    landmark. NaN if nobody, or not this reader, marked it. Raises UserError for an unknown name.
    """
    points = annotations.points_xy_image
    reader = annotation_type.strip().lower()
    if reader == "mean":
        return mean_of_readers(points)
    for index, name in enumerate(annotations.reader_names):
        if name.lower() == reader:
            return points[:, index].copy()
    raise UserError(
        f"no reader {annotation_type!r} in this data set",
        field="annotation_type",
        cure=f"choose mean, {', '.join(annotations.reader_names)}",
    )


def mean_of_readers(points_xy_image: FloatArray) -> FloatArray:
    """Average (N, R, K, 2) over the readers who marked a landmark: (N, K, 2) float32, NaN if nobody did."""
    missing = np.isnan(points_xy_image).any(axis=-1, keepdims=True)
    num_readers = (~missing).sum(axis=1)
    total = np.where(missing, 0.0, points_xy_image).sum(axis=1, dtype=np.float64)
    mean = np.where(num_readers > 0, total / np.maximum(num_readers, 1), np.nan)
    return mean.astype(np.float32)


def find_datasets(root: Path) -> list[Path]:
    """List those of `root` and its direct subfolders that fit a format by names and headers."""
    if not root.is_dir():
        return []
    try:
        folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError:  # a folder that may not be read
        return []
    return [folder for folder in (root, *folders) if _match(folder)]


def _match(path: Path) -> str | None:
    signs = [(format.name, format.matches) for format in FORMATS.values()]
    signs += [(format.name, format.matches_weakly) for format in FORMATS.values()]
    try:
        return next((name for name, matches in signs if matches(path)), None)
    except OSError:  # a folder that may not be read is not a data set
        return None


def _explain(path: Path) -> list[str]:
    """Say what is wrong with what is nearly a data set, for each format that it nearly fits."""
    explanations = [
        f"{format.name}: {', '.join(missing)} is missing"
        for format in FORMATS.values()
        if (missing := _missing_parts(format, path))
    ]
    unreadable = _or_none(find_unreadable, path)
    if unreadable:
        explanations.append(_list_misses(path, unreadable))
    for format in FORMATS.values():
        misses = [miss for miss in _or_none(format.find_misses, path) if miss[0] not in dict(unreadable)]
        if misses:
            explanations.append(f"{format.name}: {_list_misses(path, misses)}")
    return explanations


def _list_misses(path: Path, misses: list[Miss]) -> str:
    """The first files with what is wrong with them, and how many more there are."""
    root = path if path.is_dir() else path.parent
    shown = [f"{file.relative_to(root).as_posix()} {what}" for file, what in misses[:NUM_SHOWN]]
    more = [f"{len(misses) - NUM_SHOWN} more files"] if len(misses) > NUM_SHOWN else []
    return ", ".join([*shown, *more])


def _missing_parts(format: AnnotationFormat, path: Path) -> list[str]:
    """List the parts that a folder lacks if it has others; none if it has all or none of them."""
    missing = [part for part in format.parts if not any(path.glob(part))]
    return missing if path.is_dir() and len(missing) < len(format.parts) else []


def _or_none(find: Callable[[Path], list[Miss]], path: Path) -> list[Miss]:
    try:
        return find(path)
    except OSError:  # a folder that may not be read
        return []


def _require_path(path: Path) -> None:
    try:
        exists = path.exists()
    except OSError as error:  # too long for a path, or in a folder that may not be read
        raise UserError(f"{path} cannot be read ({error.strerror})", field="dataset_path") from error
    if not exists:
        raise UserError(f"{path} does not exist", field="dataset_path", cure="check the path")
