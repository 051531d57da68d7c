"""Questions to the NVIDIA driver through its library NVML; None if it cannot answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pynvml

T = TypeVar("T")


@contextmanager
def open_nvml() -> Iterator[None]:
    """Hold NVML open. Raises NVMLError without a driver."""
    pynvml.nvmlInit()
    try:
        yield
    finally:
        ask(pynvml.nvmlShutdown)


def ask(function: Callable[..., T], *arguments: Any) -> T | None:
    """Return what a function of NVML answers; None if the driver cannot answer it."""
    try:
        return function(*arguments)
    except pynvml.NVMLError:
        return None


def ask_uuid(handle: Any) -> str | None:
    """Return the UUID of a GPU (GPU-...) or of a MIG instance (MIG-...)."""
    return as_text(ask(pynvml.nvmlDeviceGetUUID, handle))


def bare_uuid(uuid: str) -> str:
    """Remove the kind that NVML writes before a UUID and torch does not."""
    return uuid.removeprefix("GPU-").removeprefix("MIG-").lower()


def as_text(value: str | bytes | None) -> str | None:
    """Decode an answer of NVML, which is bytes in some versions of its library."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value
