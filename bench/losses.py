"""Compare the losses on one data set with the same budget: `python bench/losses.py --help`.

Trains a run for each loss through train.py, everything else at its default (further flags go to train.py), and
prints a Markdown table: the best error on the validation images, by which a loss is chosen, and the error on a test
split that chose nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
LOSSES = ("kl", "adaptive_wing", "mse")


def main() -> None:
    """Train, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset_path", type=Path, required=True)
    parser.add_argument("--split", default="test1", help="split to measure on (default: test1)")
    parser.add_argument("--exclude", type=Path, help="image ids to leave out, one a line")
    parser.add_argument("--losses", nargs="+", default=list(LOSSES), choices=LOSSES)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs_dir", type=Path, default=REPOSITORY / "runs" / "bench-losses")
    options, flags = parser.parse_known_args()
    print(
        f"{date.today()}, {platform.machine()}, {os.cpu_count()} CPU cores, seed {options.seed}, {' '.join(flags)}"
    )
    print("\n| loss | epochs | minutes | validation MRE | test MRE | within 2 mm | within 4 mm |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for loss in options.losses:
        run_dir, seconds = train(loss, options, flags)
        best = json.loads((run_dir / "status.json").read_text(encoding="utf-8"))["best_mre_mm"]
        print(row(loss, options.epochs, seconds, best, measure(run_dir, options)), flush=True)


def train(loss: str, options: argparse.Namespace, flags: list[str]) -> tuple[Path, float]:
    """Train one run; returns its folder and the seconds it took."""
    command = [sys.executable, "train.py", "--dataset_path", options.dataset_path, "--loss", loss]
    command += ["--epochs", options.epochs, "--seed", options.seed, "--runs_dir", options.runs_dir, *flags]
    started = time.monotonic()
    done = subprocess.run([*map(str, command)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=True)
    return Path(done.stdout.splitlines()[0].removeprefix("run: ")), time.monotonic() - started


def measure(run_dir: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Metrics of the run's best checkpoint on the split."""
    command = [sys.executable, "-m", "backend.evaluate", "--checkpoint", run_dir / "checkpoints" / "best.pt"]
    command += ["--dataset_path", options.dataset_path, "--split", options.split, "--json", "-"]
    if options.exclude:
        command += ["--exclude", options.exclude]
    done = subprocess.run([*map(str, command)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def row(loss: str, epochs: int, seconds: float, best_mm: float, result: dict[str, Any]) -> str:
    """One line of the table."""
    return (
        f"| {loss} | {epochs} | {seconds / 60:.1f} | {best_mm:.2f} mm | {result['mre_mm']:.2f} mm | "
        f"{100 * result['sdr_2mm']:.1f} % | {100 * result['sdr_4mm']:.1f} % |"
    )


if __name__ == "__main__":
    main()
