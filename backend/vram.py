"""Predict how much memory a training needs, and which batch fits: `python -m backend.vram --model hrnet ...`.

Predicts without a GPU, which torch uses only if its free memory cannot be read otherwise. `--measure` runs
real steps, each batch in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from backend.config import Settings, parse_settings
from backend.device.gpu import GpuReading, read_gpus
from backend.device.machine import cpu_has_bfloat16
from backend.device.machine_query import query_machine
from backend.errors import UserError
from backend.flags import (
    EXIT_COMPLETED,
    OneLineParser,
    add_preset_flag,
    add_setting_flags,
    count,
    given_settings,
    number,
    run_command,
)
from backend.memory.batch_size import (
    MIN_BATCH,
    DeviceMemory,
    Recommendation,
    find_what_fits,
    read_device_memory,
    recommend_for_memory,
    requested_batching,
)
from backend.memory.benchmark_store import NOTHING_MEASURED, Bench, Measured, MeasuredBatch, identify
from backend.memory.cache import torch_version
from backend.memory.prediction import predict_step_memory
from backend.memory.reasons import GIB
from backend.presets import with_preset
from backend.resolve import choose_device, settings_in_force

SPEED_BATCH = 4  # on a CPU, the time per image is the same with more
MEASURED_BATCH = 16  # at most, before the recommended one is measured
MAX_CORRECTIONS = 2
Recommend = Callable[[Measured], Recommendation]


def main(arguments: Sequence[str]) -> int:
    """Recommend a batch and print why. Returns the exit code; raises UserError."""
    options = _parser().parse_args(arguments)
    settings = parse_settings(with_preset(options.preset, given_settings(options)))
    with redirect_stdout(sys.stderr):  # whatever a library prints is not part of the JSON
        report = _report(settings, options)
    _write(report, options.json)
    return EXIT_COMPLETED


def _parser() -> OneLineParser:
    parser = OneLineParser(prog="python -m backend.vram", description=__doc__)
    parser.add_argument("--num_landmarks", type=count, required=True, metavar="K", help="landmarks per image")
    parser.add_argument("--num_images", type=count, metavar="N", help="number of training images")
    parser.add_argument(
        "--free_gib", type=_gib, metavar="X", help="free memory to plan for, GiB (default: read it)"
    )
    parser.add_argument(
        "--measure",
        action="store_true",
        help="run real steps at two batch sizes and the recommended one, and keep the results (a minute or "
        "more)",
    )
    parser.add_argument(
        "--measure_speed",
        action="store_true",
        help="seconds per image: from earlier results, else from steps at one batch size (some seconds)",
    )
    parser.add_argument("--json", metavar="FILE", help="write the report as JSON; - is stdout")
    add_preset_flag(parser)
    add_setting_flags(parser)
    return parser


def _gib(text: str) -> float:
    value = number(text)
    if not 0 <= value <= 1e6:
        raise argparse.ArgumentTypeError(f"must be from 0 to 1e6, got {text}")
    return value


def _report(settings: Settings, options: argparse.Namespace) -> dict[str, Any]:
    """Predict, measure as far as requested, and recommend a batch; return all of it for JSON."""
    gpus = _read_gpus(settings.device)
    device = _planned_device(settings, gpus)
    if settings.mixed_precision and device == "cpu":
        settings = settings_in_force(settings, device, cpu_has_bfloat16())
    memory = _memory(device, gpus, options.free_gib)
    with _hidden_gpus():  # the prediction needs none, and must not take memory from a run on one
        need = predict_step_memory(settings, options.num_landmarks, device)

    def recommend(measured: Measured) -> Recommendation:
        return recommend_for_memory(
            need,
            memory,
            device=device,
            num_images=options.num_images,
            measured=measured,
            requested=requested_batching(settings),
        )

    bench = Bench(settings, options.num_landmarks, device, identify(device, gpus))
    measured = _measure(bench, recommend, options)
    advice = recommend(measured)
    if advice.batch_size is None and memory.free_bytes is not None and advice.reserve_bytes is not None:
        with _hidden_gpus():
            budget = memory.free_bytes - advice.reserve_bytes
            cure = find_what_fits(settings, options.num_landmarks, device, budget)
        advice = replace(advice, reasons=(*advice.reasons, cure))
    timed = measured.at(
        settings.batch_size if settings.batch_size != "auto" else advice.batch_size or MIN_BATCH
    )
    return {
        "recommended_batch_size": advice.batch_size,
        "reason": advice.reason,
        "remarks": [asdict(reason) for reason in advice.reasons],
        "predicted_bytes": {str(size): need.bytes_at(size) for size in advice.predicted_bytes},
        "terms": dict(advice.terms),
        "reserve_bytes": advice.reserve_bytes,
        "instead": asdict(advice.instead) if advice.instead else None,
        "measured": [asdict(batch) for batch in measured.batches],
        "free_bytes": memory.free_bytes,
        "total_bytes": memory.total_bytes,
        "device": device,
        "device_title": memory.title,
        "torch_version": torch_version(),
        "gpus": [asdict(gpu) for gpu in gpus],
        "num_parameters": need.num_parameters,
        **_seconds_per_image(timed),
    }


def _seconds_per_image(timed: MeasuredBatch | None) -> dict[str, float | None]:
    return {
        "seconds_per_image": timed.training_s if timed else None,
        "validation_seconds_per_image": timed.validation_s if timed else None,
        "refine_seconds_per_image": timed.refine_training_s if timed else None,
        "refine_validation_seconds_per_image": timed.refine_validation_s if timed else None,
    }


def _read_gpus(device: str) -> tuple[GpuReading, ...]:
    """Read the GPUs; if an empty CUDA_VISIBLE_DEVICES hides them, only if one is named as the device."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") == ""
    return read_gpus(hidden_too=hidden and device.startswith("cuda"))


def _planned_device(settings: Settings, gpus: tuple[GpuReading, ...]) -> str:
    """Return the device that a training would take now; one that is named need not be here."""
    if settings.device != "auto":
        return "cuda:0" if settings.device == "cuda" else settings.device
    machine = query_machine()
    for gpu in machine.unusable:
        print(gpu.message, file=sys.stderr, flush=True)
    return str(choose_device(settings, machine, readings=gpus).value)


def _memory(device: str, gpus: tuple[GpuReading, ...], free_gib: float | None) -> DeviceMemory:
    if free_gib is None:
        return read_device_memory(device, gpus)
    free_bytes = round(free_gib * GIB)
    try:
        memory = read_device_memory(device, gpus)
    except UserError:  # planning for a device that is not here
        return DeviceMemory(device, None, free_bytes)
    return replace(memory, free_bytes=free_bytes)


@contextmanager
def _hidden_gpus() -> Iterator[None]:
    """Hide the GPUs from torch in this process; the processes that measure see them."""
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    try:
        yield
    finally:
        if before is None:
            del os.environ["CUDA_VISIBLE_DEVICES"]
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = before


def _measure(bench: Bench, recommend: Recommend, options: argparse.Namespace) -> Measured:
    """Measure as far as requested, and keep it; return that with what was measured before."""
    measured = bench.read()
    first = recommend(NOTHING_MEASURED).batch_size
    if first is None:
        return measured
    if options.measure:
        measured = measure_batches(bench, recommend, first)
    elif options.measure_speed and measured.at(first) is None:
        requested = bench.settings.batch_size
        # a GPU reaches its speed only at the batch that will be trained
        timed = SPEED_BATCH if bench.device == "cpu" or requested == "auto" else requested
        measured = measured.with_batch(bench.measure(min(timed, first)))
    else:
        return measured
    bench.save(measured)
    return measured


def measure_batches(bench: Bench, recommend: Recommend, first: int) -> Measured:
    """Measure steps at two batches up to `first`, which is recommended by the prediction alone.

    Then at the batch that is recommended from these results, and once more if that changes it.
    """
    large = min(first, MEASURED_BATCH)
    measured = NOTHING_MEASURED
    for batch_size in sorted({max(MIN_BATCH, large // 4), large}):
        measured = _with_measured(bench, measured, batch_size)
    for _ in range(MAX_CORRECTIONS):
        chosen = recommend(measured).batch_size
        if chosen is None or any(batch.batch_size == chosen for batch in measured.batches):
            break
        measured = _with_measured(bench, measured, chosen)
    return measured


def _with_measured(bench: Bench, measured: Measured, batch_size: int) -> Measured:
    print(f"measuring steps of {batch_size} images ...", file=sys.stderr, flush=True)
    return measured.with_batch(bench.measure(batch_size))


def _write(report: Mapping[str, Any], target: str | None) -> None:
    text = json.dumps(report, indent=2, allow_nan=False)
    if target == "-":
        print(text)
    elif target:
        try:
            Path(target).write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"{target} cannot be written ({error.strerror})", field="json") from error
    if target != "-":
        print(*_format_report(report), sep="\n")


def _format_report(report: Mapping[str, Any]) -> list[str]:
    lines = [f"device: {report['device_title']}", f"batch size: {report['reason']}"]
    sizes = [
        f"{size}: {value / GIB:.2f}"
        for size, value in report["predicted_bytes"].items()
        if _is_power_of_two(int(size))
    ]
    lines.append(f"predicted GiB at a batch of {', '.join(sizes)}")
    lines.append("of it, MiB: " + ", ".join(f"{k} {v / 2**20:.0f}" for k, v in report["terms"].items()))
    lines += [_format_measured(batch, report["predicted_bytes"]) for batch in report["measured"]]
    if report["refine_seconds_per_image"] is not None:
        lines.append(f"refinement: {report['refine_seconds_per_image']:.3f} s per image")
    return lines


def _is_power_of_two(size: int) -> bool:
    return size & (size - 1) == 0


def _format_measured(batch: Mapping[str, Any], predicted: Mapping[str, int]) -> str:
    start = f"measured at a batch of {batch['batch_size']}: "
    if batch["peak_bytes"] is None:
        return f"{start}out of memory"
    prediction = predicted.get(str(batch["batch_size"]))
    beside = "" if prediction is None else f" ({prediction / GIB:.2f} predicted)"
    speed = 1 / batch["training_s"]
    return f"{start}{batch['peak_bytes'] / GIB:.2f} GiB{beside}, {speed:.1f} images/s, without reading images"


if __name__ == "__main__":
    sys.exit(run_command(main))
