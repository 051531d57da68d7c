"""Compare the predicted memory of a step with what CUDA takes, and write bench/README.md: `python
bench/vram.py`.

Predicted by `backend.vram`; measured by `backend.memory.benchmark`, a process for each batch, as torch's most
reserved
memory plus the context that the driver counts for the process. Without a GPU the predictions are written
alone.
Every result is appended to bench/vram.jsonl, from which the table is made; what stands there is not made
again.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import date
from statistics import median
from typing import Any, get_args

import commands

REPOSITORY = commands.REPOSITORY
sys.path.insert(0, str(REPOSITORY))

from backend.config import ModelName, Settings, parse_settings  # noqa: E402
from backend.device.gpu import GpuReading, read_gpus  # noqa: E402
from backend.flags import settings_to_flags, whole_number  # noqa: E402
from backend.memory.batch_size import GIB  # noqa: E402
from backend.memory.benchmark_store import Bench, identify  # noqa: E402

RESULTS = REPOSITORY / "bench" / "vram.jsonl"
PAGE = REPOSITORY / "bench" / "README.md"
BEGIN, END = "<!-- vram: begin -->", "<!-- vram: end -->"
SIZES = (128, 256, 512)
BATCHES = (2, 8, 16)
NUM_LANDMARKS = 29
DEVICE = "cuda:0"
Result = Mapping[str, Any]


def main() -> None:
    """Predict, measure where a GPU is at hand, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=get_args(ModelName), default=get_args(ModelName))
    parser.add_argument("--sizes", nargs="+", type=whole_number, default=SIZES)
    parser.add_argument("--anew", action="store_true", help="do again what stands in bench/vram.jsonl")
    options = parser.parse_args()
    gpu = next(iter(read_gpus()), None)
    done = set() if options.anew else {name_of(result) for result in read_results()}
    for settings in cases(options.models, options.sizes):
        name = (*case_of(settings), gpu.title if gpu else None)
        if name in done:
            continue
        result = compare(settings, gpu)
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")
        print(line(result), flush=True)
    write_page(read_results())


def cases(models: Sequence[str], sizes: Sequence[int]) -> Iterator[Settings]:
    """The first network alone: the refinement's peak does not depend on the batch."""
    for model in models:
        for size in sizes:
            for mixed_precision in (False, True):
                asked = {"model": model, "image_size": (size, size), "mixed_precision": mixed_precision}
                yield parse_settings({**asked, "refine": False})


def case_of(settings: Settings) -> tuple[str, int, bool]:
    return settings.model, settings.image_size[0], settings.mixed_precision


def name_of(result: Result) -> tuple[str, int, bool, str | None]:
    return result["model"], result["size"], result["mixed_precision"], result["gpu"]


def compare(settings: Settings, gpu: GpuReading | None) -> dict[str, Any]:
    """Predicted and, on a GPU, measured bytes at each batch."""
    flags = [*settings_to_flags(settings), "--num_landmarks", NUM_LANDMARKS, "--device", DEVICE]
    # a plan for any memory will do: the prediction is the same
    report = commands.vram([*flags, *(["--free_gib", 1000] if gpu is None else [])])
    measured: dict[str, Any] = {}
    if gpu is not None:
        bench = Bench(settings, NUM_LANDMARKS, DEVICE, identify(DEVICE, [gpu]))
        measured = {str(size): asdict(bench.measure(size)) for size in BATCHES}
    model, size, mixed_precision = case_of(settings)
    return {
        "model": model,
        "size": size,
        "mixed_precision": mixed_precision,
        "gpu": gpu.title if gpu else None,
        "predicted": {str(batch): report["predicted_bytes"][str(batch)] for batch in BATCHES},
        "context_bytes": report["terms"]["cuda_context"],
        "measured": measured,
        "torch": report["torch_version"],
        "machine": platform.machine(),
        "date": date.today().isoformat(),
    }


def read_results() -> list[Result]:
    """The latest result of each case on each GPU."""
    lines = RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.exists() else []
    return list({name_of(result): result for result in map(json.loads, lines)}.values())


def measured_bytes(result: Result, batch: int) -> int | None:
    """Return the bytes CUDA took, with the predicted context if not counted; None if unmeasured."""
    found = result["measured"].get(str(batch))
    if found is None or found["peak_bytes"] is None:
        return None
    return int(found["peak_bytes"] + (result["context_bytes"] if found["context_bytes"] is None else 0))


def errors_of(results: Sequence[Result]) -> list[float]:
    """Predicted over measured less one, of every batch that was measured."""
    pairs = [(r["predicted"][str(batch)], measured_bytes(r, batch)) for r in results for batch in BATCHES]
    return [predicted / taken - 1 for predicted, taken in pairs if taken is not None]


def write_page(results: Sequence[Result]) -> None:
    """Replace the table between the markers: of the GPU measured last, else the predictions alone."""
    gpus = [result["gpu"] for result in results if result["gpu"] is not None]
    shown = [result for result in results if result["gpu"] == (gpus[-1] if gpus else None)]
    order = [case_of(settings) for settings in cases(get_args(ModelName), SIZES)]
    shown.sort(key=lambda result: order.index(name_of(result)[:3]))
    batches = " / ".join(map(str, BATCHES))
    head = [
        introduce(shown),
        "",
        f"| model | image | precision | predicted GiB at {batches} | measured GiB | predicted / measured - "
        f"1 |",
        "|---|---|---|---|---|---|",
    ]
    table = "\n".join([*head, *map(line, shown)])
    page = PAGE.read_text(encoding="utf-8")
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8")


def introduce(results: Sequence[Result]) -> str:
    """Machine, date, and how far the predictions are off."""
    last = max(results, key=lambda result: str(result["date"]))
    where = f"{last['date']}, torch {last['torch']}, {NUM_LANDMARKS} landmarks, output stride as chosen for "
    "the size"
    errors = errors_of(results)
    if not errors:
        return f"{where}, {last['machine']}. **No GPU was at hand: its columns are empty.**"
    off = [abs(error) for error in errors]
    return (
        f"{where}, {last['gpu']}. Of {len(errors)} batches: median error {median(off):.1%}, worst "
        f"{max(off):.1%}, "
        f"furthest below the truth {min(errors):.1%}."
    )


def line(result: Result) -> str:
    """A row of the table: one case at every batch."""
    taken = [measured_bytes(result, batch) for batch in BATCHES]
    predicted = [result["predicted"][str(batch)] for batch in BATCHES]
    cells = [
        " / ".join(f"{num_bytes / GIB:.2f}" for num_bytes in predicted),
        " / ".join("out of memory" if t is None else f"{t / GIB:.2f}" for t in taken),
        " / ".join("-" if t is None else f"{p / t - 1:+.1%}" for p, t in zip(predicted, taken, strict=True)),
    ]
    if not result["measured"]:
        cells[1:] = ["", ""]
    precision = "AMP" if result["mixed_precision"] else "fp32"
    return f"| {result['model']} | {result['size']} | {precision} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
