"""Live readings of the NVIDIA GPUs, as the driver gives them through NVML. No torch: opens no CUDA context.

What the driver does not say is None; a number is never made up.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice, takewhile
from typing import Any, TypeVar

import pynvml

from backend.device.order import is_by_pci_bus, query_torch_uuids

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
    capability: tuple[int, int] | None = None  # compute capability, major and minor


@dataclass(frozen=True)
class Driver:
    """The NVIDIA driver: its version ("580.82.07") and the newest CUDA that it serves, major and minor."""

    version: str | None
    cuda: tuple[int, int] | None


def read_driver() -> Driver:
    """What is installed; None where it does not say, as without a driver. Never raises."""
    try:
        with _nvml():
            version = _text(_ask(lambda: pynvml.nvmlSystemGetDriverVersion()))
            # 1000 * major + 10 * minor (NVML API Reference, NVML_CUDA_DRIVER_VERSION_MAJOR)
            number = _ask(lambda: pynvml.nvmlSystemGetCudaDriverVersion_v2())
    except (pynvml.NVMLError, OSError):
        return Driver(None, None)
    return Driver(version, None if number is None else (number // 1000, number % 1000 // 10))


def read_gpus(*, hidden_too: bool = False) -> tuple[GpuReading, ...]:
    """The GPUs in torch's order; empty without a driver, and those read so far where it fails on the way.

    Follows CUDA_VISIBLE_DEVICES unless `hidden_too`. Under a CUDA_DEVICE_ORDER of the user's own, torch is asked for
    its order. Of a GPU in MIG mode its instances are listed, and where there are any, CUDA shows nothing else (NVIDIA's
    MIG guide); it may show fewer of them. Never raises.
    """
    visible = None if hidden_too else os.environ.get("CUDA_VISIBLE_DEVICES")
    readings: list[GpuReading] = []
    try:
        with _nvml():
            for index, handle in enumerate(_handles_in_torch_order(visible)):
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


def _handles_in_torch_order(visible: str | None) -> Iterator[Any]:
    """Where the number of a GPU follows from its bus, as `_handles` has them; else by the UUIDs that torch tells.

    A GPU that torch does not tell of is left out, unless torch tells of none: then no number counts.
    """
    if is_by_pci_bus() or pynvml.nvmlDeviceGetCount() < 2:
        yield from _handles(visible)
        return
    gpus = _by_pci_bus()
    everything = [handle for handle in (*gpus, *_every_handle(gpus)) if handle is not None]
    by_uuid = {bare_uuid(_uuid(handle) or ""): handle for handle in everything}
    known = [by_uuid[uuid] for uuid in map(bare_uuid, query_torch_uuids(visible)) if uuid in by_uuid]
    yield from known or _handles(visible)


def bare_uuid(uuid: str) -> str:
    """Without the kind that NVML writes before it and torch does not."""
    return uuid.removeprefix("GPU-").removeprefix("MIG-").lower()


def _by_pci_bus() -> list[Any]:
    """NVML's handles as CUDA_DEVICE_ORDER=PCI_BUS_ID orders them; None for one that the driver does not give.

    NVML's own order "has no guarantees of consistency between reboots", and its index "may not correlate with [...]
    the CUDA device index" (NVML API Reference, nvmlDeviceGetHandleByIndex).
    """
    indices = range(pynvml.nvmlDeviceGetCount())
    gpus = [_ask(partial(pynvml.nvmlDeviceGetHandleByIndex, index)) for index in indices]
    if len(gpus) < 2 or None in gpus:  # one that is lost has no bus: the others keep their places
        return gpus
    return sorted(gpus, key=_bus_id)


def _bus_id(gpu: Any) -> str:
    """Domain, bus, device and function, each in hexadecimal digits of a fixed number."""
    info = _ask(lambda: pynvml.nvmlDeviceGetPciInfo(gpu))
    return "" if info is None else (_text(info.busId) or "").lower()


def _handles(visible: str | None) -> Iterator[Any]:
    """NVML's handles in the order of CUDA_VISIBLE_DEVICES. As in CUDA, a wrong entry hides itself and the rest."""
    gpus = _by_pci_bus()
    if visible is None:
        yield from _every_handle(gpus)
        return
    seen: set[str] = set()
    entries = [part.strip() for part in visible.split(",")]
    for entry in entries:
        # as in torch, a list of instances ends where anything else is named
        if entries[0].startswith("MIG-") and not entry.startswith("MIG-"):
            return
        handle = _handle_of(entry, gpus)
        if handle is None:
            return
        identity = _uuid(handle) or entry
        if identity in seen:
            return
        seen.add(identity)
        yield handle


def _every_handle(gpus: list[Any]) -> Iterator[Any]:
    """Every MIG instance, and where there is none, every GPU."""
    instances = [instance for gpu in gpus if gpu is not None for instance in _instances(gpu) or ()]
    if instances:
        yield from instances
    else:  # a GPU that is lost ends the list, for the next ones would get its number
        yield from takewhile(lambda gpu: gpu is not None, gpus)


def _instances(gpu: Any) -> list[Any] | None:
    """The MIG instances of a GPU, which may be none; None where it is not in MIG mode."""
    mode = _ask(lambda: pynvml.nvmlDeviceGetMigMode(gpu))  # now, and after the next reset
    if mode is None or mode[0] != pynvml.NVML_DEVICE_MIG_ENABLE:
        return None
    places = _ask(lambda: pynvml.nvmlDeviceGetMaxMigDeviceCount(gpu)) or 0
    found = [_ask(partial(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, gpu, place)) for place in range(places)]
    return [instance for instance in found if instance is not None]


def _handle_of(entry: str, gpus: list[Any]) -> Any:
    """The handle of an index, of a UUID's beginning (GPU-...), or of a MIG instance; else None.

    CUDA computes on the first instance of a GPU in MIG mode, and not at all where it has none. An instance has a UUID
    of its own (MIG-...) or, under drivers before 470, the name MIG-<UUID of the GPU>/<GPU instance>/<compute instance>
    (NVIDIA's MIG User Guide, "CUDA Device Enumeration").
    """
    if entry.startswith("MIG-GPU-"):
        return _instance_named(entry, gpus)
    if entry.startswith("MIG-"):
        return _ask(lambda: pynvml.nvmlDeviceGetHandleByUUID(entry))
    gpu = _gpu_of(entry, gpus)
    instances = None if gpu is None else _instances(gpu)
    if instances is None:
        return gpu
    return instances[0] if instances else None


def _instance_named(name: str, gpus: list[Any]) -> Any:
    uuid, _, numbers = name.removeprefix("MIG-").partition("/")
    gpu = _gpu_of(uuid, gpus)
    for instance in (_instances(gpu) or []) if gpu is not None else []:
        gpu_instance = _ask(partial(pynvml.nvmlDeviceGetGpuInstanceId, instance))
        compute_instance = _ask(partial(pynvml.nvmlDeviceGetComputeInstanceId, instance))
        if f"{gpu_instance}/{compute_instance}" == numbers:
            return instance
    return None


def _gpu_of(entry: str, gpus: list[Any]) -> Any:
    if entry.isdecimal():
        return gpus[int(entry)] if int(entry) < len(gpus) else None
    if not entry.startswith("GPU-"):
        return None
    fitting = [gpu for gpu in gpus if gpu is not None and (_uuid(gpu) or "").startswith(entry)]
    return fitting[0] if len(fitting) == 1 else None


def _read(index: int, handle: Any) -> GpuReading:
    """Raises NVMLError where not even the memory or the name can be asked for because the driver is gone."""
    title = _text(pynvml.nvmlDeviceGetName(handle)) or f"GPU {index}"
    memory = _ask(lambda: pynvml.nvmlDeviceGetMemoryInfo(handle))
    utilization = _ask(lambda: pynvml.nvmlDeviceGetUtilizationRates(handle))  # a MIG instance has none
    # a MIG instance is as warm as its GPU
    board = _ask(lambda: pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)) or handle
    capability = _ask(lambda: pynvml.nvmlDeviceGetCudaComputeCapability(board))
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
        capability=None if capability is None else (int(capability[0]), int(capability[1])),
    )


def own_bytes(number: int) -> int | None:
    """What the driver counts as this process's on GPU `number` of `read_gpus`: CUDA's context and all it holds.

    None where it does not say, as in a container, where the driver knows the process by the host's number.
    """
    try:
        with _nvml():
            handles = _handles_in_torch_order(os.environ.get("CUDA_VISIBLE_DEVICES"))
            handle = next(islice(handles, number, None), None)
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
