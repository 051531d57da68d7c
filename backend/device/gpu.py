"""Live readings of the NVIDIA GPUs, as the driver gives them through NVML. No torch: opens no CUDA context.

What the driver does not say is None; a number is never made up.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, TypeVar

import pynvml

T = TypeVar("T")


@dataclass(frozen=True)
class GpuReading:
    """One GPU. `index` is torch's: cuda:N."""

    index: int
    uuid: str | None
    title: str
    total_bytes: int | None
    used_bytes: int | None
    free_bytes: int | None
    others_bytes: int | None  # held by processes other than this one
    utilization_percent: int | None
    temperature_c: int | None


def read_gpus(*, hidden_too: bool = False) -> tuple[GpuReading, ...]:
    """The GPUs in torch's order; empty without a driver, and those read so far where it fails on the way.

    Follows CUDA_VISIBLE_DEVICES unless `hidden_too`. Its indices count as with CUDA_DEVICE_ORDER=PCI_BUS_ID,
    which is CUDA's order wherever the GPUs are alike. Of a GPU in MIG mode its instances are listed, and where
    there are any, CUDA shows nothing else (NVIDIA's MIG guide); it may show fewer of them. Never raises.
    """
    visible = None if hidden_too else os.environ.get("CUDA_VISIBLE_DEVICES")
    readings: list[GpuReading] = []
    try:
        with _nvml():
            for index, handle in enumerate(_handles(visible)):
                readings.append(_read(index, handle))
    except (pynvml.NVMLError, OSError):
        pass  # no driver, or it went away: what was read before still holds
    return tuple(readings)


@contextmanager
def _nvml() -> Iterator[None]:
    pynvml.nvmlInit()
    try:
        yield
    finally:
        _ask(pynvml.nvmlShutdown)


def _handles(visible: str | None) -> Iterator[Any]:
    """NVML's handles in the order of CUDA_VISIBLE_DEVICES. As in CUDA, a wrong entry hides itself and the rest."""
    num_gpus = pynvml.nvmlDeviceGetCount()
    if visible is None:
        yield from _every_handle(num_gpus)
        return
    seen: set[str] = set()
    entries = [part.strip() for part in visible.split(",")]
    for entry in entries:
        # as in torch, a list of instances ends where anything else is named
        if entries[0].startswith("MIG-") and not entry.startswith("MIG-"):
            return
        handle = _handle_of(entry, num_gpus)
        if handle is None:
            return
        identity = _uuid(handle) or entry
        if identity in seen:
            return
        seen.add(identity)
        yield handle


def _every_handle(num_gpus: int) -> Iterator[Any]:
    """Every MIG instance, and where there is none, every GPU."""
    gpus = [_ask(partial(pynvml.nvmlDeviceGetHandleByIndex, index)) for index in range(num_gpus)]
    instances = [instance for gpu in gpus if gpu is not None for instance in _instances(gpu) or ()]
    if instances:
        yield from instances
    else:  # asked again: a GPU that is lost ends the list, for the next ones would get its number
        yield from (pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(num_gpus))


def _instances(gpu: Any) -> list[Any] | None:
    """The MIG instances of a GPU, which may be none; None where it is not in MIG mode."""
    mode = _ask(lambda: pynvml.nvmlDeviceGetMigMode(gpu))  # now, and after the next reset
    if mode is None or mode[0] != pynvml.NVML_DEVICE_MIG_ENABLE:
        return None
    places = _ask(lambda: pynvml.nvmlDeviceGetMaxMigDeviceCount(gpu)) or 0
    found = [_ask(partial(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, gpu, place)) for place in range(places)]
    return [instance for instance in found if instance is not None]


def _handle_of(entry: str, num_gpus: int) -> Any:
    """The handle of an index, of a UUID's beginning (GPU-...), or of a MIG instance's whole UUID; else None.

    CUDA computes on the first instance of a GPU in MIG mode, and not at all where it has none.
    """
    if entry.startswith("MIG-"):
        return _ask(lambda: pynvml.nvmlDeviceGetHandleByUUID(entry))
    gpu = _gpu_of(entry, num_gpus)
    instances = None if gpu is None else _instances(gpu)
    if instances is None:
        return gpu
    return instances[0] if instances else None


def _gpu_of(entry: str, num_gpus: int) -> Any:
    if entry.isdecimal():
        return pynvml.nvmlDeviceGetHandleByIndex(int(entry)) if int(entry) < num_gpus else None
    if not entry.startswith("GPU-"):
        return None
    handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(num_gpus)]
    fitting = [h for h in handles if (_uuid(h) or "").startswith(entry)]
    return fitting[0] if len(fitting) == 1 else None


def _read(index: int, handle: Any) -> GpuReading:
    """Raises NVMLError where not even the memory or the name can be asked for because the driver is gone."""
    title = _text(pynvml.nvmlDeviceGetName(handle)) or f"GPU {index}"
    memory = _ask(lambda: pynvml.nvmlDeviceGetMemoryInfo(handle))
    utilization = _ask(lambda: pynvml.nvmlDeviceGetUtilizationRates(handle))  # a MIG instance has none
    # a MIG instance is as warm as its GPU
    board = _ask(lambda: pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)) or handle
    return GpuReading(
        index=index,
        uuid=_uuid(handle),
        title=title,
        total_bytes=int(memory.total) if memory else None,
        used_bytes=int(memory.used) if memory else None,
        free_bytes=int(memory.free) if memory else None,
        others_bytes=_bytes_of_others(handle),
        utilization_percent=int(utilization.gpu) if utilization else None,
        temperature_c=_ask(lambda: int(pynvml.nvmlDeviceGetTemperature(board, pynvml.NVML_TEMPERATURE_GPU))),
    )


def own_bytes(number: int) -> int | None:
    """What the driver counts as this process's on GPU `number` of `read_gpus`: CUDA's context and all it holds.

    None where it does not say, as in a container, where the driver knows the process by the host's number.
    """
    try:
        with _nvml():
            handle = next(islice(_handles(os.environ.get("CUDA_VISIBLE_DEVICES")), number, None), None)
            if handle is None:
                return None
            processes = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
    except (pynvml.NVMLError, OSError):
        return None
    used = [process.usedGpuMemory for process in processes if process.pid == os.getpid()]
    return int(used[0]) if used and used[0] is not None else None


def _uuid(handle: Any) -> str | None:
    return _text(_ask(lambda: pynvml.nvmlDeviceGetUUID(handle)))


def _bytes_of_others(handle: Any) -> int | None:
    """None where the driver does not say for some process, as on Windows: a sum of the rest would mislead.

    Inside a container pids are the host's, so that this process may count among the others.
    """
    processes = _ask(lambda: pynvml.nvmlDeviceGetComputeRunningProcesses(handle))
    if processes is None:
        return None
    used = [process.usedGpuMemory for process in processes if process.pid != os.getpid()]
    return None if any(value is None for value in used) else sum(int(value) for value in used)


def _ask(question: Callable[[], T]) -> T | None:
    """The driver's answer; None where it cannot give it."""
    try:
        return question()
    except pynvml.NVMLError:
        return None


def _text(value: str | bytes | None) -> str | None:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
