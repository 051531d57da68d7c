"""Chooses a value, with the reason, for every setting that the user left open.

The choices are stored in config.json under `chosen`, printed by train.py and shown on the page.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from backend.config import Choice, RunConfig, Settings
from backend.data.demo.dataset import create_demo_dataset
from backend.device.free import choose_free
from backend.device.gpu import GpuReading
from backend.device.machine import Machine
from backend.errors import UserError
from backend.files import REPOSITORY

MAX_WORKERS = 8

RecommendBatch = Callable[[Settings, str], Choice]


def resolve_settings(
    settings: Settings,
    machine: Machine,
    recommend_batch: RecommendBatch,
    busy: Collection[str | None] = (),
    readings: Sequence[GpuReading] = (),
) -> RunConfig:
    """Fill in every "auto" and every setting that this machine cannot serve as asked.

    `busy` and `readings` as in `choose_device`. `recommend_batch(settings, device)` is called only for an
    automatic batch size. Raises UserError for a GPU or a file that does not exist.
    """
    chosen = {
        "dataset_path": choose_dataset(settings),
        "device": choose_device(settings, machine, busy, readings),
    }
    device = chosen["device"].value
    if settings.mixed_precision:
        chosen["mixed_precision"] = choose_precision(device, machine.cpu_bfloat16)
    chosen["num_workers"] = choose_workers(settings, device, machine)
    if settings.batch_size == "auto":
        in_force = settings_in_force(settings, device, machine.cpu_bfloat16)
        chosen["batch_size"] = recommend_batch(in_force, device)
    for field in ("pretrained", "first_network"):
        if getattr(settings, field):
            chosen[field] = _choose_file(settings, field)
    return RunConfig(settings, chosen)


def choose_dataset(settings: Settings, beside: Path = REPOSITORY) -> Choice:
    """Choose the given data set, else `Aariz` beside train.py, else demo data, which is created if absent."""
    if settings.dataset_path:
        path = Path(settings.dataset_path).expanduser().absolute()
        if not path.exists():
            raise UserError(f"{path} does not exist", field="dataset_path", cure="check the path")
        return Choice(str(path), "as asked")
    aariz = beside / "Aariz"
    if aariz.is_dir():
        return Choice(str(aariz), "no --dataset_path given, and this folder lies beside train.py")
    demo = beside / "data" / "demo"
    existed = demo.is_dir()
    if not existed:
        create_demo_dataset(demo)
    origin = "there already" if existed else "made now"
    return Choice(
        str(demo), f"no --dataset_path given and no folder Aariz beside train.py: demo data, {origin}"
    )


def choose_device(
    settings: Settings,
    machine: Machine,
    busy: Collection[str | None] = (),
    readings: Sequence[GpuReading] = (),
) -> Choice:
    """Choose a torch device by name, which has a number for a GPU: cpu, cuda:0 ...

    "auto" takes a GPU on which no run trains (those in `busy` train one) and whose memory is free by the
    driver's `readings`. Raises UserError for a device that cannot be used.
    """
    if settings.device == "auto":
        if machine.gpus:
            gpu, reason = choose_free(machine.gpus, busy, readings)
            return Choice(gpu.name, reason)
        return Choice("cpu", _why_no_gpu(machine))
    if settings.device == "cpu":
        return Choice("cpu", "as asked")
    device = "cuda:0" if settings.device == "cuda" else settings.device
    _require_usable(device, machine)
    return Choice(device, "as asked")


def _why_no_gpu(machine: Machine) -> str:
    if machine.unusable:
        return "; ".join(gpu.message for gpu in machine.unusable)
    return f"torch {machine.torch_version} sees no GPU here"


def _require_usable(device: str, machine: Machine) -> None:
    """Raise UserError for a GPU that does not exist, or that this torch cannot compute on."""
    names = [gpu.name for gpu in machine.gpus]
    if device in names:
        return
    alternatives = f"choose cpu or {', '.join(names)}" if names else "choose cpu"
    unusable = next((gpu for gpu in machine.unusable if gpu.name == device), None)
    if unusable is not None:
        raise UserError(unusable.reason, field="device", cure=f"{unusable.remedy}; or {alternatives}")
    cure = alternatives if names or machine.unusable else "choose cpu, or install torch's CUDA build"
    raise UserError(f"torch sees no {device} here", field="device", cure=cure)


def choose_precision(device: str, cpu_bfloat16: bool) -> Choice:
    """Choose the type of mixed precision on a device, by name, or False for float32 alone."""
    if device != "cpu":
        return Choice("float16", "on a GPU, with a gradient scaler; float32 there is without TF32")
    if cpu_bfloat16:
        return Choice("bfloat16", "this CPU has instructions for it")
    return Choice(
        False, "a CPU without instructions for bfloat16 is slower with it: this run computes in float32"
    )


def precision_warning(precision: Any, cpu_bfloat16: bool) -> str | None:
    """Return a warning if a run in bfloat16 goes on on a CPU without instructions for it; None otherwise.

    `precision` is the run's, as `choose_precision` chose it. Only a run on a CPU computes in bfloat16.
    """
    if precision != "bfloat16" or cpu_bfloat16:
        return None
    return (
        "this run computes in bfloat16, as it did from its start, but this CPU has no instructions for it: "
        "its steps take many times as long; to go on at full speed, resume it on a CPU with AVX512-BF16 or "
        "AMX"
    )


def settings_in_force(settings: Settings, device: str, cpu_bfloat16: bool) -> Settings:
    """Switch mixed precision off if the device does not have it, to predict memory and time of a step."""
    if not settings.mixed_precision or choose_precision(device, cpu_bfloat16).value:
        return settings
    return settings.model_copy(update={"mixed_precision": False})


def precision_in_force(settings: Settings, device: str) -> Choice:
    """Return the precision of a step under the settings that `settings_in_force` returns."""
    return (
        choose_precision(device, cpu_bfloat16=True) if settings.mixed_precision else Choice(False, "as asked")
    )


def choose_workers(settings: Settings, device: str, machine: Machine) -> Choice:
    """Choose the number of processes that prepare images."""
    if settings.num_workers != "auto":
        return Choice(settings.num_workers, "as asked")
    if device == "cpu":
        return Choice(0, "on a CPU, preparing images costs little beside the network")
    number = max(1, min(MAX_WORKERS, machine.num_cpus - 1))
    return Choice(number, f"of {machine.num_cpus} CPU cores, one stays free; at most {MAX_WORKERS}")


def _choose_file(settings: Settings, field: str) -> Choice:
    path = Path(getattr(settings, field)).expanduser().absolute()
    if not path.is_file():
        raise UserError(f"{path} is not a file", field=field, cure="check the path")
    return Choice(str(path), "as asked")
