"""Nothing on the way from images to a gradient, or to points, is made on another device than what it is
computed with.

Tensors on `meta` have no values and lie on no real device: one made on the CPU beside them is found, as it
would be beside those of a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from backend.data.dataset import Batch
from backend.training.heatmaps import DECODERS, measure_spread
from backend.training.task import DECODER_OF_LOSS, LandmarkTask
from models import MODELS, OUTPUT_STRIDES, build_model
from models.refiner import Refiner

pytestmark = pytest.mark.slow

K, HW = 3, (64, 96)
NAMES = ("sella", "nasion", "menton")
META = torch.device("meta")
NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    **{name: lambda stride, name=name: build_model(name, K, stride) for name in MODELS},
    "refiner": lambda stride: Refiner(K, 2, stride),
    "refiner-sides": lambda stride: Refiner(K, 2, stride, (64, 32)),
}


def build(name: str, stride: int) -> nn.Module:
    with META:
        return NETWORKS[name](stride)


def batch_for(network: nn.Module, training: bool) -> Batch:
    """On `meta`: images, or crops, in training those of each of the refiner's networks."""
    num = K * len(network.members) if isinstance(network, Refiner) and training else K
    crops = (num,) if isinstance(network, Refiner) else ()
    with META:
        return Batch(
            images=torch.zeros(2, *crops, 3, *HW),
            points_xy_input=torch.zeros(2, num, 2),
            points_xy_image=torch.zeros(2, num, 2, dtype=torch.float64),
            affine_input_to_image=torch.zeros(2, num if crops else 1, 2, 3, dtype=torch.float64),
            mm_per_px_xy=torch.zeros(2, 2, dtype=torch.float64),
            rows=torch.zeros(2, dtype=torch.int64),
        )


def task_of(loss: str, decoder: str, stride: int) -> LandmarkTask:
    return LandmarkTask(NAMES, HW, stride, 1.5, loss, decoder)


class OnMetaAlone(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses every tensor elsewhere: not all kernels of `meta` look at the devices of what they are
    given."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs, result)):
            assert not isinstance(leaf, Tensor) or leaf.device == META, (
                f"{func} has a tensor on {leaf.device}"
            )
        return result


@pytest.mark.parametrize("loss", DECODER_OF_LOSS)
@pytest.mark.parametrize("stride", OUTPUT_STRIDES)
@pytest.mark.parametrize("name", NETWORKS)
def test_forward_loss_and_backward_stay_on_the_device(name: str, stride: int, loss: str) -> None:
    network = build(name, stride).train()
    batch = batch_for(network, training=True).to(META)
    with OnMetaAlone():
        value = task_of(loss, DECODER_OF_LOSS[loss], stride).compute_loss(network(batch.images), batch)
        value.backward()
    assert value.shape == ()
    assert all(weights.grad is not None for weights in network.parameters())


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("loss", DECODER_OF_LOSS)
@pytest.mark.parametrize("name", NETWORKS)
def test_forward_and_decoding_stay_on_the_device(name: str, loss: str, decoder: str) -> None:
    network, task = build(name, 2).eval(), task_of(loss, decoder, 2)
    batch = batch_for(network, training=False).to(META)
    with torch.inference_mode(), OnMetaAlone():
        maps = network(batch.images).float()
        points, confidence = task.decode(maps)
        task.display_maps(maps)
    assert maps.shape == (2, K, HW[0] // 2, HW[1] // 2)
    assert points.shape == (2, K, 2) and confidence.shape == (2, K)


def test_what_is_read_from_maps_is_computed_on_their_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A spread and a contrast leave the device at their ends."""
    left: list[Any] = []

    def leave(tensor: Tensor) -> Tensor:
        left.append(tensor.device)
        return torch.zeros(tensor.shape, dtype=tensor.dtype)

    monkeypatch.setattr(Tensor, "cpu", leave)
    maps = torch.zeros(2, K, 32, 48, device=META)
    assert measure_spread(maps, 2, 1.5).shape == (2, K, 2, 2)
    for loss in DECODER_OF_LOSS:
        assert task_of(loss, DECODER_OF_LOSS[loss], 2).contrast(maps).shape == (2, K)
    assert left == [META] * (1 + len(DECODER_OF_LOSS))


@pytest.mark.parametrize("made_on_cpu", [lambda: torch.arange(48), lambda: torch.zeros(())])
def test_a_tensor_made_on_the_cpu_would_be_found(made_on_cpu: Callable[[], Tensor]) -> None:
    """Else the tests above say nothing."""
    with pytest.raises(AssertionError, match="has a tensor on cpu"), OnMetaAlone():
        made_on_cpu()
