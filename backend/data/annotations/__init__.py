"""From a folder or file of annotations to one table, whatever the format, with all the problems found.

A format is a module with `matches(path) -> bool`, cheap, and `read(path) -> Annotations`. No torch here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from backend.data.annotations import aariz, coco, coco_files, deeplabcut, isbi2015, wide_csv
from backend.data.annotations.table import IMAGE_COLUMNS, Annotations, FloatArray, Problem
from backend.errors import UserError

__all__ = [
    "IMAGE_COLUMNS",
    "READERS",
    "Annotations",
    "Problem",
    "detect_format",
    "find_datasets",
    "mean_of_readers",
    "read_annotations",
    "select_reader",
]

READERS: dict[str, Callable[[Path], Annotations]] = {
    "aariz": aariz.read,
    "isbi2015": isbi2015.read,
    "deeplabcut": deeplabcut.read,
    "wide_csv": wide_csv.read,
    "coco": coco.read,
}

# In this order: the strictest layout first; a table made for this program comes before what it was made from, but
# predictions, which may lie in the folder of what they were made for, come last.
_MATCHES: tuple[tuple[str, Callable[[Path], bool]], ...] = (
    ("aariz", aariz.matches),
    ("isbi2015", isbi2015.matches),
    ("deeplabcut", deeplabcut.matches),
    ("wide_csv", wide_csv.matches_marked),
    ("coco", coco.matches),
    ("wide_csv", wide_csv.matches),
)

_LOOKED_FOR = (
    "train/Cephalograms with train/Annotations (aariz), "
    "RawImage/TrainingData with AnnotationsByMD (isbi2015), "
    "labeled-data/*/CollectedData_*.csv or CollectedData*.csv (deeplabcut), "
    "a CSV file with columns image, <name>_x, <name>_y (wide_csv), "
    "a JSON file with images, annotations and categories with keypoints (coco)"
)

# What a layout consists of, to say what is missing where some of it is there.
_LAYOUTS = {
    "aariz": ("train/Cephalograms", "train/Annotations/Cephalometric Landmarks"),
    "isbi2015": ("RawImage/TrainingData", "AnnotationsByMD"),
    "deeplabcut": ("labeled-data", "labeled-data/*/CollectedData_*.csv"),
}
_NEARLY: tuple[tuple[str, Callable[[Path], list[tuple[Path, str]]]], ...] = (
    ("wide_csv", wide_csv.find_misses),
    ("coco", coco_files.find_misses),
)
_NUM_SHOWN = 3  # of the files that a reader found something wrong with


def detect_format(path: Path) -> str:
    """The name in READERS of the format of a folder or CSV file.

    Raises UserError when none fits; it says what each reader found wrong with files that are nearly what it reads.
    """
    _require_path(path)
    format = _match(path)
    if format:
        return format
    inside = find_datasets(path)
    cure = f"give {inside[0]}, which is one" if inside else "give the folder that holds one of these"
    what = "; ".join([f"{path} is no data set", *_explain(path), f"looked for {_LOOKED_FOR}"])
    raise UserError(what, field="dataset_path", cure=cure)


def read_annotations(path: Path, format: str = "auto", *, confined: bool = False) -> Annotations:
    """Read a data set; problems that leave something to train on are in `problems`.

    `format` is a name in READERS or "auto". Raises UserError that lists every fatal problem, and, where it is to be
    `confined` to its folder, one for an image that its annotations would fetch from elsewhere.
    """
    _require_path(path)
    if format == "auto":
        format = detect_format(path)
    if format not in READERS:
        raise UserError(
            f"unknown format {format!r}", field="dataset_format", cure=f"choose auto, {', '.join(READERS)}"
        )
    annotations = READERS[format](path)
    if confined and annotations.outside:
        listed = "\n".join(annotations.outside[:5])
        raise UserError(
            f"annotations name images outside of the data set's folder:\n{listed}",
            field="dataset_path",
            cure="put the images into the folder, and write their paths relative to the annotations",
        )
    fatal = [problem for problem in annotations.problems if problem.fatal]
    if fatal:
        # The others say why, where the fatal one is only that nothing is left.
        others = [problem for problem in annotations.problems if not problem.fatal][:5]
        raise UserError("\n".join(map(str, fatal + others)), field="dataset_path")
    return annotations


def select_reader(annotations: Annotations, annotation_type: str) -> FloatArray:
    """(N, K, 2) float32, original image pixels: the truth to train on.

    "mean" is the mean over those readers who have the landmark; else a reader's name, in any case. NaN where
    nobody, or not this reader, has it. Raises UserError for an unknown name.
    """
    points = annotations.points_xy_image
    wanted = annotation_type.strip().lower()
    if wanted == "mean":
        return mean_of_readers(points)
    for index, name in enumerate(annotations.reader_names):
        if name.lower() == wanted:
            return points[:, index].copy()
    raise UserError(
        f"no reader {annotation_type!r} in this data set",
        field="annotation_type",
        cure=f"choose mean, {', '.join(annotations.reader_names)}",
    )


def mean_of_readers(points_xy_image: npt.NDArray[np.floating]) -> FloatArray:
    """(N, R, K, 2) -> (N, K, 2) float32: the mean over those readers who have the landmark, NaN where nobody has."""
    missing = np.isnan(points_xy_image).any(axis=-1, keepdims=True)
    num_readers = (~missing).sum(axis=1)
    total = np.where(missing, 0.0, points_xy_image).sum(axis=1, dtype=np.float64)
    mean = np.where(num_readers > 0, total / np.maximum(num_readers, 1), np.nan)
    return mean.astype(np.float32)


def find_datasets(root: Path) -> list[Path]:
    """Those of `root` and its direct sub-folders that some reader recognises by names and CSV headers."""
    if not root.is_dir():
        return []
    try:
        folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError:  # not ours to read
        return []
    return [folder for folder in (root, *folders) if _match(folder)]


def _match(path: Path) -> str | None:
    try:
        return next((name for name, matches in _MATCHES if matches(path)), None)
    except OSError:  # a folder that may not be read is no data set
        return None


def _explain(path: Path) -> list[str]:
    """What each reader found wrong with what is nearly a data set of its format."""
    found = []
    for format, parts in _LAYOUTS.items():
        missing = [part for part in parts if not any(path.glob(part))]
        if path.is_dir() and 0 < len(missing) < len(parts):
            found.append(f"{format}: {', '.join(missing)} is missing")
    for format, find_misses in _NEARLY:
        try:
            misses = find_misses(path)
        except OSError:  # not ours to read
            continue
        root = path if path.is_dir() else path.parent
        shown = [f"{file.relative_to(root).as_posix()} {what}" for file, what in misses[:_NUM_SHOWN]]
        more = [f"{len(misses) - _NUM_SHOWN} more files"] if len(misses) > _NUM_SHOWN else []
        if shown:
            found.append(f"{format}: {', '.join([*shown, *more])}")
    return found


def _require_path(path: Path) -> None:
    try:
        exists = path.exists()
    except OSError as error:  # too long for a path, or in a folder that is not ours to read
        raise UserError(f"{path} cannot be read ({error.strerror})", field="dataset_path") from error
    if not exists:
        raise UserError(f"{path} does not exist", field="dataset_path", cure="check the path")
