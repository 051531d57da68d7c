"""Ask torch which devices it can train on here. Imports torch only when asked.

`python -m backend.torch_devices` prints the answer as JSON: a process without torch asks that one.
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
    """Ask torch, and the driver for what torch does not see. Opens no CUDA context beyond what counting needs."""
    build = torch_build()
    seen, cards, said = _gpus_of_torch()
    if seen:  # it computes, so the driver is new enough
        unusable = find_unusable(cards, Driver(None, None), build, torch_message=None)
    else:
        unusable = find_unusable(list_cards(read_gpus()), read_driver(), build, said)
    names = {gpu.name for gpu in unusable}
    usable = tuple(gpu for gpu in seen if gpu.name not in names)
    return Machine(usable, num_cpus(), build.version, cpu_has_bfloat16(), unusable)


def torch_build() -> TorchBuild:
    """What the installed torch was built for. Starts no CUDA."""
    import torch

    is_rocm = (
        torch.version.hip is not None
    )  # AMD's: it has kernels for gfx..., and NVML knows none of its cards
    archs = () if is_rocm else tuple(torch.cuda.get_arch_list())
    return TorchBuild(str(torch.__version__), torch.version.hip or torch.version.cuda, archs)


def _gpus_of_torch() -> tuple[list[Device], list[Card], str]:
    """The GPUs that torch sees, each as a device and as a card, and, where it sees none, what it says of it."""
    import torch

    gpus, cards = [], []
    with warnings.catch_warnings(record=True) as warned:  # reported in other words, with the cure
        warnings.simplefilter("always")
        try:
            for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
                name, properties = f"cuda:{index}", torch.cuda.get_device_properties(index)
                uuid = bare_uuid(str(getattr(properties, "uuid", "")))
                gpus.append(Device(name, properties.name, properties.total_memory, uuid))
                cards.append(Card(name, properties.name, torch.cuda.get_device_capability(index)))
        except (
            RuntimeError,
            AssertionError,
        ) as error:  # CUDA cannot start: torch raises the one or the other
            return [], [], _first_line(error)
    return gpus, cards, _first_line(warned[0].message) if warned else "it gives no reason"


def _first_line(words: object) -> str:
    return next(iter(str(words).splitlines()), "")[:200]


if __name__ == "__main__":
    with redirect_stdout(sys.stderr):  # what a library may print is no part of the answer
        machine = describe_machine()
    print(json.dumps(asdict(machine)))
