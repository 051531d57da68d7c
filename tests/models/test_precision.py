"""What the networks compute in under autocast, on a GPU that need not be there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from models import MODELS, OUTPUT_STRIDES, build_model
from models.refiner import Refiner

K = 3


class Upsamplings(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes what every interpolation reads and gives."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[tuple[torch.dtype, torch.dtype]] = []
        self.under_autocast: list[bool] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if "upsample" in func.overloadpacket.__name__ and "backward" not in func.overloadpacket.__name__:
            self.seen.append((args[0].dtype, result.dtype))
            self.under_autocast.append(torch.is_autocast_enabled("cpu"))
        return result


class WithoutDevice(TorchFunctionMode):
    """A slice looks for the tensor's device before anything is dispatched; here it is put differently."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is Tensor.__getitem__:
            _, rows, columns = args[1]  # maps[..., :height, :width]
            return args[0].narrow(-2, 0, rows.stop).narrow(-1, 0, columns.stop)
        return func(*args, **(kwargs or {}))


@contextmanager
def autocast_of_cuda() -> Iterator[None]:
    """Turn on CUDA's autocast for fake tensors; `torch.autocast("cuda")` does nothing without CUDA."""
    enabled, dtype = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", torch.float16)
    try:
        with FakeTensorMode(), WithoutDevice(), torch.device("cuda"):
            maps = F.conv2d(torch.empty(1, 1, 4, 4), torch.empty(1, 1, 1, 1))
            assert maps.dtype is torch.float16 and maps.device.type == "cuda"
            yield
    finally:
        torch.set_autocast_enabled("cuda", enabled)
        torch.set_autocast_dtype("cuda", dtype)


def test_cudas_autocast_would_interpolate_in_float32() -> None:
    """Else the test below says nothing."""
    with autocast_of_cuda():
        maps = torch.empty(1, 1, 4, 4, dtype=torch.float16)
        assert F.interpolate(maps, scale_factor=2).dtype is torch.float32


@pytest.mark.slow
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("stride", OUTPUT_STRIDES)
@pytest.mark.parametrize("name", MODELS)
def test_a_gpu_interpolates_in_the_dtype_in_which_the_trace_on_a_cpu_does(
    name: str, stride: int, training: bool
) -> None:
    network = build_model(name, K, stride).train(training)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # fake tensors of a GPU cannot be updated in place
            module.track_running_stats = False
            module.running_mean = module.running_var = module.num_batches_tracked = None
    with autocast_of_cuda():
        on_gpu = upsamplings_of(network)
    with FakeTensorMode(), torch.autocast("cpu", dtype=torch.float16):
        on_cpu = upsamplings_of(network)
    assert on_gpu == on_cpu
    assert set(on_gpu) <= {(torch.float16, torch.float16)}
    # a network whose trunk has the output stride may have nothing to enlarge
    must_enlarge = name in ("hrnet", "unet", "hourglass") or (name == "resnet" and stride < 4)
    assert on_gpu or not must_enlarge


def upsamplings_of(network: nn.Module) -> list[tuple[torch.dtype, torch.dtype]]:
    """Of a pass through a network with fake weights on the device in force."""
    fake = {name: torch.empty(weights.shape) for name, weights in network.named_parameters()}
    with Upsamplings() as upsamplings:
        functional_call(network, fake, (torch.empty(2, 3, 64, 64),))
    return upsamplings.seen


@pytest.mark.parametrize("sides", [(), (64, 32)])
def test_the_refiner_interpolates_outside_of_autocast_and_computes_inside(sides: tuple[int, ...]) -> None:
    network = Refiner(K, 2, output_stride=1, sides=sides)
    with torch.autocast("cpu", dtype=torch.bfloat16), Upsamplings() as upsamplings:
        maps = network(torch.zeros(1, 2 * K, 3, 96, 96))
        assert torch.is_autocast_enabled("cpu")
    assert maps.shape == (1, 2 * K, 96, 96)
    assert upsamplings.seen and not any(upsamplings.under_autocast)
    assert (torch.bfloat16, torch.bfloat16) in upsamplings.seen
