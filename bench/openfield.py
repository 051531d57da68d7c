"""Train the defaults on DeepLabCut's `openfield` mouse, every fifth frame kept for the test.

Prints a line for docs/method-and-measurements.md: mean error in pixels on the test frames, before and after
refinement.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from pathlib import Path

import commands

REPOSITORY = commands.REPOSITORY
sys.path.insert(0, str(REPOSITORY))

from backend.data.annotations import read_annotations, select_reader  # noqa: E402

TEST_EVERY = 5


def main() -> None:
    """Split, train, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset_path", type=Path, required=True, help="the folder openfield")
    parser.add_argument("--work_dir", type=Path, default=REPOSITORY / "runs" / "bench-openfield")
    options, flags = parser.parse_known_args()
    options.work_dir.mkdir(parents=True, exist_ok=True)
    table = write_split(options.dataset_path, options.work_dir)
    started = time.monotonic()
    run_dir = commands.train(["--dataset_path", table, "--runs_dir", options.work_dir, *flags])
    minutes = (time.monotonic() - started) / 60
    result = commands.evaluate(run_dir, ["--dataset_path", table, "--split", "test"])
    unrefined = (result.get("unrefined") or {}).get("mre_px")
    before = "" if unrefined is None else f", {unrefined:.2f} px before refinement"
    print(
        f"openfield: {result['mre_px']:.2f} px on {result['num_images']} frames{before}, {minutes:.1f} "
        f"minutes"
    )


def write_split(dataset: Path, work_dir: Path) -> Path:
    """The data set as a wide CSV whose every fifth frame, by name, is `test`."""
    annotations = read_annotations(dataset.absolute(), "auto")
    points = select_reader(annotations, "mean")
    names = annotations.landmark_names
    path = work_dir / "openfield.csv"
    order = sorted(range(len(points)), key=lambda row: str(annotations.images["image_id"].iloc[row]))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", *(f"{name}_{axis}" for name in names for axis in "xy"), "split"])
        for number, row in enumerate(order):
            cells = ["" if value != value else f"{value:.3f}" for value in points[row].ravel()]
            split = "test" if number % TEST_EVERY == 0 else "train"
            writer.writerow([annotations.images["path"].iloc[row], *cells, split])
    return path


if __name__ == "__main__":
    main()
