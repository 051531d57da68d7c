"""Running out of memory: how it is recognised, and how what was under way is let go. Knows no network and no loop."""

from __future__ import annotations

import errno
import gc
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

# As torch 2.13 and cuDNN 9 put it. Not here: "unable to find an engine to execute this computation" and
# CUDNN_STATUS_NOT_SUPPORTED, which a shortage may cause, but far more often a GPU that this torch has no kernels for.
WORDS = (
    "out of memory",  # the allocators of CUDA, HIP and MPS, and the driver's "CUDA error: out of memory"
    "can't allocate memory",  # DefaultCPUAllocator
    "not enough memory",  # the same on Windows
    "std::bad_alloc",  # anything else in C++, oneDNN among it
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
    "cudnn_status_internal_error_device_allocation_failed",
    "cudnn_status_internal_error_host_allocation_failed",
)

T = TypeVar("T")


class ShortOfMemoryError(RuntimeError):
    """Memory ran out, and smaller parts have not helped or were not wanted. `num_images` were computed at once."""

    def __init__(self, where: str, num_images: int, num_retries: int, shortage: Shortage) -> None:
        images = "image" if num_images == 1 else "images"
        tried = f", after {num_retries} {'retry' if num_retries == 1 else 'retries'}" if num_retries else ""
        super().__init__(f"out of memory in {where}, with {num_images} {images} at once{tried}")
        self.num_images = num_images
        self.shortage = shortage


@dataclass(frozen=True)
class Shortage:
    """What is kept of an error that said that memory ran out: words, and none of its frames."""

    error: str  # one line
    trace: str


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or in the machine."""
    if isinstance(error, ShortOfMemoryError):  # said and answered where it was met
        return False
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in WORDS)


def attempt(run: Callable[[], T], device: torch.device) -> T | Shortage:
    """What `run` returns, or the shortage of memory that it met, once all that it held is free again."""
    try:
        return run()
    except (RuntimeError, MemoryError, OSError) as error:
        if not is_out_of_memory(error):
            raise
        shortage = Shortage(f"{type(error).__name__}: {error}".splitlines()[0], traceback.format_exc())
    # only here, outside of the clause, is the traceback gone, and with it the frames that hold tensors
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return shortage
