"""Ask torch, in a process of its own, which devices it can use. Imports no torch, so it holds no GPU."""

from __future__ import annotations

import threading

from backend.device.machine import Machine, machine_from_dict
from backend.json_command import run_json_command

_lock = threading.Lock()
_machines: list[Machine] = []  # the answer, once there is one


def query_machine() -> Machine:
    """Return the devices that torch can use here: seconds at the first call, then at once.

    Raises subprocess.SubprocessError if that process fails.
    """
    with _lock:
        if not _machines:
            _machines.append(machine_from_dict(run_json_command("backend.torch_devices")))
    return _machines[0]


def known_machine() -> Machine | None:
    """Return the answer of `query_machine` if there is one already, else None; at once."""
    return _machines[0] if _machines else None
