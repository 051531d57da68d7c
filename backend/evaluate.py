"""Measure a checkpoint on a split of a data set: `python -m backend.evaluate --help`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from backend.data.samples import Samples, SampleSplits, load_splits
from backend.errors import UserError
from backend.flags import OneLineParser, run_command
from backend.run.files import write_json_atomic
from backend.training.inference import Predictor, load_predictor
from backend.training.metrics import (
    SDR_THRESHOLDS_MM,
    Summary,
    radial_errors,
    summarize,
    summarize_per_landmark,
)


def main(arguments: Sequence[str]) -> int:
    """Print a table and write the JSON that was asked for."""
    options = _parser().parse_args(arguments)
    predictor = load_predictor(options.checkpoint, options.device)
    settings = predictor.config.settings
    splits = load_splits(
        options.dataset_path,
        dataset_format=options.dataset_format,
        annotation_type=options.annotation_type or settings.annotation_type,
        val_fraction=settings.val_fraction,
        seed=settings.seed,
        for_training=False,
    )
    samples = _samples_of(splits, options.split, predictor.task.landmark_names)
    if options.exclude:
        samples = _without(samples, options.exclude)
    result = evaluate(predictor, samples)
    if options.json == "-":
        print(json.dumps(result, indent=2, ensure_ascii=False))
        return 0
    print(_table(result))
    if options.json:
        write_json_atomic(Path(options.json), result)
    return 0


def evaluate(predictor: Predictor, samples: Samples) -> dict[str, Any]:
    """`mre_px mre_mm sdr_2mm ... num_images` and the same `per_landmark`; None where no spacing is known."""
    predictions = predictor.predict(samples)
    errors = radial_errors(predictions.points_xy_image, samples.points_xy_image, samples.mm_per_px_xy)
    per_landmark = summarize_per_landmark(errors, predictor.task.landmark_names)
    return {**summarize(errors), "per_landmark": per_landmark}


def _parser() -> OneLineParser:
    parser = OneLineParser(prog="python -m backend.evaluate", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="a run's checkpoints/best.pt")
    parser.add_argument("--dataset_path", type=Path, required=True, help="folder of annotated images")
    parser.add_argument("--dataset_format", default="auto", help="annotation format (default: detected)")
    parser.add_argument("--split", default="test", help="split to measure on (default: test)")
    parser.add_argument("--annotation_type", help="whose landmarks are the truth (default: the run's)")
    parser.add_argument("--exclude", type=Path, metavar="FILE", help="image ids, one a line, to leave out")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument(
        "--json", metavar="FILE", help="write the result there; - is stdout, and nothing else"
    )
    return parser


def _samples_of(splits: SampleSplits, split: str, names: Sequence[str]) -> Samples:
    """The split, its landmarks in the order of the checkpoint's."""
    if split not in splits.by_split:
        there = ", ".join(splits.by_split)
        raise UserError(f"no split {split!r} in this data set", field="split", cure=f"choose {there}")
    known = splits.annotations.landmark_names
    missing = [name for name in names if name not in known]
    if missing:
        raise UserError(
            f"this data set lacks the checkpoint's landmarks {', '.join(missing)}",
            field="dataset_path",
            cure=f"it has {', '.join(known)}",
        )
    samples = splits.by_split[split]
    return Samples(samples.images, samples.points_xy_image[:, [known.index(name) for name in names]])


def _without(samples: Samples, path: Path) -> Samples:
    try:
        unwanted = {line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()}
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error})", field="exclude", cure="check the file") from error
    ids = [str(image_id) for image_id in samples.images["image_id"]]
    strangers = sorted(unwanted - set(ids))
    if strangers:
        print(f"not in this split, so not excluded: {', '.join(strangers)}", file=sys.stderr)
    kept = [row for row, image_id in enumerate(ids) if image_id not in unwanted]
    if not kept:
        raise UserError(f"{path} excludes every image", field="exclude", cure="check the file")
    return samples.take(kept)


def _table(result: dict[str, Any]) -> str:
    lines = [f"{'landmark':<24} {'MRE px':>8} {'MRE mm':>8}" + "".join(_sdr_heads())]
    lines += [_line(name, summary) for name, summary in result["per_landmark"].items()]
    return "\n".join([*lines, _line(f"all, {result['num_images']} images", result)])


def _sdr_heads() -> list[str]:
    return [f" {f'<={threshold:g} mm':>9}" for threshold in SDR_THRESHOLDS_MM]


def _line(name: str, summary: Summary) -> str:
    def shown(value: float | int | None, scale: float = 1, unit: str = "") -> str:
        return "-" if value is None else f"{value * scale:.2f}{unit}"

    shares = [f" {shown(summary[f'sdr_{t:g}mm'], 100, ' %'):>9}" for t in SDR_THRESHOLDS_MM]
    return f"{name:<24} {shown(summary['mre_px']):>8} {shown(summary['mre_mm']):>8}" + "".join(shares)


if __name__ == "__main__":
    sys.exit(run_command(main))
