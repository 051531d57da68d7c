"""Ask torch which devices it can train on here. Imports torch only when a function is called.

`python -m backend.torch_devices` prints the answer as JSON: a process without torch runs that command.
"""

from __future__ import annotations

import json
import sys
import warnings
from contextlib import redirect_stdout
from dataclasses import asdict

from backend.device.gpu import Driver, read_driver, read_gpus
from backend.device.machine import Device, Machine, cpu_has_bfloat16, num_cpus
from backend.device.nvml import bare_uuid
from backend.device.unusable import Card, TorchBuild, find_unusable, list_cards


def describe_machine() -> Machine:
    """Ask torch for its GPUs, and the driver for those that torch does not see.

    Opens no CUDA context beyond what counting needs.
    """
    build = torch_build()
    gpus, cards, reason = _query_gpus()
    if gpus:  # torch computes on them, so the driver is new enough
        unusable = find_unusable(cards, Driver(None, None), build, torch_message=None)
    else:
        unusable = find_unusable(list_cards(read_gpus()), read_driver(), build, reason)
    names = {gpu.name for gpu in unusable}
    usable = tuple(gpu for gpu in gpus if gpu.name not in names)
    return Machine(usable, num_cpus(), build.version, cpu_has_bfloat16(), unusable)


def torch_build() -> TorchBuild:
    """Return what the installed torch was built for. Starts no CUDA."""
    import torch

    # AMD's ROCm has kernels for gfx..., and NVML knows none of its cards
    is_rocm = torch.version.hip is not None
    archs = () if is_rocm else tuple(torch.cuda.get_arch_list())
    return TorchBuild(str(torch.__version__), torch.version.hip or torch.version.cuda, archs)


def _query_gpus() -> tuple[list[Device], list[Card], str]:
    """Return the GPUs that torch sees, each as a device and as a card; and, if none, the reason."""
    import torch

    gpus, cards = [], []
    # recorded, because the program reports them in its own way, with the cure
    with warnings.catch_warnings(record=True) as torch_warnings:
        warnings.simplefilter("always")
        try:
            for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
                name, properties = f"cuda:{index}", torch.cuda.get_device_properties(index)
                uuid = bare_uuid(str(getattr(properties, "uuid", "")))
                gpus.append(Device(name, properties.name, properties.total_memory, uuid))
                cards.append(Card(name, properties.name, torch.cuda.get_device_capability(index)))
        except (RuntimeError, AssertionError) as error:  # torch raises either if CUDA cannot start
            return [], [], _first_line(error)
    reason = _first_line(torch_warnings[0].message) if torch_warnings else "it gives no reason"
    return gpus, cards, reason


def _first_line(message: object) -> str:
    return next(iter(str(message).splitlines()), "")[:200]


if __name__ == "__main__":
    with redirect_stdout(sys.stderr):  # what a library may print is not part of the answer
        machine = describe_machine()
    print(json.dumps(asdict(machine)))
