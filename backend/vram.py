"""How much memory a training needs and which batch fits: `python -m backend.vram --model hrnet ...`.

Predicts without a GPU: torch does not see it unless a speed is to be measured on it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from backend.config import Choice, RunConfig, Settings, parse_settings
from backend.device.batch_size import (
    GIB,
    DeviceMemory,
    read_device_memory,
    recommend_for_memory,
)
from backend.device.gpu import GpuReading, read_gpus
from backend.device.memory_cache import torch_version
from backend.errors import UserError
from backend.flags import (
    EXIT_COMPLETED,
    OneLineParser,
    add_preset_flag,
    add_setting_flags,
    given_settings,
    run_command,
)
from backend.presets import with_preset

if TYPE_CHECKING:
    from backend.device.memory import StepMemory
    from backend.device.steps import LonePhase

SPEED_BATCH = 4
SPEED_STEPS = 3
SPEED_LIMIT_S = 8.0


def main(arguments: Sequence[str]) -> int:
    """Recommend a batch and print why. Returns the exit code; raises UserError."""
    options = _parser().parse_args(arguments)
    settings = parse_settings(with_preset(options.preset, given_settings(options)))
    with redirect_stdout(sys.stderr):  # what a library may print is no part of the JSON
        report = _report(settings, options)
    _write(report, options.json)
    return EXIT_COMPLETED


def _parser() -> OneLineParser:
    parser = OneLineParser(prog="python -m backend.vram", description=__doc__)
    parser.add_argument("--num_landmarks", type=_count, required=True, metavar="K", help="landmarks an image")
    parser.add_argument("--num_images", type=_count, metavar="N", help="training images, where known")
    parser.add_argument(
        "--free_gib", type=_gib, metavar="X", help="free memory to plan for, GiB (default: read it)"
    )
    parser.add_argument("--measure_speed", action="store_true", help="time a few real steps on the device")
    parser.add_argument("--json", metavar="FILE", help="write the report as JSON; - is stdout")
    add_preset_flag(parser)
    add_setting_flags(parser)
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)


def _gib(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1e6:
        raise argparse.ArgumentTypeError(f"{text} GiB is no memory")
    return value


def _report(settings: Settings, options: argparse.Namespace) -> dict[str, Any]:
    gpus = _read_gpus(settings.device)
    device = _device_of(settings.device, gpus)
    if not options.measure_speed:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the prediction needs no GPU: take nothing from a run on it
    memory = _memory(device, gpus, options.free_gib)
    need = _predict(settings, options.num_landmarks, device)
    found = recommend_for_memory(
        need, memory, device=device, image_hw=settings.image_size, num_images=options.num_images
    )
    speed = None
    if options.measure_speed and found.batch_size is not None:
        batch_size = min(_timed_batch(settings, device), found.batch_size)
        speed = measure_speed(settings, options.num_landmarks, device, batch_size)
    return {
        "recommended_batch_size": found.batch_size,
        "reason": found.reason,
        "predicted_bytes": {str(size): num_bytes for size, num_bytes in found.predicted_bytes.items()},
        "terms": dict(found.terms),
        "free_bytes": memory.free_bytes,
        "total_bytes": memory.total_bytes,
        "device": device,
        "device_title": memory.title,
        "torch_version": torch_version(),
        "gpus": [asdict(gpu) for gpu in gpus],
        "num_parameters": need.num_parameters,
        "seconds_per_image": speed.training_s if speed else None,
        "validation_seconds_per_image": speed.validation_s if speed else None,
        "refine_seconds_per_image": speed.refine_training_s if speed else None,
        "refine_validation_seconds_per_image": speed.refine_validation_s if speed else None,
    }


def _timed_batch(settings: Settings, device: str) -> int:
    """A GPU needs the batch that will be trained to be as fast as it is; on a CPU four images tell the same."""
    if device == "cpu" or settings.batch_size == "auto":
        return SPEED_BATCH
    return settings.batch_size


def _read_gpus(device: str) -> tuple[GpuReading, ...]:
    """An empty CUDA_VISIBLE_DEVICES hides the GPUs from torch; one that is asked for by name is still read."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") == ""
    return read_gpus(hidden_too=hidden and device.startswith("cuda"))


def _device_of(asked: str, gpus: tuple[GpuReading, ...]) -> str:
    if asked == "auto":
        return "cuda:0" if gpus and _torch_has_cuda() else "cpu"
    return "cuda:0" if asked == "cuda" else asked


def _torch_has_cuda() -> bool:
    import torch

    return torch.version.cuda is not None


def _memory(device: str, gpus: tuple[GpuReading, ...], free_gib: float | None) -> DeviceMemory:
    if free_gib is None:
        return read_device_memory(device, gpus)
    free_bytes = round(free_gib * GIB)
    try:
        known = read_device_memory(device, gpus)
    except UserError:  # planning for a device that is not here
        return DeviceMemory(device, None, free_bytes)
    return DeviceMemory(known.title, known.total_bytes, free_bytes)


def _predict(settings: Settings, num_landmarks: int, device: str) -> StepMemory:
    from backend.device.memory import predict_step_memory

    return predict_step_memory(settings, num_landmarks, device)


@dataclass(frozen=True)
class Speed:
    """Seconds an image, of a training and of a validation step of each phase; None for a phase that is not run."""

    training_s: float
    validation_s: float
    refine_training_s: float | None
    refine_validation_s: float | None


def measure_speed(settings: Settings, num_landmarks: int, device: str, batch_size: int) -> Speed:
    """Time real steps of the engine on noise, after one to warm up; some seconds. The data's cost is not in it."""
    from backend.device.steps import first_phase, refine_phase
    from backend.training.build import images_of_crops

    on_gpu = device.startswith("cuda")
    chosen = {
        "device": Choice(device, "measured"),
        "mixed_precision": Choice(settings.mixed_precision and on_gpu, "as in a run"),
    }
    config = RunConfig(settings, chosen)
    first = _time_steps(first_phase(config, num_landmarks), device, batch_size)
    if not settings.refine:
        return Speed(*first, None, None)
    crops_of = images_of_crops(settings, num_landmarks)
    return Speed(*first, *_time_steps(refine_phase(config, num_landmarks), device, crops_of))


def _time_steps(phase: LonePhase, device: str, batch_size: int) -> tuple[float, float]:
    """Seconds an image of a training and of a validation step."""
    from backend.device.steps import run_validation_step

    trainer = phase.build_trainer(phase.build_network())
    batch = phase.make_batch(batch_size)
    trainer.network.train()
    deadline = time.monotonic() + SPEED_LIMIT_S
    training_s = _seconds(lambda: trainer._train_step([batch]), device, deadline)
    validation_s = _seconds(lambda: run_validation_step(trainer, batch), device, deadline)
    return training_s / batch_size, validation_s / batch_size


def _seconds(step: Callable[[], object], device: str, deadline: float) -> float:
    """The median of a few steps after one to warm up; past the deadline, that first one has to do."""
    times: list[float] = []
    while len(times) <= SPEED_STEPS and (not times or time.monotonic() < deadline):
        started = time.monotonic()
        step()
        _wait_for(device)
        times.append(time.monotonic() - started)
    return median(times[1:] or times)


def _wait_for(device: str) -> None:
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize(device)


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
        print(*_in_words(report), sep="\n")


def _in_words(report: Mapping[str, Any]) -> list[str]:
    lines = [f"device: {report['device_title']}", f"batch size: {report['reason']}"]
    sizes = [f"{size}: {value / GIB:.2f}" for size, value in report["predicted_bytes"].items()]
    lines.append(f"predicted GiB at a batch of {', '.join(sizes)}")
    lines.append("of it, MiB: " + ", ".join(f"{k} {v / 2**20:.0f}" for k, v in report["terms"].items()))
    if report["seconds_per_image"] is not None:
        lines.append(f"training: {report['seconds_per_image']:.3f} s an image, without reading it")
    if report["refine_seconds_per_image"] is not None:
        lines.append(f"refinement: {report['refine_seconds_per_image']:.3f} s an image")
    return lines


if __name__ == "__main__":
    sys.exit(run_command(main))
