"""The GPUs that CUDA shows to this process, in its order, as handles of NVML. No torch."""

from __future__ import annotations

from itertools import takewhile
from typing import Any

import pynvml

from backend.device.nvml import as_text, ask, ask_uuid, bare_uuid
from backend.device.order import is_by_pci_bus, query_torch_uuids


def list_visible(visible: str | None) -> list[Any]:
    """Return the handles of cuda:0, cuda:1 and so on under a CUDA_VISIBLE_DEVICES (None: unset).

    - If CUDA numbers the GPUs by PCI bus, or there is only one, the order is known.
    - Under another CUDA_DEVICE_ORDER only CUDA knows it: torch is asked, and a GPU that it does not list is
      left out.
    - If torch lists none of them, no number counts, and the order is that of the bus.

    Raises NVMLError if the driver cannot count the GPUs.
    """
    if is_by_pci_bus() or pynvml.nvmlDeviceGetCount() < 2:
        return _list_by_bus(visible)
    return _list_as_torch(visible) or _list_by_bus(visible)


def _list_as_torch(visible: str | None) -> list[Any]:
    """Return the handles of the GPUs that torch lists, in its order."""
    gpus = _all_gpus()
    handles = [*(gpu for gpu in gpus if gpu is not None), *_all_usable(gpus)]
    by_uuid = {bare_uuid(ask_uuid(handle) or ""): handle for handle in handles}
    torch_uuids = [bare_uuid(uuid) for uuid in query_torch_uuids(visible)]
    return [by_uuid[uuid] for uuid in torch_uuids if uuid in by_uuid]


def _list_by_bus(visible: str | None) -> list[Any]:
    """Return the handles that CUDA_VISIBLE_DEVICES names, or all.

    As in CUDA, a wrong entry hides itself and the rest.
    """
    gpus = _all_gpus()
    if visible is None:
        return _all_usable(gpus)
    handles: list[Any] = []
    identities: set[str] = set()
    entries = [part.strip() for part in visible.split(",")]
    for entry in entries:
        # as in torch, a list of instances ends where anything else is named
        if entries[0].startswith("MIG-") and not entry.startswith("MIG-"):
            break
        handle = _find_handle(entry, gpus)
        if handle is None:
            break
        identity = ask_uuid(handle) or entry
        if identity in identities:
            break
        identities.add(identity)
        handles.append(handle)
    return handles


def _all_gpus() -> list[Any]:
    """Return the GPUs as CUDA_DEVICE_ORDER=PCI_BUS_ID orders them; None for one that the driver has lost.

    NVML's own order "has no guarantees of consistency between reboots", and its index "may not correlate
    with [...] the CUDA device index" (NVML API Reference, nvmlDeviceGetHandleByIndex).
    """
    indices = range(pynvml.nvmlDeviceGetCount())
    gpus = [ask(pynvml.nvmlDeviceGetHandleByIndex, index) for index in indices]
    if len(gpus) < 2 or None in gpus:  # one that is lost has no bus: the others keep their places
        return gpus
    return sorted(gpus, key=_bus_id)


def _bus_id(gpu: Any) -> str:
    """Return domain, bus, device and function, each in hexadecimal digits of a fixed number."""
    info = ask(pynvml.nvmlDeviceGetPciInfo, gpu)
    return "" if info is None else (as_text(info.busId) or "").lower()


def _all_usable(gpus: list[Any]) -> list[Any]:
    """Return every MIG instance; if there is none, every GPU."""
    instances = [instance for gpu in gpus if gpu is not None for instance in _instances(gpu) or ()]
    # a GPU that is lost ends the list, for the next ones would get its number
    return instances or list(takewhile(lambda gpu: gpu is not None, gpus))


def _instances(gpu: Any) -> list[Any] | None:
    """Return the MIG instances of a GPU, which may be none; None if it is not in MIG mode."""
    mode = ask(pynvml.nvmlDeviceGetMigMode, gpu)  # now, and after the next reset
    if mode is None or mode[0] != pynvml.NVML_DEVICE_MIG_ENABLE:
        return None
    places = ask(pynvml.nvmlDeviceGetMaxMigDeviceCount, gpu) or 0
    handles = [ask(pynvml.nvmlDeviceGetMigDeviceHandleByIndex, gpu, place) for place in range(places)]
    return [instance for instance in handles if instance is not None]


def _find_handle(entry: str, gpus: list[Any]) -> Any:
    """Return the handle of an index, of the beginning of a UUID (GPU-...), or of a MIG instance; else None.

    CUDA computes on the first instance of a GPU in MIG mode, and not at all if it has none. An instance has a
    UUID of its own (MIG-...) or, under drivers before 470, the name MIG-<UUID of the GPU>/<GPU
    instance>/<compute instance> (NVIDIA's MIG User Guide, "CUDA Device Enumeration").
    """
    if entry.startswith("MIG-GPU-"):
        return _find_named_instance(entry, gpus)
    if entry.startswith("MIG-"):
        return ask(pynvml.nvmlDeviceGetHandleByUUID, entry)
    gpu = _find_gpu(entry, gpus)
    instances = None if gpu is None else _instances(gpu)
    if instances is None:
        return gpu
    return instances[0] if instances else None


def _find_named_instance(name: str, gpus: list[Any]) -> Any:
    uuid, _, numbers = name.removeprefix("MIG-").partition("/")
    gpu = _find_gpu(uuid, gpus)
    if gpu is None:
        return None
    for instance in _instances(gpu) or ():
        gpu_instance = ask(pynvml.nvmlDeviceGetGpuInstanceId, instance)
        compute_instance = ask(pynvml.nvmlDeviceGetComputeInstanceId, instance)
        if f"{gpu_instance}/{compute_instance}" == numbers:
            return instance
    return None


def _find_gpu(entry: str, gpus: list[Any]) -> Any:
    if entry.isdecimal():
        return gpus[int(entry)] if int(entry) < len(gpus) else None
    if not entry.startswith("GPU-"):
        return None
    matching = [gpu for gpu in gpus if gpu is not None and (ask_uuid(gpu) or "").startswith(entry)]
    return matching[0] if len(matching) == 1 else None
