"""Train the defaults on DeepLabCut's `openfield` mouse, every fifth frame kept for the test.

Prints a line for the README: mean error in pixels on the frames that trained nothing, before and after refinement.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
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
    run_dir = train(table, options.work_dir, flags)
    minutes = (time.monotonic() - started) / 60
    result = evaluate(run_dir, table)
    unrefined = (result.get("unrefined") or {}).get("mre_px")
    before = "" if unrefined is None else f", {unrefined:.2f} px before refinement"
    print(
        f"openfield: {result['mre_px']:.2f} px on {result['num_images']} frames{before}, {minutes:.1f} minutes"
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


def train(table: Path, work_dir: Path, flags: list[str]) -> Path:
    """A run with the defaults (and any further flags); returns its folder."""
    command = [sys.executable, "train.py", "--dataset_path", str(table), "--runs_dir", str(work_dir), *flags]
    done = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=True)
    return Path(done.stdout.splitlines()[0].removeprefix("run: "))


def evaluate(run_dir: Path, table: Path) -> dict[str, Any]:
    """Metrics on the test frames."""
    command = [
        sys.executable,
        "-m",
        "backend.evaluate",
        "--checkpoint",
        str(run_dir / "checkpoints" / "best.pt"),
    ]
    command += ["--dataset_path", str(table), "--split", "test", "--json", "-"]
    done = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


if __name__ == "__main__":
    main()
