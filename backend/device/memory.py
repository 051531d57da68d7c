"""How much memory one step of training needs, found without doing it: the engine's own step is run on fake
tensors, which have sizes but no data, and every storage is followed from its birth to its death.

The trace runs on the CPU at two batch sizes. Between them every moment of the step grows along a straight line,
so the need at any batch is the highest of these lines: the peak lies in the backward pass of a large batch, but
in the optimizer's update of a small one. What a trace cannot see is added by name, as constants below.

Left out: the rounding of CUDA's caching allocator (512 bytes a tensor, and its blocks), which the share for
workspace and fragmentation stands for. Must not know settings' defaults, screens or NVML.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from backend.config import Choice, RunConfig, Settings
from backend.data.dataset import Batch
from backend.training.build import (
    build_network,
    build_refiner,
    build_refiner_task,
    build_task,
    build_trainer,
    first_schedule,
    images_of_crops,
    refine_schedule,
)
from backend.training.engine import Trainer
from backend.training.heatmaps import decode_heatmaps
from backend.training.task import LandmarkTask

TRACED_BATCHES = (2, 4)  # not 1: at one image, torch may choose another memory layout
CUDA_CONTEXT_BYTES = 512 * 2**20  # a calibrated guess: driver context, cuDNN's and cuBLAS's kernels
WORKSPACE_SHARE = {"cuda": 0.10, "cpu": 0.05}  # a guess: convolutions' workspace and fragmentation

ONE_BATCH, NOBODY = cast(Any, [None]), cast(Any, None)  # a trainer's data and observer, where it has none

aten = torch.ops.aten


@dataclass(frozen=True)
class Moment:
    """A moment of a step: the bytes alive then are a constant and so many an image."""

    constant_bytes: float
    bytes_per_image: float

    def bytes_at(self, batch_size: float) -> float:
        return self.constant_bytes + self.bytes_per_image * batch_size


@dataclass(frozen=True)
class StepMemory:
    """What the steps of a training need. Of a step's moments only those are kept that are the highest at some batch.

    `terms` are named bytes; those named `..._per_image` grow with the batch, the others do not.
    """

    training: tuple[Moment, ...]
    validation: tuple[Moment, ...]
    terms: Mapping[str, int]
    refinement: tuple[Moment, ...] = ()  # its peak, which has a batch of its own

    def training_bytes(self, batch_size: int) -> int:
        """Peak of a training step, bytes."""
        return round(max(moment.bytes_at(batch_size) for moment in self.training))

    def validation_bytes(self, batch_size: int) -> int:
        """Peak of a validation step, bytes."""
        return round(max(moment.bytes_at(batch_size) for moment in self.validation))

    def bytes_at(self, batch_size: int) -> int:
        """What must fit on the device at this batch: the highest peak of all steps of all phases, all terms counted."""
        return round(max(moment.bytes_at(batch_size) for moment in self._moments))

    def terms_at(self, batch_size: int) -> dict[str, int]:
        """What `bytes_at` is made of, by name; these sum up to it."""
        named = {name: num for name, num in self.terms.items() if not name.endswith("_per_image")}
        named.pop("refinement", None)  # a peak of its own and no part of this one
        workspace = round(self.terms["workspace_per_image"] * batch_size)
        rest = self.bytes_at(batch_size) - sum(named.values()) - workspace
        return {**named, "workspace": workspace, "activations": rest}

    @property
    def steepest(self) -> Moment:
        """The moment that decides in a large batch: in the backward pass."""
        return self._moments[-1]

    @property
    def floor_bytes(self) -> int:
        """What any batch needs, however small: the height at which `steepest` takes over."""
        *others, steepest = self._moments
        if not others:
            return 0
        return round(steepest.bytes_at(_crossing(others[-1], steepest)))

    @property
    def refinement_bytes(self) -> int:
        """Peak of the refinement's steps, bytes; 0 for a run without."""
        return round(max((moment.constant_bytes for moment in self.refinement), default=0))

    @property
    def _moments(self) -> list[Moment]:
        return upper_envelope([*self.training, *self.validation, *self.refinement])


def predict_step_memory(settings: Settings, num_landmarks: int, device: str) -> StepMemory:
    """Trace one training and one validation step of each phase of a run.

    `device` is "cpu" or "cuda:N" and need not be there. Mixed precision counts on a GPU only, as in a run; the
    trace uses the CPU's float16 autocast, whose tensors are as wide as CUDA's. Takes one to four seconds.
    """
    kind = torch.device(device).type
    config = _config_for_trace(settings, kind)
    traces = _trace(first_phase(config, num_landmarks), kind, TRACED_BATCHES)
    workspace = WORKSPACE_SHARE[kind]
    context = CUDA_CONTEXT_BYTES if kind == "cuda" else 0
    training = [_with_unseen(m, workspace, context) for m in _moments([t.training for t in traces])]
    validation = [_with_unseen(m, workspace, context) for m in _moments([t.validation for t in traces])]
    activations = training[-1].bytes_per_image / (1 + workspace)
    terms = traces[0].fixed | {
        "activations_per_image": round(activations),
        "workspace_per_image": round(activations * workspace),
        "cuda_context": context,
    }
    refinement: tuple[Moment, ...] = ()
    if settings.refine:
        batch_size = images_of_crops(settings, num_landmarks)
        (trace,) = _trace(refine_phase(config, num_landmarks), kind, [batch_size])
        peak = max(*trace.training, *trace.validation)
        grown = (peak - sum(trace.fixed.values())) * workspace
        refinement = (Moment(peak + grown + context, 0.0),)
        terms["refinement"] = round(refinement[0].constant_bytes)
    return StepMemory(tuple(training), tuple(validation), terms, refinement)


def _config_for_trace(settings: Settings, kind: str) -> RunConfig:
    mixed_precision = settings.mixed_precision and kind == "cuda"
    return RunConfig(
        settings, {"device": Choice("cpu", "traced"), "mixed_precision": Choice(mixed_precision, "traced")}
    )


def _with_unseen(moment: Moment, workspace: float, context: int) -> Moment:
    return Moment(moment.constant_bytes + context, moment.bytes_per_image * (1 + workspace))


@dataclass(frozen=True)
class _Trace:
    """Bytes alive after each birth of a storage, at one batch size, and what stays alive between steps."""

    training: list[int]
    validation: list[int]
    fixed: dict[str, int]


@dataclass(frozen=True)
class LonePhase:
    """A phase whose steps are called one by one, on noise: without data, and nobody watching."""

    build_network: Callable[[], nn.Module]
    build_trainer: Callable[[nn.Module], Trainer]
    make_batch: Callable[[int], Batch]


def first_phase(config: RunConfig, num_landmarks: int) -> LonePhase:
    """The chosen network on whole images."""
    task = build_task(config, [str(number) for number in range(num_landmarks)])
    schedule = first_schedule(config.settings)
    return LonePhase(
        lambda: build_network(config, num_landmarks),
        lambda network: build_trainer(config, schedule, network, task, ONE_BATCH, None, NOBODY),
        lambda size: make_noise_batch((size, 3, *task.input_hw), num_landmarks),
    )


def refine_phase(config: RunConfig, num_landmarks: int) -> LonePhase:
    """The second network on crops; its batch counts images, each with all its crops."""
    task = build_refiner_task(config, [str(number) for number in range(num_landmarks)])
    schedule = refine_schedule(config.settings)
    return LonePhase(
        lambda: build_refiner(config, num_landmarks),
        lambda network: build_trainer(config, schedule, network, task, ONE_BATCH, None, NOBODY),
        lambda size: make_noise_batch((size, num_landmarks, 3, *task.input_hw), num_landmarks),
    )


def _trace(phase: LonePhase, kind: str, batch_sizes: Sequence[int]) -> list[_Trace]:
    followed = FollowStorages()
    with FakeTensorMode(), followed:
        trainer = phase.build_trainer(_PlacedNetwork(phase.build_network()))
        if kind == "cuda":
            _update_as_cuda_does(trainer)
        trainer.network.train()
        trainer._train_step([phase.make_batch(2)])  # makes AdamW's states
        return [_trace_steps(trainer, followed, phase.make_batch(size), kind) for size in batch_sizes]


def _trace_steps(trainer: Trainer, followed: FollowStorages, batch: Batch, kind: str) -> _Trace:
    # beside a GPU the collated batch lies in the host's memory, and only its copy in the GPU's
    elsewhere = _bytes_of(batch) if kind == "cuda" else 0
    with followed.recorded() as training:
        # the second batch of a group finds the first one's gradients
        trainer._train_step([batch] * min(2, trainer.options.accumulation))
    with followed.recorded() as validation:
        run_validation_step(trainer, batch)
    return _Trace(
        [n - elsewhere for n in training], [n - elsewhere for n in validation], _fixed_terms(trainer)
    )


def _update_as_cuda_does(trainer: Trainer) -> None:
    """On CUDA, AdamW updates all weights at once and holds a temporary copy of them; on a CPU one by one."""
    for group in trainer._optimizer.param_groups:
        group["foreach"] = True


@torch.inference_mode()
def run_validation_step(trainer: Trainer, batch: Batch) -> None:
    """As in `Trainer.validate`, up to where the points leave the device."""
    task = cast(LandmarkTask, trainer.task)
    maps = trainer.predict(batch)
    task.compute_loss(maps, batch)
    decode_heatmaps(maps, task.stride, task.decoder)


def make_noise_batch(images_shape: Sequence[int], num_landmarks: int) -> Batch:
    """Noise in the shape of a batch's images, its landmarks anywhere in the input."""
    batch_size, (height, width) = images_shape[0], images_shape[-2:]
    size_xy = torch.tensor([width - 1.0, height - 1.0])
    num_affines = num_landmarks if len(images_shape) == 5 else 1
    return Batch(
        images=torch.randn(*images_shape),
        points_xy_input=torch.rand(batch_size, num_landmarks, 2) * size_xy,
        points_xy_image=torch.zeros(batch_size, num_landmarks, 2, dtype=torch.float64),
        affine_input_to_image=torch.zeros(batch_size, num_affines, 2, 3, dtype=torch.float64),
        mm_per_px_xy=torch.ones(batch_size, 2, dtype=torch.float64),
        rows=torch.arange(batch_size),
    )


def _fixed_terms(trainer: Trainer) -> dict[str, int]:
    states = [value for state in trainer._optimizer.state.values() for value in state.values()]
    return {
        "weights": _bytes_of(_tensors_of(trainer.network)),
        "averaged_weights": _bytes_of(_tensors_of(trainer.ema_network)),
        "gradients": _bytes_of([p for p in trainer.network.parameters() if p.requires_grad]),
        "optimizer_states": _bytes_of([value for value in states if isinstance(value, Tensor)]),
    }


def _tensors_of(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]


def _bytes_of(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


class _PlacedNetwork(nn.Module):
    """A network of fake weights that lie as the Trainer wants them.

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
            memo[id(parameter)] = nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
        for buffer in self.buffers():
            memo[id(buffer)] = buffer.clone()
        return _PlacedNetwork(copy.deepcopy(self.network, memo))


class FollowStorages(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all storages that are alive and were born under this mode.

    Answers the few questions that a step asks of its values (`.item()`), which fake tensors do not have, as an
    untroubled step would: all is finite, and no gradient overflowed.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.alive_bytes = 0
        self._known: weakref.WeakKeyDictionary[Any, None] = weakref.WeakKeyDictionary()
        self._overflow: Tensor | None = None
        self._record: list[int] | None = None

    @contextmanager
    def recorded(self) -> Iterator[list[int]]:
        """The bytes alive at the start and after every birth, until the block ends."""
        self._record = record = [self.alive_bytes]
        try:
            yield record
        finally:
            self._record = None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is aten._local_scalar_dense.default:
            return self._answer(args[0])
        if func is aten._amp_foreach_non_finite_check_and_unscale_.default:
            self._overflow = args[1]
        outputs = func(*args, **(kwargs or {}))
        for output in tree_leaves(outputs):
            if isinstance(output, Tensor):
                self._note(output.untyped_storage())
        return outputs

    def _answer(self, tensor: Tensor) -> bool | float:
        if tensor.dtype is torch.bool:
            return True
        return 0.0 if tensor is self._overflow else 1.0

    def _note(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:
            return
        self._known[storage] = None
        self.alive_bytes += storage.nbytes()
        weakref.finalize(storage, self._forget, storage.nbytes()).atexit = False
        if self._record is not None:
            self._record.append(self.alive_bytes)

    def _forget(self, num_bytes: int) -> None:
        self.alive_bytes -= num_bytes


def _moments(records: Sequence[list[int]]) -> list[Moment]:
    """The lines through two traces, moment by moment; only those on top at some batch, by growing slope."""
    small, large = records
    assert len(small) == len(large), "both batches take the same steps"
    first, second = TRACED_BATCHES
    slopes = [(after - before) / (second - first) for before, after in zip(small, large, strict=True)]
    lines = {Moment(n - first * slope, slope) for n, slope in zip(small, slopes, strict=True)}
    return upper_envelope(sorted(lines, key=lambda m: m.bytes_per_image))


def upper_envelope(moments: Sequence[Moment]) -> list[Moment]:
    """Those that are the highest at some batch of at least 1, by growing slope."""
    top = [max(moments, key=lambda m: (m.bytes_at(1), m.bytes_per_image))]
    while steeper := [m for m in moments if m.bytes_per_image > top[-1].bytes_per_image]:
        top.append(min(steeper, key=lambda m: (_crossing(top[-1], m), -m.bytes_per_image)))
    return top


def _crossing(flat: Moment, steep: Moment) -> float:
    """The batch at which the steeper moment overtakes the flatter one."""
    return (flat.constant_bytes - steep.constant_bytes) / (steep.bytes_per_image - flat.bytes_per_image)
