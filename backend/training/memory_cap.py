"""Limit torch's GPU memory if the driver would otherwise move it to main memory instead of failing.

NVIDIA's drivers for Windows since 536.40 move an application that runs "close to maxing out GPU memory" to
shared memory, that is main memory, where it continues "at lower speeds" (NVIDIA's support answer 5490,
"System Memory Fallback", nvidia.custhelp.com): a step takes many times as long, nothing fails, and no step is
computed in smaller parts. torch's own limit (torch.cuda.set_per_process_memory_fraction: "Allowed memory
equals total_memory * fraction", beyond which its allocator raises OutOfMemoryError) turns this into an error
that is handled. WSL runs on the same Windows driver (NVIDIA's CUDA on WSL User Guide). Other drivers fail if
memory runs out, and a limit would only cost memory.
"""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass

import torch

# for the driver, cuDNN and cuBLAS, which torch's allocator does not count, and as a distance from the limit
MARGIN_SHARE = 0.03
MIN_MARGIN_BYTES = 256 * 2**20
GIB = 2**30


@dataclass(frozen=True)
class MemoryCap:
    """A limit: torch may take `limit_bytes` of `total_bytes`; `free_bytes` were free when it was set."""

    limit_bytes: int
    free_bytes: int
    total_bytes: int

    @property
    def fraction(self) -> float:
        return self.limit_bytes / self.total_bytes

    @property
    def message(self) -> str:
        """A line for the log and the run's events."""
        return (
            f"this process uses at most {self.limit_bytes / GIB:.1f} GiB of the GPU's memory "
            f"({self.free_bytes / GIB:.1f} of {self.total_bytes / GIB:.1f} GiB are free): with more, the "
            "Windows driver would use slow main memory instead of reporting that memory ran out"
        )


def choose_cap(free_bytes: int, total_bytes: int, held_bytes: int = 0) -> MemoryCap:
    """Allow what is free, and what torch holds already, less a margin."""
    margin = max(MIN_MARGIN_BYTES, round(MARGIN_SHARE * total_bytes))
    limit = min(total_bytes, max(0, free_bytes - margin) + held_bytes)
    return MemoryCap(limit, free_bytes, total_bytes)


def driver_lends_main_memory() -> bool:
    """Whether the GPU's driver is one for Windows, here or below WSL."""
    is_wsl = sys.platform == "linux" and "microsoft" in platform.uname().release.lower()
    return sys.platform == "win32" or is_wsl


def cap_memory(device: torch.device) -> MemoryCap | None:
    """Set the limit for this process; None if none is needed, or if the free memory cannot be read."""
    if device.type != "cuda" or not driver_lends_main_memory():
        return None
    try:
        free_bytes, total_bytes = torch.cuda.mem_get_info(device)
        cap = choose_cap(free_bytes, total_bytes, torch.cuda.memory_reserved(device))
        torch.cuda.set_per_process_memory_fraction(cap.fraction, device)
    except RuntimeError:  # the GPU does not answer: the first step says what is wrong
        return None
    return cap
