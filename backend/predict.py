"""Predict landmarks on images with a checkpoint: `python -m backend.predict --help`.

Writes the wide CSV that the readers read (`image, <name>_x, <name>_y`) with a confidence column a landmark.
"""

from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from backend.data.images import read_image
from backend.errors import UserError
from backend.flags import OneLineParser, run_command
from backend.overlays import draw_points, encode_png
from backend.run.files import write_bytes_atomic
from backend.training.inference import load_predictor, unlabelled_samples
from backend.training.task import Predictions

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}


def main(arguments: Sequence[str]) -> int:
    """Predict, write the CSV and the overlays that were asked for."""
    options = _parser().parse_args(arguments)
    paths = keep_readable(find_images(options.images))
    predictor = load_predictor(options.checkpoint, options.device)
    names = predictor.task.landmark_names
    samples = unlabelled_samples(paths, len(names))
    with tqdm(total=len(paths), unit="image") as bar:
        predictions = predictor.predict(samples, on_batch=bar.update)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_bytes_atomic(options.out, to_csv(paths, names, predictions, options.out.parent).encode("utf-8"))
    print(f"{options.out}: {len(paths)} images, {len(names)} landmarks each")
    if options.overlays:
        _write_overlays(options.overlays, paths, predictions)
        print(f"{options.overlays}: {len(paths)} overlays")
    return 0


def find_images(path: Path) -> list[Path]:
    """The image itself, or every image in a folder by name. Raises UserError where there is none."""
    if path.is_file():
        return [path]
    found = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES) if path.is_dir() else []
    if not found:
        kinds = " ".join(sorted(IMAGE_SUFFIXES))
        raise UserError(f"no image at {path}", field="images", cure=f"give an image or a folder of {kinds}")
    return found


def keep_readable(paths: Sequence[Path]) -> list[Path]:
    """The images that can be decoded; the others are named on stderr. Raises UserError where none is left."""
    kept: list[Path] = []
    for path in paths:
        try:
            read_image(path)
            kept.append(path)
        except UserError as error:
            print(f"left out: {error}", file=sys.stderr)
            last_error = error
    if not kept:
        raise last_error
    return kept


def to_csv(paths: Sequence[Path], names: Sequence[str], predictions: Predictions, folder: Path) -> str:
    """The wide CSV; image paths are relative to `folder`, where the file will lie, if they can be."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", *(f"{name}_{part}" for name in names for part in ("x", "y", "confidence"))])
    for path, points, confidence in zip(
        paths, predictions.points_xy_image, predictions.confidence, strict=True
    ):
        cells = [
            value
            for (x, y), sure in zip(points, confidence, strict=True)
            for value in (f"{x:.3f}", f"{y:.3f}", f"{sure:.4f}")
        ]
        writer.writerow([_relative(path, folder), *cells])
    return text.getvalue()


def _relative(path: Path, folder: Path) -> str:
    try:
        return Path(os.path.relpath(path.absolute(), folder.absolute())).as_posix()
    except ValueError:  # another drive on Windows
        return path.absolute().as_posix()


def _write_overlays(folder: Path, paths: Sequence[Path], predictions: Predictions) -> None:
    """One PNG an image; images of the same name in different folders get a number."""
    folder.mkdir(parents=True, exist_ok=True)
    taken: set[str] = set()
    for path, points in zip(paths, predictions.points_xy_image, strict=True):
        name, number = path.stem, 1
        while name.lower() in taken:
            number += 1
            name = f"{path.stem}-{number}"
        taken.add(name.lower())
        write_bytes_atomic(folder / f"{name}.png", encode_png(draw_points(read_image(path), points)))


def _parser() -> OneLineParser:
    parser = OneLineParser(prog="python -m backend.predict", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="a run's checkpoints/best.pt")
    parser.add_argument("--images", type=Path, required=True, help="an image, or a folder of them")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="predictions.csv to write")
    parser.add_argument("--overlays", type=Path, metavar="DIR", help="also draw each image with its points")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    return parser


if __name__ == "__main__":
    sys.exit(run_command(main))
