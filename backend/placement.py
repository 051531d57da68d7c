"""Find out on which device a run trains, which devices are busy, and on which one a waiting run starts.

A run with `--device auto` is made for a GPU (its precision, workers and batch are resolved for one), and
takes any free one when it starts. Which one is written into `launched.json`, among `overrides`; `config.json`
stays.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from backend.config import Choice, RunConfig
from backend.device.free import choose_free
from backend.device.gpu import GpuReading
from backend.device.machine import Machine
from backend.errors import UserError
from backend.overrides import read_run_config
from backend.run.folder import RunFolder
from backend.run.state import live_runs


@dataclass(frozen=True)
class Placed:
    """The device on which a waiting run starts now, and the settings that this changes."""

    device: str | None  # None: its config cannot be read
    overrides: Mapping[str, Any] = field(default_factory=dict)  # see `supervisor.resume`


class DeviceBusyError(UserError):
    """A run trains on the device already."""

    def __init__(self, run_id: str, device: str) -> None:
        self.run_id, self.device = run_id, device
        cure = "wait for it, or choose another device"
        super().__init__(f"run {run_id} trains on {device} now", field="device", cure=cure)


def device_of(folder: RunFolder) -> str | None:
    """Return the device that a run trains on; None if its config cannot be read."""
    config = read_config(folder)
    return None if config is None else str(config.value("device"))


def busy_devices(runs_dir: Path) -> frozenset[str]:
    """Return the devices that live runs train on."""
    devices = {device_of(folder) for folder in live_runs(runs_dir)} if runs_dir.is_dir() else set()
    return frozenset(device for device in devices if device is not None)


def busy_run(runs_dir: Path, device: str) -> RunFolder | None:
    """Return the live run that trains on a device, if any."""
    return next((folder for folder in live_runs(runs_dir) if device_of(folder) == device), None)


def require_free(runs_dir: Path, device: str) -> None:
    """Raise DeviceBusyError if a run trains on the device. It stays free while the caller locks the queue."""
    busy = busy_run(runs_dir, device)
    if busy is not None:
        raise DeviceBusyError(busy.run_id, device)


def candidates(folder: RunFolder, machine: Machine | None) -> tuple[str, ...]:
    """Return the devices on which a waiting run may start: that of its config, then other GPUs.

    Other GPUs only if the run leaves its device open; if its batch was chosen for a GPU's memory, only those
    with as much. `machine` is None if it is not known yet.
    """
    config = read_config(folder)
    if config is None:
        return ()
    name = str(config.value("device"))  # the first, because the other settings were resolved for it
    is_open = config.settings.device == "auto" and name.startswith("cuda")
    gpus = machine.gpus if machine is not None and is_open else ()
    has_chosen_batch = "batch_size" in config.chosen
    needed_bytes = next((gpu.total_bytes for gpu in gpus if gpu.name == name), 0) if has_chosen_batch else 0
    return (name, *(gpu.name for gpu in gpus if gpu.name != name and gpu.total_bytes >= needed_bytes))


def place(
    folder: RunFolder, busy: Collection[str | None], machine: Machine, readings: Sequence[GpuReading]
) -> Placed | None:
    """Choose the device on which a waiting run starts now; None while each of its devices is busy."""
    names = candidates(folder, machine)
    if not names:
        return Placed(None, {})  # its worker reports what is wrong with its config
    by_name = {gpu.name: gpu for gpu in machine.gpus}
    gpus = [by_name[name] for name in names if name in by_name]
    if len(names) == 1 or not gpus:
        return None if names[0] in busy else Placed(names[0], {})
    gpu, reason = choose_free(gpus, busy, readings)
    if gpu.name in busy:
        return None
    if gpu.name == names[0]:
        return Placed(gpu.name, {})
    return Placed(gpu.name, {"device": asdict(Choice(gpu.name, f"when the run started: {reason}"))})


def read_config(folder: RunFolder) -> RunConfig | None:
    """Read a run's config; None if this program cannot read it: a damaged run must not take others down."""
    try:
        return read_run_config(folder)
    except (UserError, OSError):  # of another version, perhaps
        return None
