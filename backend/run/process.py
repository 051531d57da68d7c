"""Which process it is: a pid together with its start, and whether that very process is alive.

The only place that compares processes; a pid alone is used again by later ones.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

_PROC = Path("/proc")
_BOOT_ID = "sys/kernel/random/boot_id"
_ENDED = ("Z", "X", "x")  # zombie, dead
_FIRST_FIELD, _STATE_FIELD, _START_FIELD = 3, 3, 22  # as proc(5) counts; the first is what follows the name

_CREATE_TIME_TOLERANCE_S = 1.0


@dataclass(frozen=True)
class ProcessIdentity:
    """A process, so that no other one is taken for it.

    On Linux its start is `start_ticks` (clock ticks after the boot) in the boot `boot_id`: nothing moves them.
    `create_time` (seconds since 1970) follows every step of the wall clock there. It identifies a process on other
    systems, and in records that were made before the ticks were kept.

    Containers on one host have one boot id, but pids of their own. Each has a host name of its own, too, so
    host names are compared before processes (see `state.is_alive`). Where containers share even the name of the
    host (`docker run --network host`), a process of another one is not found, and only `run.lock` proves that it lives.
    """

    pid: int
    create_time: float
    boot_id: str | None = None
    start_ticks: int | None = None

    def to_row(self) -> dict[str, Any]:
        """As `launched.json` holds it. The create time is always there, for a program of the version before."""
        row = {"pid": self.pid, "create_time": self.create_time}
        if self.start_ticks is None:
            return row
        return {**row, "boot_id": self.boot_id, "start_ticks": self.start_ticks}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> ProcessIdentity | None:
        """None where the row names no process."""
        pid, create_time = row.get("pid"), row.get("create_time")
        if not isinstance(pid, int) or pid <= 0 or not isinstance(create_time, int | float):
            return None
        boot_id, start_ticks = row.get("boot_id"), row.get("start_ticks")
        if not isinstance(boot_id, str) or not isinstance(start_ticks, int):
            return cls(pid, create_time)
        return cls(pid, create_time, boot_id, start_ticks)


def identify(pid: int) -> ProcessIdentity | None:
    """The process that has this pid now, also one that ended and is not reaped yet; None where there is none.

    Raises PermissionError where the system does not let us look.
    """
    found = _look_up(pid)
    return None if found is None else found[0]


def is_same_and_alive(process: ProcessIdentity) -> bool | None:
    """Whether this very process is there and has not ended; a zombie has. None where we may not look."""
    try:
        found = _look_up(process.pid)
    except PermissionError:
        return None
    if found is None:
        return False
    there, has_ended = found
    return _is_same(there, process) and not has_ended


def command_line(process: ProcessIdentity) -> list[str]:
    """The arguments with which it was started; empty where it has ended."""
    try:
        return psutil.Process(process.pid).cmdline()
    except psutil.Error:
        return []


def descendants(process: ProcessIdentity) -> list[ProcessIdentity]:
    """The live processes that it started, and theirs; none once it has ended."""
    if not is_same_and_alive(process):
        return []
    try:
        children = psutil.Process(process.pid).children(recursive=True)
    except psutil.Error:
        return []
    found: list[ProcessIdentity] = []
    for child in children:
        with contextlib.suppress(PermissionError):
            if (identity := identify(child.pid)) is not None:
                found.append(identity)
    return found


def kill(process: ProcessIdentity) -> None:
    """End this very process by force; nothing where it has ended already, or is not ours to end."""
    if is_same_and_alive(process):
        with contextlib.suppress(psutil.Error):
            psutil.Process(process.pid).kill()


def kill_tree(process: ProcessIdentity) -> None:
    """End it, and what it started, by force."""
    for one in (*descendants(process), process):
        kill(one)


def _is_same(one: ProcessIdentity, other: ProcessIdentity) -> bool:
    if one.start_ticks is not None and other.start_ticks is not None:
        return (one.pid, one.boot_id, one.start_ticks) == (other.pid, other.boot_id, other.start_ticks)
    return one.pid == other.pid and abs(one.create_time - other.create_time) <= _CREATE_TIME_TOLERANCE_S


def _look_up(pid: int) -> tuple[ProcessIdentity, bool] | None:
    """The process that has this pid, and whether it has ended. Raises PermissionError."""
    boot_id = _read_boot_id()
    try:
        if boot_id is None:
            start_ticks = None
            has_ended = psutil.Process(pid).status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
        else:
            state, start_ticks = _read_stat(pid)
            has_ended = state in _ENDED
        return ProcessIdentity(pid, psutil.Process(pid).create_time(), boot_id, start_ticks), has_ended
    except (FileNotFoundError, ProcessLookupError, psutil.NoSuchProcess):
        return None
    except psutil.AccessDenied as error:
        raise PermissionError(str(error)) from error


def _read_boot_id() -> str | None:
    """None on a system other than Linux, and where a sandbox hides it."""
    try:
        return (_PROC / _BOOT_ID).read_text().strip()
    except OSError:
        return None


def _read_stat(pid: int) -> tuple[str, int]:
    """(state, clock ticks from the boot to the start) of a process on Linux."""
    content = (_PROC / str(pid) / "stat").read_bytes()
    # The name, in parentheses, may itself hold parentheses, spaces and bytes that are not text.
    fields = content.rpartition(b")")[2].split()
    return fields[_STATE_FIELD - _FIRST_FIELD].decode(), int(fields[_START_FIELD - _FIRST_FIELD])
