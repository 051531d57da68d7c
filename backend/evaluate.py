"""Measure a checkpoint on a split of a data set: `python -m backend.evaluate --help`."""

from __future__ import annotations

import json
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from backend.config import RunConfig
from backend.data.provenance import LEARNED_SPLITS
from backend.data.samples import (
    Samples,
    SampleSplits,
    find_implausible,
    load_splits,
    points_of_readers,
    select_landmarks,
)
from backend.data.splits import VALID
from backend.data.trained_on import TrainedOn, as_learned, ids_in_training
from backend.errors import UserError
from backend.evaluation.comparison import Comparison
from backend.evaluation.record import Record, measure
from backend.evaluation.report import build_report
from backend.evaluation.statistics import check_nme_landmarks
from backend.evaluation.text import describe_leaked
from backend.files import write_bytes_atomic, write_json_atomic
from backend.flags import OneLineParser, run_command
from backend.training.inference import Predictor, load_predictor
from backend.training.metrics import SDR_THRESHOLDS_MM
from backend.training.origin import find_trained_on

KEEP, LEAVE_OUT = "keep", "leave_out"
Leaked = dict[str, Any]


def main(arguments: Sequence[str]) -> int:
    """Print a table; write the record and the report if requested."""
    options = _parser().parse_args(arguments)
    predictor = load_predictor(options.checkpoint, options.device)
    settings, names = predictor.config.settings, predictor.task.landmark_names
    nme_landmarks = tuple(options.nme_landmarks) if options.nme_landmarks else None
    if nme_landmarks:
        # now, not after minutes of predicting
        check_nme_landmarks(nme_landmarks, names)
    truth_name = options.annotation_type or settings.annotation_type
    trained_on = _find_trained_on(predictor, options.checkpoint, leave_out=options.leaked == LEAVE_OUT)
    splits, is_own = _read_splits(predictor.config, options, trained_on)
    for problem in find_implausible(splits):
        print(f"problem: {problem}", file=sys.stderr)
    samples = _select_samples(splits, options.split, names)
    excluded = _read_excluded(options.exclude, samples) if options.exclude else []
    samples = samples.take(_rows_left(samples, excluded))
    leaked = _find_leaked(trained_on, samples, splits, is_own=is_own, leave_out=options.leaked == LEAVE_OUT)
    if leaked and leaked["left_out"]:
        samples = samples.take(_rows_left(samples, leaked["image_ids"]))
    comparison = compare(predictor, samples, splits, truth_name)
    record = {
        **measure(comparison, nme_landmarks),
        "about": describe_evaluation(predictor, options, excluded, leaked),
    }
    # the report first: whatever reads the record finds the report beside it
    if options.report:
        options.report.parent.mkdir(parents=True, exist_ok=True)
        write_bytes_atomic(options.report, build_report(record).encode("utf-8"))
    print(describe_leaked(record), file=sys.stderr if options.json == "-" else sys.stdout)
    if options.json == "-":
        print(json.dumps(record, indent=2, ensure_ascii=False))
        return 0
    print(_table(record))
    if options.json:
        Path(options.json).parent.mkdir(parents=True, exist_ok=True)
        write_json_atomic(Path(options.json), record)
    return 0


def compare(predictor: Predictor, samples: Samples, splits: SampleSplits, truth_name: str) -> Comparison:
    """Predict on the samples, with a bar on stderr, and add the readers' points.

    Raises UserError as prediction does.
    """
    names = tuple(predictor.task.landmark_names)
    with tqdm(total=len(samples), unit="image", desc="predicting") as bar:
        predictions = predictor.predict(samples, on_batch=bar.update)
    return Comparison(
        landmark_names=names,
        samples=samples,
        truth_name=truth_name,
        predicted_xy_image=predictions.points_xy_image,
        confidence=predictions.confidence,
        reader_names=splits.annotations.reader_names,
        readers_xy_image=points_of_readers(splits.annotations, samples, names),
        unrefined_xy_image=predictions.unrefined_xy_image,
        unshaped_xy_image=predictions.unshaped_xy_image,
    )


def describe_evaluation(
    predictor: Predictor, options: Namespace, excluded: Sequence[str], leaked: Leaked | None
) -> dict[str, Any]:
    """Return the record's `about`: what was evaluated, and how."""
    checkpoint, dataset_path = options.checkpoint.absolute(), options.dataset_path.absolute()
    return {
        "run": checkpoint.parent.parent.name,
        "checkpoint": checkpoint.name,
        "epoch": predictor.checkpoint.get("epoch"),
        "dataset": dataset_path.name,
        "dataset_path": str(dataset_path),
        "split": options.split,
        "excluded": list(excluded),
        "leaked": leaked,
        "device": str(predictor.device),
        "time": time.strftime("%Y-%m-%d %H:%M"),
        "config": predictor.config.to_dict(),
    }


def _parser() -> OneLineParser:
    parser = OneLineParser(prog="python -m backend.evaluate", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="a run's checkpoints/best.pt")
    parser.add_argument("--dataset_path", type=Path, required=True, help="folder of annotated images")
    parser.add_argument("--dataset_format", default="auto", help="annotation format (default: detected)")
    parser.add_argument("--split", default="test", help="split to measure on (default: test)")
    parser.add_argument(
        "--annotation_type", help="reader whose annotations are the ground truth (default: the run's)"
    )
    parser.add_argument("--exclude", type=Path, metavar="FILE", help="image ids, one per line, to leave out")
    parser.add_argument(
        "--leaked",
        choices=(KEEP, LEAVE_OUT),
        default=KEEP,
        help="images that are also in the run's train or valid split: keep and report them, or leave them "
        "out (default: %(default)s)",
    )
    parser.add_argument(
        "--nme_landmarks",
        nargs=2,
        metavar=("A", "B"),
        help="landmarks whose distance divides the errors for the NME (default: the image's diagonal)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument(
        "--json", metavar="FILE", help="write the record to it; - is stdout, with nothing else"
    )
    parser.add_argument("--report", type=Path, metavar="FILE", help="write a self-contained HTML page to it")
    return parser


def _find_trained_on(predictor: Predictor, checkpoint: Path, *, leave_out: bool) -> list[TrainedOn]:
    """Return what the run learned from, and the run that trained its first network.

    If that is no longer known: nothing, or a UserError if such images are to be left out.
    """
    try:
        return find_trained_on(checkpoint, predictor.checkpoint)
    except UserError as error:
        if not leave_out:
            return []
        raise UserError(
            f"images of the training data cannot be found, since it cannot be read: {error.what}",
            field="leaked",
            cure="restore it, or keep such images",
        ) from error


def _read_splits(
    config: RunConfig, options: Namespace, trained_on: Sequence[TrainedOn]
) -> tuple[SampleSplits, bool]:
    """Return the splits of the data set, and whether it is the run's own.

    If it is, its `train` and `valid` are as the run had them. In another data set `valid` is carved off only
    if it is requested.
    """

    def load(val_fraction: float) -> SampleSplits:
        return load_splits(
            options.dataset_path,
            dataset_format=options.dataset_format,
            annotation_type=options.annotation_type or config.settings.annotation_type,
            val_fraction=val_fraction,
            seed=config.settings.seed,
            for_training=False,
        )

    is_valid = options.split == VALID
    if not trained_on or trained_on[0].known_by == "folder":
        on_path = config.val_fraction_on(options.dataset_path)
        # if valid is requested, the run's data may have moved
        splits = load(config.settings.val_fraction if is_valid else on_path)
        return splits, bool(trained_on) and as_learned(splits, trained_on[0]) is not None
    uncarved = load(0.0)
    learned = as_learned(uncarved, trained_on[0])
    if options.split not in LEARNED_SPLITS:
        return uncarved, learned is not None
    if learned is not None:
        return learned, True
    return (load(config.settings.val_fraction) if is_valid else uncarved), False


def _select_samples(splits: SampleSplits, split: str, names: Sequence[str]) -> Samples:
    """Return the split, with its landmarks in the order of the checkpoint."""
    if split not in splits.by_split:
        choices = ", ".join(splits.by_split)
        raise UserError(f"no split {split!r} in this data set", field="split", cure=f"choose {choices}")
    annotated = splits.annotations.landmark_names
    missing = [name for name in names if name not in annotated]
    if missing:
        raise UserError(
            f"this data set lacks the checkpoint's landmarks {', '.join(missing)}",
            field="dataset_path",
            cure=f"it has {', '.join(annotated)}",
        )
    return select_landmarks(splits, names).by_split[split]


def _read_excluded(path: Path, samples: Samples) -> list[str]:
    """Return the ids in a file that are in the samples; the others are named on stderr."""
    try:
        unwanted = {
            line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()
        }
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error})", field="exclude", cure="check the file") from error
    ids = {str(image_id) for image_id in samples.images["image_id"]}
    unknown = sorted(unwanted - ids)
    if unknown:
        print(f"not in this split, so not excluded: {', '.join(unknown)}", file=sys.stderr)
    if unwanted >= ids:
        raise UserError(f"{path} excludes every image", field="exclude", cure="check the file")
    return sorted(unwanted & ids)


def _rows_left(samples: Samples, excluded: Sequence[str]) -> list[int]:
    return [row for row, image_id in enumerate(samples.images["image_id"]) if str(image_id) not in excluded]


def _find_leaked(
    trained_on: Sequence[TrainedOn], samples: Samples, splits: SampleSplits, *, is_own: bool, leave_out: bool
) -> Leaked | None:
    """Return the record's `leaked`; None if it is not known what the run was trained on.

    `image_ids` are those that the run was trained or validated on, `left_out` whether they are left out of
    the evaluation. `known_by` is how the training images are known, `num_unseen` how many of them could only
    be compared by their files. Raises UserError if no image would be left.
    """
    if not trained_on:
        return None
    image_ids = sorted(
        {
            image_id
            for number, training in enumerate(trained_on)
            for image_id in ids_in_training(samples, splits, training, is_own=is_own and number == 0)
        }
    )
    if leave_out and len(image_ids) == len(samples):
        raise UserError(
            "every image of this split is in the training data",
            field="leaked",
            cure="choose another split, or keep such images",
        )
    return {
        "image_ids": image_ids,
        "left_out": leave_out,
        "known_by": trained_on[0].known_by,
        "num_unseen": sum(training.num_unseen for training in trained_on),
    }


def _table(record: Record) -> str:
    """Format the table of all landmarks, with a last line for all images."""
    sdr_heads = "".join(f" {f'<={threshold:g} mm':>9}" for threshold in SDR_THRESHOLDS_MM)
    lines = [f"{'landmark':<24} {'MRE px':>8} {'MRE mm':>8} {'SD mm':>8}{sdr_heads}"]
    lines += [_line(name, statistics) for name, statistics in record["per_landmark"].items()]
    return "\n".join([*lines, _line(f"all, {record['num_images']} images", record)])


def _line(name: str, statistics: Record) -> str:
    def format_value(value: float | int | None, scale: float = 1, unit: str = "") -> str:
        return "-" if value is None else f"{value * scale:.2f}{unit}"

    shares = [f" {format_value(statistics[f'sdr_{t:g}mm'], 100, ' %'):>9}" for t in SDR_THRESHOLDS_MM]
    distances = [f" {format_value(statistics[key]):>8}" for key in ("mre_px", "mre_mm", "sd_mm")]
    return f"{name:<24}" + "".join([*distances, *shares])


if __name__ == "__main__":
    sys.exit(run_command(main))
