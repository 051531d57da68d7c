from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from backend.config import RunConfig, parse_settings
from backend.resolve import choose_precision
from backend.training.build import build_network, build_refiner
from backend.training.origin import describe_program
from backend.training.precision import FLOAT32_ON_GPU


@pytest.mark.parametrize("build", [build_network, build_refiner])
def test_networks_compute_float32_without_tf32_on_a_gpu(
    build: Callable[[RunConfig, int], nn.Module],
) -> None:
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    build(RunConfig(parse_settings({"model": "hrnet"}), {}), 2)
    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
    assert torch.backends.cudnn.conv.fp32_precision != "tf32"


def test_what_float32_is_on_a_gpu_stands_in_run_and_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "some GPU")
    assert describe_program("cuda:0")["float32"] == FLOAT32_ON_GPU
    assert "float32" not in describe_program("cpu")
    assert FLOAT32_ON_GPU in choose_precision("cuda:0", cpu_bfloat16=False).reason
