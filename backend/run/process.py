"""The identity of a process: its pid together with its start, because pids are reused."""

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
    """Pid and start of a process, which tell it from any other.

    On Linux the start is `start_ticks` (clock ticks after the boot) in the boot `boot_id`, which never
    change. `create_time` (seconds since 1970) follows every step of the wall clock there. It identifies a
    process on other systems, and in records of versions that did not keep the ticks.

    Containers on one host have one boot id, but pids of their own. Each has a host name of its own, too, so
    host names are compared before processes (see `state.is_alive`). If containers share even the name of the
    host (`docker run --network host`), a process in another one is not found, and only `run.lock` proves that
    it lives.
    """

    pid: int
    create_time: float
    boot_id: str | None = None
    start_ticks: int | None = None

    def to_row(self) -> dict[str, Any]:
        """Return the row for `launched.json`.

        It always holds the create time, which earlier versions read.
        """
        row = {"pid": self.pid, "create_time": self.create_time}
        if self.start_ticks is None:
            return row
        return {**row, "boot_id": self.boot_id, "start_ticks": self.start_ticks}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> ProcessIdentity | None:
        """Read the process of a row; None if it names no process."""
        pid, create_time = row.get("pid"), row.get("create_time")
        if not isinstance(pid, int) or pid <= 0 or not isinstance(create_time, int | float):
            return None
        boot_id, start_ticks = row.get("boot_id"), row.get("start_ticks")
        if not isinstance(boot_id, str) or not isinstance(start_ticks, int):
            return cls(pid, create_time)
        return cls(pid, create_time, boot_id, start_ticks)


def identify(pid: int) -> ProcessIdentity | None:
    """Return the process that has this pid now; None if there is none.

    A process that ended and is not reaped yet still has its pid. Raises PermissionError if we may not look.
    """
    answer = _look_up(pid)
    return None if answer is None else answer[0]


def is_same_and_alive(process: ProcessIdentity) -> bool | None:
    """Whether this very process exists and has not ended; a zombie has. None if we may not look."""
    try:
        answer = _look_up(process.pid)
    except PermissionError:
        return None
    if answer is None:
        return False
    present, has_ended = answer
    return _is_same(present, process) and not has_ended


def command_line(process: ProcessIdentity) -> list[str]:
    """Return the arguments with which the process was started; empty if it has ended."""
    try:
        return psutil.Process(process.pid).cmdline()
    except psutil.Error:
        return []


def descendants(process: ProcessIdentity) -> list[ProcessIdentity]:
    """List the live processes that it started, and theirs; empty if it has ended."""
    if not is_same_and_alive(process):
        return []
    try:
        children = psutil.Process(process.pid).children(recursive=True)
    except psutil.Error:
        return []
    identities: list[ProcessIdentity] = []
    for child in children:
        with contextlib.suppress(PermissionError):
            if (identity := identify(child.pid)) is not None:
                identities.append(identity)
    return identities


def kill(process: ProcessIdentity) -> None:
    """End this very process by force, unless it has ended already or is not ours to end."""
    if is_same_and_alive(process):
        with contextlib.suppress(psutil.Error):
            psutil.Process(process.pid).kill()


def kill_tree(process: ProcessIdentity) -> None:
    """End the process, and what it started, by force."""
    for member in (*descendants(process), process):
        kill(member)


def _is_same(a: ProcessIdentity, b: ProcessIdentity) -> bool:
    if a.start_ticks is not None and b.start_ticks is not None:
        return (a.pid, a.boot_id, a.start_ticks) == (b.pid, b.boot_id, b.start_ticks)
    return a.pid == b.pid and abs(a.create_time - b.create_time) <= _CREATE_TIME_TOLERANCE_S


def _look_up(pid: int) -> tuple[ProcessIdentity, bool] | None:
    """Return the process that has this pid, and whether it has ended; None if there is none.

    Raises PermissionError.
    """
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
    """Return the id of this boot; None on a system other than Linux, or if a sandbox hides it."""
    try:
        return (_PROC / _BOOT_ID).read_text().strip()
    except OSError:
        return None


def _read_stat(pid: int) -> tuple[str, int]:
    """Return the state of a process on Linux, and the clock ticks from the boot to its start."""
    content = (_PROC / str(pid) / "stat").read_bytes()
    # The name, in parentheses, may itself hold parentheses, spaces and bytes that are not text.
    fields = content.rpartition(b")")[2].split()
    return fields[_STATE_FIELD - _FIRST_FIELD].decode(), int(fields[_START_FIELD - _FIRST_FIELD])
