"""Predict landmarks on images with a checkpoint: `python -m backend.predict --help`.

Writes the wide CSV that the program reads (`image, <name>_x, <name>_y`) with a confidence column per
landmark, and on request the same as JSON, pictures, and the heatmaps.
"""

from __future__ import annotations

import io
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from backend.data.annotations.builder import UNKNOWN_SPACING
from backend.data.annotations.csv_columns import SPACING_COLUMNS, read_columns
from backend.data.annotations.csv_rows import SUFFIXES, read_rows, settle_decimals
from backend.data.annotations.image_names import ImageQuery
from backend.data.annotations.image_names import find_images as find_named_images
from backend.data.annotations.writers import MarkedImage, to_csv, to_json, unused_name
from backend.data.image_facts import ReadingRemark, compare_spacings
from backend.data.images import IMAGE_SUFFIXES, is_image, read_image, read_image_facts
from backend.data.samples import Samples
from backend.errors import UserError
from backend.files import write_bytes_atomic, write_json_atomic
from backend.flags import OneLineParser, run_command
from backend.geometry import FloatArray
from backend.numbers import read_number
from backend.overlays import draw_points, encode_png
from backend.training.inference import load_predictor, unlabelled_samples
from backend.training.task import Predictions

# files beside images that are not reported
QUIET_SUFFIXES = {
    ".csv", ".tsv", ".txt", ".md", ".rst", ".html", ".htm", ".pdf", ".xml", ".json", ".jsonl", ".yaml",
    ".yml", ".ini", ".log", ".xls", ".xlsx", ".ods", ".doc", ".docx", ".db", ".npz",
}  # fmt: skip
QUIET_NAMES = {"readme", "license", "dicomdir"}
NUM_NAMED = 3  # skipped files that are reported by name
STDOUT = Path("-")


@dataclass(frozen=True)
class Source:
    """An image to predict on, its pixel size, NaN if unknown, and remarks on how it was read."""

    path: Path
    mm_per_px_xy: tuple[float, float] = UNKNOWN_SPACING
    remarks: tuple[ReadingRemark, ...] = ()


def main(arguments: Sequence[str]) -> int:
    """Predict, and write the CSV and the other files that were requested."""
    options = _parser().parse_args(arguments)
    sources = keep_readable(find_images(options.images))
    predictor = load_predictor(options.checkpoint, options.device)
    for source in sources:
        for remark in source.remarks:
            print(f"note: {source.path}: {remark}", file=sys.stderr)
    names = predictor.task.landmark_names
    paths = [source.path for source in sources]
    samples = unlabelled_samples(paths, len(names), [source.mm_per_px_xy for source in sources])
    maps = MapsWriter(options.maps, _file_names(paths)) if options.maps else None
    with tqdm(total=len(paths), unit="image") as bar:
        predictions = predictor.predict(samples, on_batch=bar.update, on_maps=maps)
    images = mark(sources, samples, predictions, options.out.parent)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomic(options.out, to_csv(images, names).encode("utf-8"))
    stream = sys.stderr if options.json == STDOUT else sys.stdout
    print(f"{options.out}: {len(paths)} images, {len(names)} landmarks each", file=stream)
    if options.json:
        _write_json(options.json, to_json(images, names))
    if options.overlays:
        _write_overlays(options.overlays, paths, predictions)
        print(f"{options.overlays}: {len(paths)} overlays", file=stream)
    return 0


def find_images(path: Path) -> list[Source]:
    """Return the image itself, every image in a folder in order of name, or those that a CSV file lists.

    In a folder, DICOM is recognized by its bytes, whatever its name; hidden files and folders are skipped,
    and files that may be meant as images are named on stderr. Raises UserError if there is no image.
    """
    if path.is_file():
        return _read_list(path) if path.suffix.lower() in SUFFIXES else [_read_source(path)]
    files = sorted(_walk_visible(path))
    # a DICOMDIR has DICOM's bytes, but lists images
    images = [file for file in files if is_image(file) and file.name.lower() not in QUIET_NAMES]
    skipped = _describe_skipped(path, set(files) - set(images))
    if not images:
        kinds = " ".join(sorted(IMAGE_SUFFIXES))
        among = f", among {skipped}" if skipped else ""
        cure = f"give an image or a folder of {kinds} or DICOM files"
        raise UserError(f"no image at {path}{among}", field="images", cure=cure)
    if skipped:
        print(f"skipped, not images: {skipped}", file=sys.stderr)
    return [_read_source(file) for file in images]


def _walk_visible(folder: Path) -> Iterator[Path]:
    """Yield all files below a folder except hidden ones and those in hidden folders."""
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__MACOSX"]
        yield from (Path(parent, name) for name in names if not name.startswith("."))


def _describe_skipped(folder: Path, files: set[Path]) -> str:
    """Return how many of the files may be meant as images, and the first names; empty if none."""
    names = sorted(
        file.relative_to(folder).as_posix()
        for file in files
        if file.suffix.lower() not in QUIET_SUFFIXES and file.stem.lower() not in QUIET_NAMES
    )
    first_names = ", ".join(names[:NUM_NAMED]) + (" ..." if names[NUM_NAMED:] else "")
    return f"{len(names)} {'file' if len(names) == 1 else 'files'} ({first_names})" if names else ""


def keep_readable(sources: Sequence[Source]) -> list[Source]:
    """Keep the images that can be decoded, and name the others on stderr.

    Raises the last one's UserError if none is left.
    """
    readable: list[Source] = []
    for source in sources:
        try:
            read_image(source.path)
            readable.append(source)
        except UserError as error:
            print(f"left out: {error}", file=sys.stderr)
            last_error = error
    if not readable:
        raise last_error
    return readable


def mark(
    sources: Sequence[Source], samples: Samples, predictions: Predictions, folder: Path
) -> list[MarkedImage]:
    """Return the predictions by image.

    Names are paths relative to `folder`, into which the table will be written, if possible.
    """
    return [
        MarkedImage(
            name=_relative(source.path, folder),
            path=source.path,
            size_hw=size_hw,
            points_xy_image=points,
            predicted_xy_image=points,
            confidence=confidence,
            mm_per_px_xy=source.mm_per_px_xy,
            remarks=tuple(map(str, source.remarks)),
        )
        for source, size_hw, points, confidence in zip(
            sources, samples.sizes_hw, predictions.points_xy_image, predictions.confidence, strict=True
        )
    ]


@dataclass
class MapsWriter:
    """Writes each image's maps as `<name>.npz` (`heatmaps`, `affine_heatmap_to_image`), batch after batch."""

    folder: Path
    names: Iterator[str]

    def __call__(self, heatmaps: npt.NDArray[np.uint8], affines: FloatArray) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for maps, to_image in zip(heatmaps, affines, strict=True):
            buffer = io.BytesIO()
            np.savez_compressed(buffer, heatmaps=maps, affine_heatmap_to_image=to_image)
            write_bytes_atomic(self.folder / f"{next(self.names)}.npz", buffer.getvalue())


def _read_source(path: Path) -> Source:
    """Read the pixel size that an image's file states; a damaged one is named by `keep_readable`."""
    try:
        facts = read_image_facts(path)
    except UserError:
        return Source(path)
    return Source(path, facts.mm_per_px_xy, facts.remarks)


def _with_spacing(source: Source, stated_xy: tuple[float, float] | None) -> Source:
    """Add the pixel size that a list states, if any, and a remark if the image itself states another."""
    if stated_xy is None:
        return source
    remark = compare_spacings(stated_xy, source.mm_per_px_xy)
    return Source(source.path, stated_xy, (*source.remarks, *([remark] if remark else [])))


def _read_list(path: Path) -> list[Source]:
    """Read the images that a CSV file lists.

    It has the column `image` and, if pixel sizes are known, `mm_per_px`, or `mm_per_px_x` and `mm_per_px_y`.
    A missing image is named on stderr, and so is one that was found under a similar name. Raises UserError
    if none exists.
    """
    (_, header), *rows = read_rows(path, _warn) or [(1, [])]
    columns = read_columns(header)
    if "image" not in columns.named or not rows:
        raise UserError(
            f"{path} lists no image", field="images", cure="name the column of the image paths image"
        )
    numbers = {columns.named[name] for name in SPACING_COLUMNS if name in columns.named}
    by_line = {
        f"{path} line {line}": {
            name: cells[position] for name, position in columns.named.items() if position < len(cells)
        }
        for line, cells in settle_decimals(rows, numbers)
    }
    sizes = {line: _read_size(row, line) for line, row in by_line.items()}
    images = _find_listed({line: row["image"] for line, row in by_line.items()}, path.parent)
    if not images:
        raise UserError(
            f"{path}: none of its {len(rows)} images exists",
            field="images",
            cure="write their paths relative to the list",
        )
    return [_with_spacing(_read_source(image), sizes[line]) for line, image in images.items()]


def _warn(file: Path, what: str, cure: str) -> None:
    print(f"{file}: {what}; {cure}", file=sys.stderr)


def _find_listed(names: Mapping[str, str], folder: Path) -> dict[str, Path]:
    """Find the files of images by the line that names them; a missing one is reported and left out."""
    by_line = {line: ImageQuery.of(name, folder) for line, name in names.items()}
    answers = find_named_images(by_line.values())
    images: dict[str, Path] = {}
    for line, query in by_line.items():
        answer = answers[query]
        if answer.path is None:
            print(f"left out: {line}: image {query.name} {answer.why}", file=sys.stderr)
            continue
        images[line] = answer.path
        if answer.differs:
            note = f"image {query.name} does not exist: {answer.path} was used ({answer.kind})"
            print(f"{line}: {note}", file=sys.stderr)
    return images


def _read_size(row: Mapping[str, str], line: str) -> tuple[float, float] | None:
    """Read the pixel size that a line states, mm; None without one.

    Raises UserError, naming the line, if it has no image or an impossible pixel size.
    """
    if not row.get("image"):
        raise UserError(f"{line}: no image", field="images", cure="fill in its path, or remove the line")
    texts = [row.get(column) or row.get("mm_per_px", "") for column in ("mm_per_px_x", "mm_per_px_y")]
    if not any(texts):
        return None
    try:
        mm_per_px_x, mm_per_px_y = (read_number(text) for text in texts)
    except UserError:
        mm_per_px_x = mm_per_px_y = math.nan
    if not all(0 < value < math.inf for value in (mm_per_px_x, mm_per_px_y)):
        raise UserError(
            f"{line}: {' and '.join(map(repr, texts))} are not a pixel size",
            field="images",
            cure="write two numbers above 0, or leave both cells empty",
        )
    return mm_per_px_x, mm_per_px_y


def _relative(path: Path, folder: Path) -> str:
    try:
        return Path(os.path.relpath(path.absolute(), folder.absolute())).as_posix()
    except ValueError:  # another drive on Windows
        return path.absolute().as_posix()


def _write_overlays(folder: Path, paths: Sequence[Path], predictions: Predictions) -> None:
    """Write each image with its points as a PNG file."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, path, points in zip(_file_names(paths), paths, predictions.points_xy_image, strict=True):
        write_bytes_atomic(folder / f"{name}.png", encode_png(draw_points(read_image(path), points)))


def _file_names(paths: Sequence[Path]) -> Iterator[str]:
    """Yield a name for each image's files; images of the same name in different folders get a number."""
    used_names: set[str] = set()
    return (unused_name(path.stem, used_names) for path in paths)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    if path == STDOUT:
        print(json.dumps(content, ensure_ascii=False, indent=2))
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json_atomic(path, content)


def _parser() -> OneLineParser:
    parser = OneLineParser(prog="python -m backend.predict", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="a run's checkpoints/best.pt")
    parser.add_argument(
        "--images",
        type=Path,
        required=True,
        help="an image, a folder of them, or a CSV file with the column image (and mm_per_px)",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="predictions.csv to write")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write the predictions as JSON (-: stdout)"
    )
    parser.add_argument("--maps", type=Path, metavar="DIR", help="also write each image's heatmaps (.npz)")
    parser.add_argument("--overlays", type=Path, metavar="DIR", help="also draw each image with its points")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
