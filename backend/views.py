"""Show what a training with these settings would see of a data set: `python -m backend.views --help`.

Prints the decoding error, which remains if a network's heatmaps are perfect; with `--image`, draws that
image as the first epochs would augment it, with its landmarks.
"""

from __future__ import annotations

import base64
import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from backend.config import RunConfig, Settings, parse_settings
from backend.data.samples import Samples, SampleSplits, read_splits
from backend.errors import UserError
from backend.flags import OneLineParser, add_setting_flags, given_settings, run_command, whole_number
from backend.overlays import draw_points, encode_jpeg
from backend.training.build import build_augmentation, build_images, build_store, crops_in_force
from backend.training.decoding_error import DecodingError, decoding_error_on_crops, decoding_error_on_images


def main(arguments: Sequence[str]) -> int:
    """Print the decoding error, as text or JSON; write the pictures that were requested."""
    options = _parser().parse_args(arguments)
    settings = parse_settings(given_settings(options))
    splits = read_splits(settings)
    report: dict[str, Any] = {"floor": None, "crop_floor": None, "views": []}
    if options.floor:
        report["floor"] = asdict(decoding_error_on_images(splits.train, settings))
        report["crop_floor"] = (
            asdict(decoding_error_on_crops(splits.train, settings)) if settings.refine else None
        )
    pictures = _draw_views(splits, settings, options) if options.image else []
    if options.out:
        _write_pictures(options.out, pictures)
    if options.json:
        report["views"] = [base64.b64encode(picture).decode("ascii") for picture in pictures]
        print(json.dumps(report))
    elif options.floor:
        print(*_format_report(report), sep="\n")
    return 0


def _parser() -> OneLineParser:
    parser = OneLineParser(prog="python -m backend.views", description=__doc__)
    parser.add_argument("--no-floor", dest="floor", action="store_false", help="leave out the decoding error")
    parser.add_argument("--image", metavar="ID", help="image to draw as a training would augment it")
    parser.add_argument(
        "--first_epoch", type=whole_number, default=1, help="first epoch to draw (default: 1)"
    )
    parser.add_argument("--num_views", type=whole_number, default=7, help="epochs to draw (default: 7)")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="write the plain image and the epochs there, as JPEG"
    )
    parser.add_argument("--json", choices=["-"], help="print everything as JSON, pictures in base64")
    add_setting_flags(parser)
    return parser


def _draw_views(splits: SampleSplits, settings: Settings, options: Namespace) -> list[bytes]:
    """Draw an image as validation sees it, then as the first network sees it in each epoch; returns JPEGs."""
    samples, row = _find_image(splits, options.image)
    store = build_store(samples, RunConfig(settings, crops_in_force(RunConfig(settings, {}), splits.train)))
    augmentation = build_augmentation(settings, splits.annotations.landmark_names)
    plain = build_images(settings, samples, store)
    varied = build_images(settings, samples, store, augmentation)
    # the loop counts epochs from 0, people from 1
    first = options.first_epoch - 1
    views = [plain.draw((0, row)), *(varied.draw((first + n, row)) for n in range(options.num_views))]
    return [encode_jpeg(draw_points(view.picture, true_xy=view.points_xy_input)) for view in views]


def _find_image(splits: SampleSplits, image_id: str) -> tuple[Samples, int]:
    for samples in splits.by_split.values():
        rows = [row for row, name in enumerate(samples.images["image_id"]) if str(name) == image_id]
        if rows:
            return samples, rows[0]
    raise UserError(f"no image {image_id!r} in this data set", field="image", cure="give an image's id")


def _write_pictures(folder: Path, pictures: Sequence[bytes]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number, picture in enumerate(pictures):
            (folder / f"view-{number:03d}.jpg").write_bytes(picture)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror})", field="out") from error


def _format_report(report: dict[str, Any]) -> list[str]:
    lines = []
    for name, key in (("whole images", "floor"), ("crops", "crop_floor")):
        if report[key] is not None:
            error = DecodingError(**report[key])
            mm = "" if error.mre_mm is None else f", {error.mre_mm:.4f} mm"
            lines.append(f"decoding error on {name}: {error.mre_px:.4f} px{mm} ({error.num_images} images)")
    return lines


if __name__ == "__main__":
    sys.exit(run_command(main))
