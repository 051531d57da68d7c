"""One numbering of the GPUs for CUDA, torch and the driver's own library (NVML). No torch.

CUDA's default order, FASTEST_FIRST, is not NVML's: cuda:0 would be one card and the first line of nvidia-smi
another. Under `CUDA_DEVICE_ORDER=PCI_BUS_ID` CUDA numbers "by PCI bus ID in ascending order", and so does
NVML. CUDA reads the variable when it starts, so it is set before torch is imported, by the package `backend`,
which every entry point imports first; processes that are started from here inherit it.

Source: CUDA Programming Guide, "CUDA Environment Variables"
(docs.nvidia.com/cuda/cuda-programming-guide/05-appendices/environment-variables.html).
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, MutableMapping
from functools import cache

from backend.json_command import run_json_command

VARIABLE = "CUDA_DEVICE_ORDER"
BY_PCI_BUS = "PCI_BUS_ID"


def number_by_pci_bus(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let CUDA number the GPUs as NVML's are numbered here, unless the user has said otherwise."""
    environment.setdefault(VARIABLE, BY_PCI_BUS)


def is_by_pci_bus(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the number of a GPU follows from its place on the PCI bus; else only CUDA knows it."""
    return environment.get(VARIABLE) == BY_PCI_BUS


def query_torch_uuids(visible: str | None) -> tuple[str, ...]:
    """Return the UUIDs of the GPUs in torch's order under a CUDA_VISIBLE_DEVICES (None: unset).

    Asks a process of its own, once. Empty if torch sees none or does not answer.
    """
    return _query_torch(visible, os.environ.get(VARIABLE))


@cache
def _query_torch(visible: str | None, order: str | None) -> tuple[str, ...]:
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    environment |= {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    environment |= {} if order is None else {VARIABLE: order}
    try:
        return tuple(run_json_command("backend.torch_uuids", environment=environment))
    except (OSError, subprocess.SubprocessError, ValueError):
        return ()
