"""Live readings of the NVIDIA GPUs, as the driver gives them through NVML. No torch: opens no CUDA context.

What the driver does not say is None; a number is never made up.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import pynvml

from backend.device.nvml import as_text, ask, ask_uuid, open_nvml
from backend.device.visible import list_visible


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
    """Return the driver that is installed; both values are None without one. Never raises."""
    try:
        with open_nvml():
            version = as_text(ask(pynvml.nvmlSystemGetDriverVersion))
            # 1000 * major + 10 * minor (NVML API Reference, NVML_CUDA_DRIVER_VERSION_MAJOR)
            number = ask(pynvml.nvmlSystemGetCudaDriverVersion_v2)
    except (pynvml.NVMLError, OSError):
        return Driver(None, None)
    return Driver(version, None if number is None else (number // 1000, number % 1000 // 10))


def read_gpus(*, hidden_too: bool = False) -> tuple[GpuReading, ...]:
    """Return the GPUs in torch's order; none without a driver, and those read so far if it goes away.

    - Only those in CUDA_VISIBLE_DEVICES, unless `hidden_too`.
    - A GPU in MIG mode is replaced by its instances; if any GPU has instances, only instances are listed, as
      CUDA does (NVIDIA's MIG guide), which may show fewer of them.

    Never raises.
    """
    visible = None if hidden_too else os.environ.get("CUDA_VISIBLE_DEVICES")
    readings: list[GpuReading] = []
    try:
        with open_nvml():
            for index, handle in enumerate(list_visible(visible)):
                readings.append(_read(index, handle))
    except (pynvml.NVMLError, OSError):
        pass  # no driver, or it went away: what was read before still holds
    return tuple(readings)


def own_bytes(number: int) -> int | None:
    """Return the memory that the driver counts for this process on GPU `number` of `read_gpus`.

    That is CUDA's context and all it holds. None if the driver does not say: in a container it
    knows the process by the host's number.
    """
    try:
        with open_nvml():
            handles = list_visible(os.environ.get("CUDA_VISIBLE_DEVICES"))
            if number >= len(handles):
                return None
            processes = pynvml.nvmlDeviceGetComputeRunningProcesses(handles[number])
    except (pynvml.NVMLError, OSError):
        return None
    used = [process.usedGpuMemory for process in processes if process.pid == os.getpid()]
    return int(used[0]) if used and used[0] is not None else None


def _read(index: int, handle: Any) -> GpuReading:
    """Read one GPU. Raises NVMLError if the driver has lost it."""
    title = as_text(pynvml.nvmlDeviceGetName(handle)) or f"GPU {index}"
    memory = ask(pynvml.nvmlDeviceGetMemoryInfo, handle)
    utilization = ask(pynvml.nvmlDeviceGetUtilizationRates, handle)  # a MIG instance has none
    # a MIG instance is as warm as its GPU
    board = ask(pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle, handle) or handle
    temperature = ask(pynvml.nvmlDeviceGetTemperature, board, pynvml.NVML_TEMPERATURE_GPU)
    capability = ask(pynvml.nvmlDeviceGetCudaComputeCapability, board)
    return GpuReading(
        index=index,
        uuid=ask_uuid(handle),
        title=title,
        total_bytes=int(memory.total) if memory else None,
        used_bytes=int(memory.used) if memory else None,
        free_bytes=int(memory.free) if memory else None,
        others_bytes=_bytes_of_others(handle),
        utilization_percent=int(utilization.gpu) if utilization else None,
        temperature_c=None if temperature is None else int(temperature),
        capability=None if capability is None else (int(capability[0]), int(capability[1])),
    )


def _bytes_of_others(handle: Any) -> int | None:
    """Return the bytes held by other processes.

    None if the driver does not say it for one of them, as on Windows: the sum of the rest would mislead.
    Inside a container pids are the host's, so that this process may count among the others.
    """
    processes = ask(pynvml.nvmlDeviceGetComputeRunningProcesses, handle)
    if processes is None:
        return None
    used = [process.usedGpuMemory for process in processes if process.pid != os.getpid()]
    return None if any(value is None for value in used) else sum(int(value) for value in used)
