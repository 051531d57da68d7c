"""Run the steps of a phase on fake tensors, which have sizes but no data, and follow every storage.

The engine's own steps run once each, at a batch size that is a prime number: a storage whose size is a
multiple of it grows with the batch, any other does not. The workspace of kernels is not seen, except for a
CPU's convolutions (`_note_copies`); for CUDA see traced_memory.py.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from backend.data.dataset import Batch
from backend.device.machine import cpu_instructions
from backend.memory.lifetimes import Lifetimes, Moment
from backend.memory.steps import LonePhase, run_validation_step
from backend.training.engine import Trainer

# primes; traced is the first that does not divide the number of landmarks, so that only sizes that grow with
# the batch are multiples of it
TRACED_BATCHES = (97, 101)

GEMM_COPIES = 4
GEMM_LIMIT_BYTES = 2**30

aten = torch.ops.aten
IN_PLACE = {
    "add_", "sub_", "mul_", "div_", "lerp_", "addcmul_", "addcdiv_",
    "copy_", "zero_", "fill_", "clamp_", "relu_", "normal_", "uniform_",
}  # fmt: skip


@dataclass(frozen=True)
class PhaseTrace:
    """The trace of a phase.

    `held` names the bytes that are alive between its steps; `largest_convolution` is the bytes of the input,
    weights and output of the convolution with the most of them.
    """

    lifetimes: Lifetimes
    held: dict[str, int]
    num_parameters: int
    largest_convolution: Moment


def trace_phase(phase: LonePhase, num_landmarks: int, kind: str) -> PhaseTrace:
    """Trace one training and one validation step of a phase on a `kind` of device, "cpu" or "cuda".

    This machine may lack it. The trace uses the CPU's float16 autocast for mixed precision; its tensors are
    as wide as CUDA's.
    """
    batch_size = next(prime for prime in TRACED_BATCHES if num_landmarks % prime)
    has_onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    followed = FollowStorages(copies_in_convolutions=kind == "cpu" and has_onednn)
    with FakeTensorMode(), followed:
        trainer = phase.build_trainer(_PlacedNetwork(phase.build_network()))
        trainer.state.network.train()
        if kind == "cuda":
            _update_as_cuda_does(trainer)
        with followed.elsewhere() if kind == "cuda" else nullcontext():
            batch = _place_batch(kind, phase.make_training_batch(batch_size))
        num_before = len(followed.order)
        # the second batch of a group finds the first one's gradients
        trainer.train_step([batch] * min(2, trainer.options.accumulation))
        num_trained = len(followed.order)
        del batch
        with followed.elsewhere() if kind == "cuda" else nullcontext():
            batch = _place_batch(kind, phase.make_validation_batch(batch_size))
        run_validation_step(trainer, batch)
        order = tuple(followed.order)
        return PhaseTrace(
            lifetimes=Lifetimes(
                [_as_moment(batch_size, num_bytes) for num_bytes in followed.sizes],
                before=order[:num_before],
                training=order[num_before:num_trained],
                validation=order[num_trained:],
            ),
            held=_held_between_steps(trainer),
            num_parameters=sum(
                weight.numel() for weight in trainer.state.network.parameters() if weight.requires_grad
            ),
            largest_convolution=max(
                (_sum(batch_size, sizes) for sizes in followed.convolutions),
                key=lambda moment: moment.bytes_at(batch_size),
            ),
        )


def _as_moment(batch_size: int, num_bytes: int) -> Moment:
    """Split a size at a batch: all of it grows with the batch if it is a multiple, else none."""
    share, rest = divmod(num_bytes, batch_size)
    return Moment(num_bytes, 0) if rest else Moment(0, share)


def _sum(batch_size: int, sizes: Sequence[int]) -> Moment:
    moments = [_as_moment(batch_size, num_bytes) for num_bytes in sizes]
    return Moment(sum(m.constant_bytes for m in moments), sum(m.bytes_per_image for m in moments))


def _update_as_cuda_does(trainer: Trainer) -> None:
    """Let AdamW update all weights at once, with a temporary copy of them; on a CPU it updates one by one."""
    for group in trainer.state.optimizer.param_groups:
        group["foreach"] = True


def _place_batch(kind: str, batch: Batch) -> Batch:
    return _HostBatch(*batch) if kind == "cuda" else batch


class _HostBatch(Batch):
    """A batch in main memory: what the step needs is copied to the GPU, also in a trace without one."""

    def to(self, device: torch.device) -> Batch:
        moved = Batch(*self).to(device)
        images, points = moved.images, moved.points_xy_input
        if images is self.images:
            images = images.clone()
        return moved._replace(images=images, points_xy_input=points.clone())


def _held_between_steps(trainer: Trainer) -> dict[str, int]:
    """Return the bytes that are alive between the steps, by name."""
    states = [value for state in trainer.state.optimizer.state.values() for value in state.values()]
    return {
        "weights": _count_bytes(_tensors(trainer.state.network)),
        "averaged_weights": _count_bytes(_tensors(trainer.state.ema_network)),
        "optimizer_states": _count_bytes([value for value in states if isinstance(value, Tensor)]),
    }


def _tensors(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]


def _count_bytes(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


class _PlacedNetwork(nn.Module):
    """A network of fake weights in the memory format of the Trainer.

    `Module.to` and `deepcopy` exchange the storage inside a parameter, which fake tensors refuse; here whole
    parameters are exchanged.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        for module in network.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                if parameter.ndim == 4:
                    moved = parameter.detach().to(memory_format=torch.channels_last)
                    setattr(module, name, nn.Parameter(moved, parameter.requires_grad))

    def forward(self, images: Tensor) -> Any:
        return self.network(images)

    def to(self, *_args: Any, **_kwargs: Any) -> _PlacedNetwork:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> _PlacedNetwork:
        for parameter in self.parameters():
            memo[id(parameter)] = nn.Parameter(torch.empty_like(parameter), parameter.requires_grad)
        for buffer in self.buffers():
            memo[id(buffer)] = torch.empty_like(buffer)  # there are no values to copy
        return _PlacedNetwork(copy.deepcopy(self.network, memo))


class FollowStorages(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A record of when storages are allocated and released under this mode; see `Lifetimes` for their order.

    If a step reads a value (`.item()`), which fake tensors do not have, it gets that of a normal step: all is
    finite, and no gradient overflows.
    """

    def __init__(self, copies_in_convolutions: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.alive_bytes = 0
        self.sizes: list[int] = []
        self.order: list[int] = []
        self.convolutions: list[tuple[int, int, int]] = []  # bytes of input, weights and output
        self._copies_in_convolutions = copies_in_convolutions
        self._instructions = cpu_instructions()
        self._seen: weakref.WeakKeyDictionary[Any, None] = weakref.WeakKeyDictionary()
        self._is_elsewhere = False
        self._overflow: Tensor | None = None

    @contextmanager
    def elsewhere(self) -> Iterator[None]:
        """Leave out what is allocated in this block, which is in another memory."""
        self._is_elsewhere = True
        try:
            yield
        finally:
            self._is_elsewhere = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operator, or skip one that allocates nothing, and note the storages of its outputs."""
        if func in (aten._local_scalar_dense.default, aten.item.default):  # the latter in inference mode
            return self._answer(args[0])
        if func is torch.ops.prim.device.default:
            return args[0].fake_device  # as the fake tensor's own dispatch has it, without its cost
        if func is aten._amp_foreach_non_finite_check_and_unscale_.default:
            self._overflow = args[1]
        name = func.overloadpacket.__name__
        if name in IN_PLACE:
            # no storage is allocated or released, and there are no values: this saves half the time
            return args[0]
        if name.startswith("_foreach_") and name.endswith("_"):
            return None
        if func is aten.lift_fresh.default:
            # `torch.tensor(0.0)`: as large with no value, at a fifth of the cost
            outputs = torch.empty(args[0].shape, dtype=args[0].dtype)
        else:
            outputs = func(*args, **(kwargs or {}))
        for output in [outputs] if isinstance(outputs, Tensor) else tree_leaves(outputs):
            if isinstance(output, Tensor):
                self._note(output.untyped_storage())
        if func in (aten.convolution.default, aten.conv2d.default):  # the latter in inference mode
            self.convolutions.append(tuple(t.untyped_storage().nbytes() for t in (*args[:2], outputs)))
            self._note_copies(args[1], 1)
        elif func is aten.convolution_backward.default:
            num_copies = _copies_in_backward(args[1], args[2], self._instructions, torch.get_num_threads())
            self._note_copies(args[2], num_copies)
        return outputs

    def _answer(self, tensor: Tensor) -> bool | float:
        if tensor.dtype is torch.bool:
            return True
        return 0.0 if tensor is self._overflow else 1.0

    def _note(self, storage: torch.UntypedStorage) -> None:
        if storage in self._seen:
            return
        self._seen[storage] = None
        if not self._is_elsewhere and storage.nbytes():
            weakref.finalize(storage, self._forget, self._add(storage.nbytes())).atexit = False

    def _note_copies(self, weights: Tensor, num_copies: int) -> None:
        """Note oneDNN's copies of the weights of a convolution in its own layout, or of their gradient.

        Each copy is gone when the operator returns. oneDNN's scratchpads of some KiB for each thread are left
        out, as are its other ways with single small images.
        """
        if self._copies_in_convolutions:
            copies = [self._add(weights.untyped_storage().nbytes()) for _ in range(num_copies)]
            for number in copies:
                self._forget(number)

    def _add(self, num_bytes: int) -> int:
        number = len(self.sizes)
        self.sizes.append(num_bytes)
        self.order.append(number)
        self.alive_bytes += num_bytes
        return number

    def _forget(self, number: int) -> None:
        self.order.append(~number)
        self.alive_bytes -= self.sizes[number]


def _copies_in_backward(images: Tensor, weights: Tensor, instructions: Set[str], num_threads: int) -> int:
    """Count the copies of a convolution's weights that oneDNN holds in its backward pass beside the gradient.

    Its kernels hold two: the gradient in its own layout, and then that in ours; in bfloat16 the second is the
    sum of the gradient in float32, as large as two copies while the other is not there yet. If it has no
    kernel of its own it multiplies matrices, and takes for the sum of each thread four times the weights (a
    size in bytes that it takes for a number of floats), or of one thread alone if those would take a GiB:
    on a CPU without AVX-512 if the map (..., H, W) is lower than its kernel, as at the bottom of a
    network, and everywhere on one without AVX2.

    Read from oneDNN's descriptors for each of these instruction sets (torch 2.13, oneDNN 3.12). Not counted
    is what further threads take with AVX-512 and AMX: sums of their own if the batch is divided among
    them, which is not worth it if there are many weights, and their buffers.
    """
    multiplies = images.shape[-2] < weights.shape[-2] or instructions == {"sse41"}
    if "avx512" in instructions or not multiplies:
        return 2
    one_thread_bytes = GEMM_COPIES * weights.untyped_storage().nbytes()
    return GEMM_COPIES * (num_threads if num_threads * one_thread_bytes < GEMM_LIMIT_BYTES else 1)
