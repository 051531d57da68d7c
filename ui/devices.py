"""Live memory and load of the devices, as lines of HTML."""

from __future__ import annotations

from html import escape

import psutil

from backend.device.gpu import read_gpus
from backend.device.host import read_memory
from ui.text import in_bytes, say


def device_lines() -> str:
    """A line for each GPU that the driver shows, and one for the host."""
    lines = [
        say(
            "gpu_line",
            title=gpu.title,
            used=in_bytes(gpu.used_bytes),
            total=in_bytes(gpu.total_bytes),
            load="" if gpu.utilization_percent is None else say("gpu_load", load=gpu.utilization_percent),
            temperature=""
            if gpu.temperature_c is None
            else say("gpu_temperature", temperature=gpu.temperature_c),
        )
        for gpu in read_gpus()
        if gpu.used_bytes is not None and gpu.total_bytes is not None
    ]
    memory = read_memory()
    lines.append(
        say(
            "host_line",
            load=round(psutil.cpu_percent()),
            used=in_bytes(memory.total_bytes - memory.free_bytes),
            total=in_bytes(memory.total_bytes),
        )
    )
    return "<br>".join(f"<small>{escape(line)}</small>" for line in lines)
