"""What networks compute in where mixed precision does not say it."""

from __future__ import annotations

import torch

FLOAT32_ON_GPU = "without TF32"


def compute_float32_in_full() -> None:
    """Float32 on a GPU means float32, in convolutions too, which torch would round to TF32 (10 bits of 23).

    So a checkpoint predicts on a GPU what it predicts on a CPU, and a training without mixed precision is one.
    """
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
