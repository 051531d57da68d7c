from __future__ import annotations

import errno
import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from backend.training.out_of_memory import (
    MemoryRanOutError,
    MemoryShortageError,
    free_on_shortage,
    is_out_of_memory,
)

pytestmark = pytest.mark.slow  # trains

CPU = torch.device("cpu")

SHORTAGES: list[BaseException] = [
    torch.OutOfMemoryError("no room"),
    torch.cuda.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 10.75 GiB"
    ),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
    RuntimeError("MPS backend out of memory (MPS allocated: 9.00 GB, other allocations: 1.00 GB)"),
    RuntimeError("HIP out of memory. Tried to allocate 20.00 MiB"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:81] data. DefaultCPUAllocator: not enough memory: you tried ..."
    ),
    RuntimeError("std::bad_alloc"),
    MemoryError(),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
]

OTHERS: list[BaseException] = [
    MemoryShortageError("a preview", 1, 3, ""),  # handled where it was raised
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("GET was unable to find an engine to execute this computation"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"),
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"),
    OSError(errno.ENOSPC, "No space left on device"),
    ValueError("out of memory"),
    KeyError("out of memory"),
]


@pytest.mark.parametrize("error", SHORTAGES, ids=str)
def test_a_shortage_of_memory_is_recognised(error: BaseException) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize("error", OTHERS, ids=str)
def test_another_error_is_none(error: BaseException) -> None:
    assert not is_out_of_memory(error)


NO_ENGINE = RuntimeError("GET was unable to find an engine to execute this computation")
NO_HANDLE = RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`")
NOT_SUPPORTED = RuntimeError(
    "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in ..."
)
INTERNAL = RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR")
GPU = torch.device("cuda:1")


@pytest.mark.parametrize(
    ("error", "after_a_good_step"),
    [(NO_ENGINE, True), (NO_HANDLE, True), (NOT_SUPPORTED, False), (INTERNAL, False)],
    ids=str,
)
def test_words_of_many_meanings_are_believed_after_a_good_step_or_where_memory_is_short(
    monkeypatch: pytest.MonkeyPatch, error: RuntimeError, after_a_good_step: bool
) -> None:
    free, failed = [8 * 2**30], [3]
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free[0], 8 * 2**30))
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda device: {"num_ooms": failed[0]})
    assert not is_out_of_memory(error) and not is_out_of_memory(error, GPU, num_failed=3)
    assert is_out_of_memory(error, CPU, has_worked=True) is after_a_good_step
    assert is_out_of_memory(error, GPU, num_failed=2)  # the allocator has failed meanwhile
    free[0] = 100 * 2**20
    assert is_out_of_memory(error, GPU, num_failed=3)

    def fail(device: torch.device) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(torch.cuda, "mem_get_info", fail)
    assert not is_out_of_memory(error, GPU, num_failed=3)


def test_an_attempt_sees_what_the_allocator_met_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = [1]
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda device: {"num_ooms": failed[0]})
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**33, 2**33))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)

    def plan(num_more: int) -> None:
        failed[0] += num_more
        raise NO_ENGINE

    with pytest.raises(MemoryRanOutError):
        free_on_shortage(lambda: plan(1), GPU)
    with pytest.raises(RuntimeError, match="unable to find an engine"):
        free_on_shortage(lambda: plan(0), GPU)
    with pytest.raises(MemoryRanOutError):
        free_on_shortage(lambda: plan(0), GPU, lambda: True)


@pytest.mark.parametrize("number", [8, 14, 1455])
def test_windows_numbers_of_a_shortage_are_recognised(number: int) -> None:
    error = OSError(22, "The paging file is too small for this operation to complete")
    assert not is_out_of_memory(error)
    error.winerror = number  # type: ignore[attr-defined,unused-ignore]
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "ask_for_too_much",
    [lambda: torch.empty(10**15), lambda: np.empty(10**15), lambda: nn.Linear(10**8, 10**8)],
    ids=["torch", "numpy", "layer"],
)
def test_what_a_real_allocator_says_is_recognised(ask_for_too_much: Callable[[], object]) -> None:
    """More bytes than an address can name."""
    with pytest.raises(MemoryRanOutError) as raised:
        free_on_shortage(ask_for_too_much, CPU)
    message = raised.value.message
    assert "\n" not in message and "rror: " in message
    assert message in raised.value.trace and "ask_for_too_much" not in message


def test_what_a_failed_attempt_held_is_free_when_it_returns() -> None:
    """Through frames, exceptions that are chained, and a cycle."""
    held: list[weakref.ref[nn.Module]] = []

    def fail(depth: int) -> None:
        activations = nn.Identity()
        activations.itself = activations  # type: ignore[assignment]
        held.append(weakref.ref(activations))
        if depth:
            try:
                fail(depth - 1)
            except RuntimeError as error:
                raise torch.OutOfMemoryError("no room") from error
        raise RuntimeError("out of memory")

    with pytest.raises(MemoryRanOutError):
        free_on_shortage(lambda: fail(2), CPU)
    assert len(held) == 3 and all(module() is None for module in held)


def test_a_handled_error_and_the_frames_that_it_passed_are_free_at_once() -> None:
    """Without a garbage collection: a frame may hold a lock or a batch."""
    reference: Any = None
    gc.disable()
    try:
        free_on_shortage(lambda: torch.empty(10**15), CPU)
    except MemoryRanOutError as error:
        reference = weakref.ref(error)
    finally:
        gc.enable()
    assert reference() is None


def test_a_result_and_any_other_error_pass_through() -> None:
    assert free_on_shortage(lambda: 3, CPU) == 3
    with pytest.raises(RuntimeError, match="shapes differ"):
        free_on_shortage(lambda: (_ for _ in ()).throw(RuntimeError("shapes differ")), CPU)


def test_giving_up_says_where_and_with_how_many_images() -> None:
    tried = MemoryShortageError("epoch 2, step 31", 2, 3, "Traceback ...")
    assert str(tried) == "out of memory in epoch 2, step 31, with 2 images at once, after 3 retries"
    assert (tried.num_images, tried.trace) == (2, "Traceback ...")
    once = MemoryShortageError("the validation of epoch 1", 1, 0, "")
    assert str(once) == "out of memory in the validation of epoch 1, with 1 image at once"
