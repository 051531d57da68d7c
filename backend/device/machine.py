"""The devices that torch can train on here. Imports torch only when asked, so that a dashboard need not.

`python -m backend.device.machine` prints the answer as JSON: a process without torch asks that one.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Device:
    """One device that torch can use: `name` is torch's ("cuda:0", "cpu"), `title` a person's."""

    name: str
    title: str
    total_bytes: int


@dataclass(frozen=True)
class Machine:
    """What decisions depend on. `gpus` is empty where torch sees none; `cpu_bfloat16` as `cpu_has_bfloat16` has it."""

    gpus: tuple[Device, ...]
    num_cpus: int
    torch_version: str
    cpu_bfloat16: bool


def machine_from_dict(raw: Mapping[str, Any]) -> Machine:
    """Inverse of `dataclasses.asdict`."""
    gpus = tuple(Device(**gpu) for gpu in raw["gpus"])
    return Machine(gpus, raw["num_cpus"], raw["torch_version"], raw["cpu_bfloat16"])


def describe_machine() -> Machine:
    """Ask torch. Opens no CUDA context beyond what counting devices needs."""
    import torch

    gpus = []
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            gpus.append(Device(f"cuda:{index}", properties.name, properties.total_memory))
    return Machine(tuple(gpus), num_cpus(), torch.__version__, cpu_has_bfloat16())


def cpu_has_bfloat16() -> bool:
    """Whether the CPU has instructions that multiply bfloat16; without them it is many times slower than float32."""
    if sys.platform == "linux":  # says the same, without the seconds that torch takes to be imported
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
        return "avx512_bf16" in flags or "amx_bf16" in flags
    import torch

    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def num_cpus() -> int:
    """CPUs that this process may use, not those that the machine has (containers, taskset)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_title() -> str:
    """What to call the CPU on screen."""
    number = num_cpus()
    return f"CPU ({platform.machine()}, {number} {'core' if number == 1 else 'cores'})"


if __name__ == "__main__":
    print(json.dumps(asdict(describe_machine())))
