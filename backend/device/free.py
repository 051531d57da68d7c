"""Choose a free one of several GPUs, for a run that leaves it open. Pure, no torch."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from backend.device.gpu import GpuReading
from backend.device.machine import Device
from backend.device.nvml import bare_uuid

# of the memory of an idle GPU that is free: a desktop and a browser may hold the rest
IDLE_SHARE = 0.75


def choose_free(
    gpus: Sequence[Device], busy: Collection[str | None], readings: Sequence[GpuReading]
) -> tuple[Device, str]:
    """Choose one of some GPUs (at least one), which are in order of preference; also return why.

    `busy` are the names of those that runs train on. The choice is the first idle GPU; else the one with the
    most free memory of those on which no run trains; else of all. A GPU whose memory the driver does not
    report counts as idle.
    """
    if len(gpus) == 1:
        return gpus[0], f"the only GPU that torch can use: {gpus[0].title}"
    free = {gpu.name: _free_share_and_bytes(gpu, readings) for gpu in gpus}
    idle = [gpu for gpu in gpus if gpu.name not in busy and free[gpu.name][0] >= IDLE_SHARE]
    if idle:
        return idle[0], f"a free GPU, of {len(gpus)}: {idle[0].title}"
    without_run = [gpu for gpu in gpus if gpu.name not in busy]
    most = max(without_run or gpus, key=lambda gpu: free[gpu.name][1])
    why = "other programs hold memory of each" if without_run else "a run trains on each"
    return most, f"no GPU of {len(gpus)} is idle ({why}); the one with the most free memory: {most.title}"


def _free_share_and_bytes(gpu: Device, readings: Sequence[GpuReading]) -> tuple[float, int]:
    reading = next((reading for reading in readings if _matches(reading, gpu)), None)
    if reading is None or reading.free_bytes is None or not reading.total_bytes:
        return 1.0, gpu.total_bytes
    return reading.free_bytes / reading.total_bytes, reading.free_bytes


def _matches(reading: GpuReading, gpu: Device) -> bool:
    if gpu.uuid and reading.uuid:
        return bare_uuid(reading.uuid) == gpu.uuid
    return f"cuda:{reading.index}" == gpu.name
