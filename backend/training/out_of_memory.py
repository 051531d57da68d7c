"""Recognize that memory ran out, and free what a failed step held."""

from __future__ import annotations

import errno
import gc
import traceback
from collections.abc import Callable
from typing import TypeVar

import torch

from backend.training.data_workers import find_worker_failure

# the messages of torch 2.13 and cuDNN 9
MESSAGES = (
    "out of memory",  # the allocators of CUDA, HIP and MPS, and the driver's "CUDA error: out of memory"
    "can't allocate memory",  # DefaultCPUAllocator
    "not enough memory",  # the same on Windows
    "std::bad_alloc",  # anything else in C++, oneDNN among it
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
    "cudnn_status_internal_error_device_allocation_failed",
    "cudnn_status_internal_error_host_allocation_failed",
)
# These mean a shortage, or a GPU that this torch or cuDNN has no kernels for, which would fail in the first
# step: cuDNN's plans are tried one after the other, each with a workspace of its own, and a plan whose
# workspace cannot be allocated is skipped (aten/src/ATen/native/cudnn/Conv_v8.cpp); a cuBLAS handle is
# created when a thread first needs it, and "the CUDA Runtime API called by the cuBLAS routine" may fail in it
# (cuBLAS's documentation, cublasStatus_t).
MESSAGES_AFTER_A_GOOD_STEP = ("unable to find an engine", "cublas_status_not_initialized")
# These mean many things, and a shortage only if little memory is free.
MESSAGES_WITH_LITTLE_FREE = (
    *MESSAGES_AFTER_A_GOOD_STEP,
    "cudnn_status_not_supported",
    "cudnn_status_not_initialized",
    "cudnn_status_internal_error",
)
SHORT_BYTES = 512 * 2**20  # free on the GPU: less than a handle, its kernels and a workspace may take
# ERROR_NOT_ENOUGH_MEMORY, ERROR_OUTOFMEMORY, ERROR_COMMITMENT_LIMIT (the paging file is too small)
WINDOWS_ERRORS = (8, 14, 1455)

T = TypeVar("T")


class MemoryRanOutError(Exception):
    """Memory ran out in a computation, and what that held is free again.

    It has the text of the original error, `message` in one line and its `trace`, but not its frames, which
    hold tensors.
    """

    def __init__(self, message: str, trace: str) -> None:
        super().__init__(message)
        self.message = message
        self.trace = trace


class MemoryShortageError(RuntimeError):
    """Memory ran out, and smaller parts did not help or are not allowed.

    `num_images` were computed at once; `trace` is that of the last failure.
    """

    def __init__(self, place: str, num_images: int, num_retries: int, trace: str) -> None:
        images = "image" if num_images == 1 else "images"
        tried = f", after {num_retries} {'retry' if num_retries == 1 else 'retries'}" if num_retries else ""
        super().__init__(f"out of memory in {place}, with {num_images} {images} at once{tried}")
        self.num_images = num_images
        self.trace = trace


def free_on_shortage(
    run: Callable[[], T], device: torch.device, has_worked: Callable[[], bool] = lambda: False
) -> T:
    """Return what `run` returns.

    Raises MemoryRanOutError if memory runs out in it, after all that it held is freed. `has_worked` is called
    when it fails: whether a step like this one has succeeded before.
    """
    num_failed = _num_failed(device)
    try:
        return run()
    except (RuntimeError, MemoryError, OSError) as error:
        if not is_out_of_memory(error, device, has_worked=has_worked(), num_failed=num_failed):
            raise
        message, trace = f"{type(error).__name__}: {error}".splitlines()[0], traceback.format_exc()
    # only here, outside the clause, is the traceback gone, and with it the frames that hold tensors
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    raise MemoryRanOutError(message, trace)


def is_out_of_memory(
    error: BaseException,
    device: torch.device | None = None,
    *,
    has_worked: bool = False,
    num_failed: int | None = None,
) -> bool:
    """Whether an error means that memory ran out, on a GPU or in main memory.

    Some messages have other meanings too. They count if a step like this one `has_worked`, or if memory is
    short on `device`: hardly any is free, or its allocator has failed more often than `num_failed` times.
    Failures of the processes that prepare images do not count (see data_workers).
    """
    if isinstance(error, MemoryShortageError) or find_worker_failure(error):  # handled elsewhere
        return False
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM or getattr(error, "winerror", None) in WINDOWS_ERRORS
    if not isinstance(error, RuntimeError):
        return False
    message = str(error).lower()
    if any(text in message for text in MESSAGES):
        return True
    if has_worked and any(text in message for text in MESSAGES_AFTER_A_GOOD_STEP):
        return True
    return any(text in message for text in MESSAGES_WITH_LITTLE_FREE) and _is_short(device, num_failed)


def _is_short(device: torch.device | None, num_failed: int | None) -> bool:
    if device is None or device.type != "cuda":
        return False
    if num_failed is not None and _num_failed(device) > num_failed:
        return True
    try:
        free_bytes, _ = torch.cuda.mem_get_info(device)
    except RuntimeError:  # the GPU itself has failed, not its memory
        return False
    return free_bytes < SHORT_BYTES


def _num_failed(device: torch.device) -> int:
    """Return how often torch's allocator failed on a device (`num_ooms` of torch.cuda.memory_stats)."""
    if device.type != "cuda":
        return 0
    return int(torch.cuda.memory_stats(device).get("num_ooms", 0))
