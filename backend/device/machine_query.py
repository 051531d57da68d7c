"""Ask torch, in a process of its own, which devices it can use; the answer is kept. Needs no torch and holds no GPU."""

from __future__ import annotations

import threading

from backend.device.machine import Machine, machine_from_dict
from backend.json_command import run_json_command

_lock = threading.Lock()
_machines: list[Machine] = []  # the answer, once there is one


def query_machine() -> Machine:
    """The devices that torch can use here: seconds at the first call, then at once.

    Raises subprocess.SubprocessError where that process fails.
    """
    with _lock:
        if not _machines:
            _machines.append(machine_from_dict(run_json_command("backend.torch_devices")))
    return _machines[0]


def known_machine() -> Machine | None:
    """The answer of `query_machine` where there is one already; at once."""
    return _machines[0] if _machines else None
