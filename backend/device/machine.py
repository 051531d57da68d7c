"""Records of the devices that torch can train on, and facts about the CPU. Needs no torch on Linux."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.device.unusable import UnusableGpu, unusable_from_dict

# the instructions that oneDNN may use under its variable ONEDNN_MAX_CPU_ISA; under any other value, all
ALLOWED_UNDER: Mapping[str, tuple[str, ...]] = {
    "sse41": ("sse41",),
    "avx": ("sse41",),
    "avx2": ("sse41", "avx2"),
    "avx2_vnni": ("sse41", "avx2"),
    "avx2_vnni_2": ("sse41", "avx2"),
    "avx512_core": ("sse41", "avx2", "avx512"),
    "avx512_core_vnni": ("sse41", "avx2", "avx512"),
}
# torch's names of features that Linux calls otherwise
_TORCH_NAMES = {
    "avx512f": "avx512_f",
    "avx512bw": "avx512_bw",
    "avx512vl": "avx512_vl",
    "avx512dq": "avx512_dq",
}


@dataclass(frozen=True)
class Device:
    """One device that torch can use: `name` is torch's ("cuda:0", "cpu"), `title` a person's."""

    name: str
    title: str
    total_bytes: int
    uuid: str = ""  # of a GPU, without the kind that NVML writes before it


@dataclass(frozen=True)
class Machine:
    """The facts about a machine that decisions depend on.

    `gpus` are those that torch can compute on, `unusable` those that the driver or torch lists and torch
    cannot compute on; `cpu_bfloat16` is what `cpu_has_bfloat16` returns.
    """

    gpus: tuple[Device, ...]
    num_cpus: int
    torch_version: str
    cpu_bfloat16: bool
    unusable: tuple[UnusableGpu, ...] = ()


def machine_from_dict(raw: Mapping[str, Any]) -> Machine:
    """Build a Machine from what `dataclasses.asdict` made of it."""
    gpus = tuple(Device(**gpu) for gpu in raw["gpus"])
    unusable = tuple(map(unusable_from_dict, raw.get("unusable", ())))
    return Machine(gpus, raw["num_cpus"], raw["torch_version"], raw["cpu_bfloat16"], unusable)


def cpu_instructions() -> frozenset[str]:
    """Return those of "sse41", "avx2", "avx512" and "bfloat16" that the convolutions of oneDNN may use here.

    They decide which of its kernels run, and so their speed and memory. They are what the CPU has, less what
    ONEDNN_MAX_CPU_ISA takes away; none on a CPU that is not x86.
    """
    has = _cpu_features()
    has_instructions = {
        "sse41": has("sse4_1"),
        "avx2": has("avx2"),
        "avx512": all(map(has, ("avx512f", "avx512bw", "avx512vl", "avx512dq"))),
        "bfloat16": has("avx512_bf16") or has("amx_bf16"),
    }
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "").lower()
    allowed = ALLOWED_UNDER.get(limit, tuple(has_instructions))
    return frozenset(name for name in allowed if has_instructions[name])


def cpu_has_bfloat16() -> bool:
    """Whether the CPU can multiply bfloat16; without that, it is many times slower than float32."""
    return "bfloat16" in cpu_instructions()


def _cpu_features() -> Callable[[str], bool]:
    """Return a function that says whether the CPU has a feature, by its name in Linux's /proc/cpuinfo."""
    if sys.platform == "linux":  # says the same as torch, without the seconds of importing it
        flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
        return flags.__contains__
    import torch

    able = torch.cpu.get_capabilities()
    return lambda flag: bool(able.get(_TORCH_NAMES.get(flag, flag)))


def cpu_identity() -> dict[str, Any]:
    """Return the facts about the CPU that decide the memory and the time of a step on it.

    They are part of the key of cached answers, since different machines may share a home folder. The number
    of CPUs and the variables decide how many threads torch starts.
    """
    return {
        "model": _cpu_model(),
        "instructions": sorted(cpu_instructions()),
        "num_cpus": num_cpus(),
        "threads": [os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")],
    }


def _cpu_model() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def num_cpus() -> int:
    """Count the CPUs that this process may use, which a container or taskset may limit."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_title() -> str:
    """Return a name for the CPU on screen."""
    number = num_cpus()
    return f"CPU ({platform.machine()}, {number} {'core' if number == 1 else 'cores'})"
