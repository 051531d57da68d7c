"""Recognize by torch's message why a process that prepares images failed: killed, out of memory, crashed.

The messages are those of torch 2.13: torch/csrc/DataLoader.cpp ("DataLoader worker (pid N) is killed by
signal: ...", for a bus error "... out of shared memory"), torch/utils/data/dataloader.py ("... exited
unexpectedly"), torch/_utils.py ("Caught ... in DataLoader worker process N") and
aten/src/ATen/MapAllocator.cpp ("unable to allocate shared memory(shm) for file <...>", "unable to write to
file </torch_...>"). A batch goes from process to process in shared memory, of which a container has 64 MiB
unless it is started with --shm-size (Docker's reference, `docker run`). If main memory runs out, Linux kills
a process with SIGKILL (its documentation, "Out Of Memory Handling").
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
MIB = 2**20

# kind, whether memory ran out, and a pattern of the message; the first match counts
_KINDS = (
    ("files", False, r"too many open files|received \d+ items of ancdata"),
    (
        "shared",
        True,
        r"insufficient shared memory|out of shared memory|killed by signal: Bus error"
        r"|unable to allocate shared memory|unable to open shared memory object"
        r"|unable to (?:write to|resize|stretch) file </torch_|unable to mmap .*</torch_",
    ),
    ("killed", True, r"worker .*is killed by signal: Killed"),
    ("crashed", False, r"worker .*is killed by signal: (?P<signal>[^.\n]+)"),
    (
        "memory",
        True,
        r"DataLoader worker (?:process|could not be started)[\s\S]*"
        r"(?:MemoryError|allocate memory|not enough memory|out of memory|bad_alloc|temporarily unavailable)",
    ),
    ("gone", False, r"DataLoader worker .*exited unexpectedly"),
)
_DESCRIPTIONS = {
    "files": "the processes that prepare images have too many files open",
    "shared": "the processes that prepare images ran out of shared memory{size}",
    "killed": "a process that prepares images was killed, as the system does when main memory runs out",
    "crashed": "a process that prepares images crashed ({signal})",
    "gone": "a process that prepares images ended without an error message, as when main memory runs out",
    "memory": "a process that prepares images ran out of memory",
}
_FIRST_CURE = {
    "files": "raise the limit (ulimit -n 65536)",
    "shared": "start the container with more of it (docker run --shm-size 4g)",
    "killed": "free memory that other programs hold",
    "memory": "free memory that other programs hold",
}


@dataclass(frozen=True)
class WorkerFailure:
    """The end of the processes that prepare images, in one line, and whether memory ran out."""

    kind: str
    what: str
    is_memory: bool

    def cure(self, num_workers: int, *, is_resumable: bool) -> str:
        """Return one line of cures, the mildest first; `num_workers` is how many processes there were."""
        fewer = num_workers // 2 if self.is_memory or self.kind in ("files", "gone") else 0
        action = "resume with" if is_resumable else "start a new run with"
        zero = (
            ", or 0, which prepares them in the training process" if fewer else " (in the training process)"
        )
        workers = f"{action} --num_workers {fewer}{zero} (now {num_workers})"
        first = _FIRST_CURE.get(self.kind)
        return f"{first}, or {workers}" if first else workers


def find_worker_failure(error: BaseException) -> WorkerFailure | None:
    """Return the failure of a process that prepares images, if it caused this error."""
    messages = list(_chain_messages(error))
    for kind, is_memory, pattern in _KINDS:
        for message in messages:
            match = re.search(pattern, message, re.IGNORECASE)
            if match and (kind != "files" or _name_a_worker(messages)):
                signal = (match.groupdict().get("signal") or "").strip()
                what = _DESCRIPTIONS[kind].format(size=_shared_size(), signal=signal)
                return WorkerFailure(kind, what, is_memory)
    return None


def _name_a_worker(messages: list[str]) -> bool:
    return any("dataloader worker" in message.lower() or "ancdata" in message for message in messages)


def _chain_messages(error: BaseException | None) -> Iterator[str]:
    """Yield the messages of an error and of its causes."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield f"{type(error).__name__}: {error}"
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _shared_size() -> str:
    try:
        return f" (/dev/shm has {shutil.disk_usage(SHARED_MEMORY).total // MIB} MiB)"
    except OSError:  # Windows and macOS have none
        return ""
