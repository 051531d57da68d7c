"""Find images that are in two splits of a data set: `python -m backend.leaks --help`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from backend.config import parse_settings
from backend.data.leaks import across_splits, find_leaks, ids_to_exclude
from backend.data.samples import load_splits
from backend.errors import UserError
from backend.files import write_bytes_atomic
from backend.flags import OneLineParser, run_command


def main(arguments: Sequence[str]) -> int:
    """Print every pair; write the ids of the test images that an evaluation should leave out."""
    options = _parser().parse_args(arguments)
    defaults = parse_settings({})
    splits = load_splits(
        options.dataset_path,
        dataset_format=options.dataset_format,
        annotation_type=defaults.annotation_type,
        val_fraction=defaults.val_fraction,
        seed=defaults.seed,
        for_training=False,
    )
    leaks = find_leaks(splits)
    print(*leaks, sep="\n", end="\n" if leaks else "")
    excluded = ids_to_exclude(leaks)
    print(
        f"pairs: {len(leaks)}, across splits: {len(across_splits(leaks))}, "
        f"test images to leave out of an evaluation: {len(excluded)}"
    )
    if options.write:
        _write(options.write, excluded)
    return 0


def _parser() -> OneLineParser:
    parser = OneLineParser(prog="python -m backend.leaks", description=__doc__)
    parser.add_argument("--dataset_path", type=Path, required=True, help="folder of annotated images")
    parser.add_argument("--dataset_format", default="auto", help="annotation format (default: detected)")
    parser.add_argument(
        "--write",
        type=Path,
        metavar="FILE",
        help="write these ids to it, one per line, for backend.evaluate --exclude",
    )
    return parser


def _write(path: Path, ids: Sequence[str]) -> None:
    try:
        write_bytes_atomic(path, "".join(f"{image_id}\n" for image_id in ids).encode())
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror})", field="write") from error


if __name__ == "__main__":
    sys.exit(run_command(main))
