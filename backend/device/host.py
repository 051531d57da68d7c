"""The main memory that this process may use, in a container too, and the load of the CPUs. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import psutil

CGROUP_ROOT = Path("/sys/fs/cgroup")
PROC_CGROUP = Path("/proc/self/cgroup")
LEAST_SPAN_S = 0.5  # CPU seconds, over which a load says something


@dataclass(frozen=True)
class HostMemory:
    """Main memory: all of it, and what can be had now without swapping."""

    total_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class _Limit:
    limit_bytes: int
    free_bytes: int


def read_memory(root: Path = CGROUP_ROOT, own_groups: Path = PROC_CGROUP) -> HostMemory:
    """Read the machine's memory, or the tightest limit of this process's control groups (v2 or v1)."""
    machine = psutil.virtual_memory()
    limits = list(_limits(root, own_groups))
    return HostMemory(
        total_bytes=min([machine.total, *(limit.limit_bytes for limit in limits)]),
        free_bytes=min([machine.available, *(limit.free_bytes for limit in limits)]),
    )


class LoadMeter:
    """A meter of how busy the CPUs were since the last reading by any thread.

    psutil's own keeps the last reading per thread, and returns 0 to every new one.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._before: tuple[float, float] | None = None  # CPU seconds: in all, and of them idle
        self._percent: float | None = None

    def read(self) -> float | None:
        """Return the load in per cent; None at the first reading."""
        times = psutil.cpu_times()
        # Linux counts a guest's time within the user's too
        guest = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
        total, idle = sum(times) - guest, times.idle + getattr(times, "iowait", 0.0)
        with self._lock:
            if self._before is None:
                self._before = total, idle
            elif (span := total - self._before[0]) >= LEAST_SPAN_S:
                self._percent = min(100.0, max(0.0, 100 * (1 - (idle - self._before[1]) / span)))
                self._before = total, idle
            return self._percent


read_load = LoadMeter().read


def _limits(root: Path, own_groups: Path) -> Iterator[_Limit]:
    """Yield the limits of every group from this process's own up to the root.

    Inside a container often only the root is there.
    """
    for line in _read_lines(own_groups) or ["0::/", "1:memory:/"]:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mount, names, cache = root, ("memory.max", "memory.current"), "inactive_file"
        elif "memory" in controllers.split(","):
            mount, cache = root / "memory", "total_inactive_file"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        else:
            continue
        group = mount / path.strip("/")
        for folder in (group, *group.parents):
            limit = _read_limit(folder / names[0], folder / names[1], folder / "memory.stat", cache)
            if limit is not None:
                yield limit
            if folder == mount:
                break


def _read_limit(limit_path: Path, used_path: Path, stat_path: Path, cache: str) -> _Limit | None:
    """Read the limit of one group; None if it has none ("max")."""
    limit, used = _read_number(limit_path), _read_number(used_path)
    if limit is None or used is None:
        return None
    # files that were read count as used, but the kernel gives them up at once
    reclaimable = next((int(v) for k, v in map(str.split, _read_lines(stat_path)) if k == cache), 0)
    return _Limit(limit, min(limit, max(0, limit - used + reclaimable)))


def _read_number(path: Path) -> int | None:
    lines = _read_lines(path)
    return int(lines[0]) if lines and lines[0].strip().isdecimal() else None


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return []
