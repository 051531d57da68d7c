"""On which device a run trains, which devices are busy, and where a waiting run starts.

A run with `--device auto` is made for a GPU (its precision, workers and batch are resolved for one), and takes any free
one when it starts. What it takes then is written into `launched.json`, among `overrides`; `config.json` stays.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from backend.config import Choice, RunConfig
from backend.device.free import choose_free
from backend.device.gpu import GpuReading
from backend.device.machine import Device, Machine
from backend.errors import UserError
from backend.overrides import read_run_config
from backend.run.folder import RunFolder
from backend.run.state import live_runs


@dataclass(frozen=True)
class Placed:
    """Where a run starts (None: its config names no device), and the settings that this changes (see
    `supervisor.resume`)."""

    device: str | None
    overrides: Mapping[str, Any] = field(default_factory=dict)


class DeviceBusyError(UserError):
    """A run trains on the device already."""

    def __init__(self, run_id: str, device: str) -> None:
        self.run_id, self.device = run_id, device
        cure = "wait for it, or choose another device"
        super().__init__(f"run {run_id} trains on {device} now", field="device", cure=cure)


def device_of(folder: RunFolder) -> str | None:
    """The device that a run trains on; None where its config cannot be read."""
    config = read_config(folder)
    return None if config is None else str(config.value("device"))


def busy_devices(runs_dir: Path) -> frozenset[str]:
    """The devices that live runs train on."""
    found = {device_of(folder) for folder in live_runs(runs_dir)} if runs_dir.is_dir() else set()
    return frozenset(device for device in found if device is not None)


def busy_run(runs_dir: Path, device: str) -> RunFolder | None:
    """The live run that trains on a device, if any."""
    return next((folder for folder in live_runs(runs_dir) if device_of(folder) == device), None)


def require_free(runs_dir: Path, device: str) -> None:
    """Raises DeviceBusyError where a run trains on the device. Holds while the caller holds the queue's lock."""
    busy = busy_run(runs_dir, device)
    if busy is not None:
        raise DeviceBusyError(busy.run_id, device)


def candidates(folder: RunFolder, machine: Machine | None) -> tuple[str, ...]:
    """The devices any of which a waiting run may start on: its own, and every GPU where it leaves that open.

    A batch that was chosen for a GPU's memory needs one with as much. `machine`: None where it is not known yet.
    """
    config = read_config(folder)
    if config is None:
        return ()
    own = str(config.value("device"))
    is_open = config.settings.device == "auto" and own.startswith("cuda")
    gpus = machine.gpus if machine is not None and is_open else ()
    # its own one first, because the other settings were resolved for it
    return (own, *(gpu.name for gpu in gpus if gpu.name != own and _is_enough(gpu, own, config, gpus)))


def place(
    folder: RunFolder, busy: Collection[str | None], machine: Machine, readings: Sequence[GpuReading]
) -> Placed | None:
    """Where a waiting run starts now, and what that changes; None while each of its devices is busy."""
    names = candidates(folder, machine)
    if not names:
        return Placed(None, {})  # its worker reports what is wrong with its config
    by_name = {gpu.name: gpu for gpu in machine.gpus}
    gpus = [by_name[name] for name in names if name in by_name]
    if len(names) == 1 or not gpus:
        return None if names[0] in busy else Placed(names[0], {})
    chosen, reason = choose_free(gpus, busy, readings)
    if chosen.name in busy:
        return None
    if chosen.name == names[0]:
        return Placed(chosen.name, {})
    return Placed(chosen.name, {"device": asdict(Choice(chosen.name, f"when the run started: {reason}"))})


def _is_enough(gpu: Device, own: str, config: RunConfig, gpus: Sequence[Device]) -> bool:
    needed = next((one.total_bytes for one in gpus if one.name == own), 0)
    return "batch_size" not in config.chosen or gpu.total_bytes >= needed


def read_config(folder: RunFolder) -> RunConfig | None:
    """None for a config that this program cannot read: a damaged run must not take others down."""
    try:
        return read_run_config(folder)
    except (UserError, OSError):  # of another version, perhaps
        return None
