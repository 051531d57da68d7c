"""Measure presets and levers on ISBI 2015 and write bench/README.md: `python bench/accuracy.py --help`.

Two protocols, never mixed. `choose`: a fixed fifth of the training images is carved off and chooses; no test
image is
looked at. `final`: what was chosen trains on all training images and is measured once on Test1, without the
images that
also stand in the training set. Every result is appended to bench/accuracy.jsonl; the tables are made from
that file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import commands
import torch

REPOSITORY = commands.REPOSITORY
sys.path.insert(0, str(REPOSITORY))

from backend.config import RunConfig  # noqa: E402
from backend.flags import setting_to_flag, whole_number  # noqa: E402
from backend.run.folder import RunFolder  # noqa: E402
from backend.run.rows import merge_metrics  # noqa: E402
from backend.training.build import build_shape_prior, build_splits  # noqa: E402
from backend.training.checkpoint import (  # noqa: E402
    load_checkpoint,
    save_checkpoint,
    shape_prior_content,
)

RESULTS = REPOSITORY / "bench" / "accuracy.jsonl"
PAGE = REPOSITORY / "bench" / "README.md"
BEGIN, END = "<!-- accuracy: begin -->", "<!-- accuracy: end -->"
CHOOSE = {"val_fraction": 0.2, "preview_every": 1000}
FINAL = {"val_fraction": 0.0, "preview_every": 1000}


@dataclass(frozen=True)
class Row:
    """A line of a table: settings on top of a preset, and what it is there to show.

    With `first_of`, the first network is taken from that row's run (the same settings and seed give the same
    network), and only the refinement is trained. With `weights_of`, nothing is trained: that row's weights
    predict, and the points are drawn to likely shapes.
    """

    name: str
    preset: str
    settings: Mapping[str, Any]
    first_of: str = ""
    weights_of: str = ""


def lever(name: str, first_of: str = "", **settings: Any) -> Row:
    return Row(name, "balanced", settings, first_of)


# the first network alone, 20 epochs each: enough to rank, and cheap
SHORT = {"refine": False, "epochs": 20, "warmup_epochs": 2}
FIRST_LEVERS = (
    lever("first, 20 epochs", **SHORT),
    lever("first, float32", **SHORT, mixed_precision=False),
    lever("first, letterbox", **SHORT, resize="letterbox"),
    lever("first, adaptive wing", **SHORT, loss="adaptive_wing"),
    lever("first, mse (balanced)", **SHORT, loss="mse"),
    lever("first, without EMA", **SHORT, ema_decay=0.0),
    lever("first, output stride 4", **SHORT, output_stride=4),
    lever("first, sigma of 1 cell", **SHORT, sigma=2.0),
    lever("first, sigma of 2 cells", **SHORT, sigma=4.0),
    lever("first, no augmentation", **SHORT, rotation_deg=0, scale_jitter=0, shift_jitter=0, photometric=0),
    lever("first, stronger augmentation", **SHORT, rotation_deg=8, scale_jitter=0.12, photometric=1.5),
    lever("first, batch 16", **SHORT, batch_size=16),
)
FIRST = "first network alone"
# one refiner, 20 epochs, where a row says nothing else
ONE = {"num_refiners": 1, "refine_epochs": 20}
FINE = {"crop_size": 96, "crop_mm_per_px": 0.2}  # the same stretch of the image in finer pixels
REFINE_LEVERS = (
    lever(FIRST, refine=False),
    lever("first network alone, sigma of 2 cells", refine=False, sigma=4.0),
    lever("first network alone, sigma of 1 cell", refine=False, sigma=2.0),
    lever("first network alone, sigma of 1 cell, 40 epochs", refine=False, sigma=2.0, epochs=40),
    lever("one refiner, 20 epochs", FIRST, **ONE),
    lever("crops of 0.4 mm a pixel", FIRST, **ONE, crop_mm_per_px=0.4),
    lever("crops of 0.2 mm a pixel", FIRST, **ONE, crop_mm_per_px=0.2),
    lever("crops of 96 pixels of 0.2 mm", FIRST, **ONE, **FINE),
    lever("crops' sigma of 1.5 cells", FIRST, **ONE, refine_sigma=3.0),
    lever("crops' sigma of 0.75 cells", FIRST, **ONE, refine_sigma=1.5),
    lever("jitter 3 px", FIRST, **ONE, crop_jitter=3),
    lever("refinement: stronger augmentation", FIRST, **ONE, rotation_deg=10, scale_jitter=0.15),
    lever("refinement: LR 1e-3", FIRST, **ONE, refine_lr=1e-3),
    lever("refinement: LR 4e-3", FIRST, **ONE, refine_lr=4e-3),
    lever("refinement: 40 epochs", FIRST, num_refiners=1),
    lever("three refiners, 20 epochs", FIRST, refine_epochs=20),
    lever(
        "two refiners, 96 and 64 px", FIRST, **FINE, num_refiners=2, refine_epochs=20, refiner_sides="96, 64"
    ),
)
# whole runs, as a user starts them: their minutes are what a preset costs
FINALS = (
    Row("fast", "fast", {}),
    Row("balanced, first network alone", "balanced", {"refine": False}),
    Row("balanced", "balanced", {}),
    Row("balanced, drawn to likely shapes", "balanced", {"shape_prior": True}, weights_of="balanced"),
    Row("best, not drawn to likely shapes", "best", {"shape_prior": False}),
    Row("best", "best", {}),
)
ROWS = {row.name: row for row in (*FIRST_LEVERS, *REFINE_LEVERS, *FINALS)}


def main() -> None:
    """Train and measure the rows asked for, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--dataset_path", type=Path, help="the folder isbi2015; without it only the page is written"
    )
    parser.add_argument(
        "--exclude", type=Path, help="ids of the test images that also stand in the training set"
    )
    parser.add_argument("--rows", nargs="*", default=[], metavar="ROW", help=f"any of: {'; '.join(ROWS)}")
    parser.add_argument("--seeds", nargs="+", type=whole_number, default=[0])
    parser.add_argument("--runs_dir", type=Path, default=REPOSITORY / "runs" / "bench-accuracy")
    options = parser.parse_args()
    for name in options.rows:
        for seed in options.seeds:
            result = measure(ROWS[name], seed, options)
            with RESULTS.open("a", encoding="utf-8") as file:
                file.write(json.dumps(result) + "\n")
            print(json.dumps(result), flush=True)
    write_page(read_results())


def measure(row: Row, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train a row with one seed; validation metrics for a lever, Test1's for a preset."""
    if row.weights_of:
        return measure_drawn(row, result_of(row.weights_of, seed), options)
    is_final = row in FINALS
    protocol = FINAL if is_final else CHOOSE
    before = result_of(row.first_of, seed) if row.first_of else None
    kept = (
        {"first_network": str(options.runs_dir / before["run"] / "checkpoints" / "best.pt")} if before else {}
    )
    started = time.monotonic()
    run_dir = train(row, {**protocol, **kept, "seed": seed}, options)
    minutes = (time.monotonic() - started) / 60
    rows = merge_metrics(RunFolder(run_dir).read_metrics()[0])
    first_minutes = sum(r["epoch_s"] for r in rows if r["phase"] == "train") / 60
    if before:
        first_minutes = before["first_minutes"]
        minutes += first_minutes
    found = evaluate(run_dir, options) if is_final else validated(rows)
    return {
        "row": row.name,
        "protocol": "final" if is_final else "choose",
        "settings": dict(row.settings),
        "seed": seed,
        "minutes": minutes,
        "first_minutes": first_minutes,
        "metrics": found,
        "run": run_dir.name,
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPU cores",
        "threads": torch.get_num_threads(),
    }


def measure_drawn(row: Row, before: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """A trained row again, its predictions drawn to the shapes of the images that trained it."""
    content = load_checkpoint(options.runs_dir / before["run"] / "checkpoints" / "best.pt")
    config = RunConfig.from_dict(content["args"])
    config = replace(config, settings=config.settings.model_copy(update=dict(row.settings)))
    prior = build_shape_prior(config, build_splits(config).train)
    if isinstance(prior, str):
        raise SystemExit(f"no shapes to draw to: {prior}")
    run_dir = options.runs_dir / f"{before['run']}-drawn"
    checkpoint = run_dir / "checkpoints" / "best.pt"
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    drawn = {"args": config.to_dict(), "shape_prior": shape_prior_content(prior)}
    save_checkpoint(checkpoint, {**content, **drawn})
    about = {"row": row.name, "settings": dict(row.settings), "run": run_dir.name}
    when = {"date": date.today().isoformat()}
    return {**before, **about, **when, "metrics": evaluate(run_dir, options)}


def train(row: Row, more: Mapping[str, Any], options: argparse.Namespace) -> Path:
    """A whole run through train.py; returns its folder."""
    flags = [flag for pair in {**row.settings, **more}.items() for flag in setting_to_flag(*pair)]
    where = ["--dataset_path", options.dataset_path, "--runs_dir", options.runs_dir]
    return commands.train(["--preset", row.preset, *flags, *where])


def evaluate(run_dir: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Test1's metrics of the run's checkpoint, once."""
    flags = ["--dataset_path", options.dataset_path, "--split", "test1"]
    result = commands.evaluate(
        run_dir, [*flags, *(["--exclude", options.exclude] if options.exclude else [])]
    )
    found = {key: result[key] for key in ("mre_mm", "sdr_2mm", "sdr_4mm", "num_images")}
    return found | {"unrefined_mre_mm": (result.get("unrefined") or {}).get("mre_mm")}


def validated(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The last epoch's validation metrics: the last, not the best, so that no row profits from its luck."""
    last = rows[-1]
    found = {key: last.get(f"val/{key}") for key in ("mre_mm", "sdr_2mm", "sdr_4mm", "num_images")}
    return found | {"unrefined_mre_mm": last.get("val/unrefined_mre_mm")}


def read_results() -> list[dict[str, Any]]:
    """The latest result of each row and seed."""
    lines = RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.exists() else []
    latest = {(r["row"], r["seed"]): r for r in map(json.loads, lines)}
    return list(latest.values())


def result_of(name: str, seed: int) -> dict[str, Any]:
    for result in read_results():
        if (result["row"], result["seed"]) == (name, seed):
            return result
    raise SystemExit(f"measure the row {name!r} with seed {seed} first: its first network is needed")


def write_page(results: Sequence[Mapping[str, Any]]) -> None:
    """Replace the tables between the markers."""
    final = [r for r in results if r["protocol"] == "final"]
    choose = [r for r in results if r["protocol"] == "choose"]
    tables = "\n\n".join(table(rows) for table, rows in ((final_table, final), (lever_table, choose)) if rows)
    page = PAGE.read_text(encoding="utf-8")
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n{tables}\n{END}{after}", encoding="utf-8")


def final_table(results: Sequence[Mapping[str, Any]]) -> str:
    """A line a preset: mean and spread over its seeds, each seed, and what it cost."""
    lines = [
        "| preset | Test1 MRE, mm | each seed | within 2 mm | within 4 mm | before refinement | minutes "
        "(threads) |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in FINALS:
        of_row = [r for r in results if r["row"] == row.name]
        if of_row:
            lines.append(final_line(row.name, of_row))
    return "\n".join(lines)


def final_line(name: str, results: Sequence[Mapping[str, Any]]) -> str:
    values = [r["metrics"]["mre_mm"] for r in results]
    spread = f" +- {stdev(values):.3f}" if len(values) > 1 else ""
    seeds = ", ".join(f"{r['seed']}: {r['metrics']['mre_mm']:.3f}" for r in results)
    before = [
        r["metrics"]["unrefined_mre_mm"] for r in results if r["metrics"]["unrefined_mre_mm"] is not None
    ]
    unrefined = f"{mean(before):.2f}" if before else "-"
    shares = [100 * mean(r["metrics"][f"sdr_{t}mm"] for r in results) for t in (2, 4)]
    minutes = ", ".join(f"{r['minutes']:.0f} ({r['threads']})" for r in results)
    return (
        f"| {name} | **{mean(values):.3f}**{spread} | {seeds} | {shares[0]:.1f} % | {shares[1]:.1f} % | "
        f"{unrefined} | {minutes} |"
    )


def lever_table(results: Sequence[Mapping[str, Any]]) -> str:
    """A line a lever, on the fixed fifth of the training images."""
    lines = [
        "| row | what differs | validation MRE, mm | within 2 mm | before refinement | minutes | seed |",
        "|---|---|---|---|---|---|---|",
    ]
    order = list(ROWS)
    for result in sorted(
        results, key=lambda r: (order.index(r["row"]) if r["row"] in order else 999, r["seed"])
    ):
        found = result["metrics"]
        settings = ", ".join(f"{key} {value}" for key, value in result["settings"].items()) or "-"
        unrefined = found["unrefined_mre_mm"]
        lines.append(
            f"| {result['row']} | {settings} | {found['mre_mm']:.3f} | {100 * found['sdr_2mm']:.1f} % | "
            f"{'-' if unrefined is None else f'{unrefined:.2f}'} | {result['minutes']:.1f} | "
            f"{result['seed']} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
