"""The number formats that networks compute in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

FLOAT32_ON_GPU = "without TF32"


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    """Compute in `dtype` in the operations for which torch considers it safe; None: all in float32."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


def compute_float32_in_full() -> None:
    """Let a GPU compute float32 in full precision, in convolutions too.

    By itself torch would round these to TF32 (10 bits of 23). So a checkpoint predicts the same on a GPU as
    on a CPU, and training without mixed precision is in full precision.
    """
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
