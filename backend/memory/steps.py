"""Run single training and validation steps on random inputs; used by the memory tracer and the benchmark."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from backend.config import RunConfig
from backend.data.dataset import Batch
from backend.training.build import (
    Schedule,
    build_network,
    build_refiner,
    build_refiner_task,
    build_task,
    build_trainer,
    first_schedule,
    refine_schedule,
)
from backend.training.engine import Trainer
from backend.training.events import Event
from backend.training.heatmaps import decode_heatmaps
from backend.training.loop_state import Request
from backend.training.protocols import Metrics
from backend.training.task import LandmarkTask

NO_DATA = cast(Any, [None])  # the training data of a trainer that is given its batches one by one


@dataclass(frozen=True)
class LonePhase:
    """A phase whose steps are run one by one on random inputs.

    The refinement trains on more crops per image than it validates on.
    """

    build_network: Callable[[], nn.Module]
    build_trainer: Callable[[nn.Module], Trainer]
    make_training_batch: Callable[[int], Batch]
    make_validation_batch: Callable[[int], Batch]


def first_phase(config: RunConfig, num_landmarks: int) -> LonePhase:
    """Build the phase of the chosen network, on whole images."""
    task = _LoneTask(**vars(build_task(config, _placeholder_names(num_landmarks))))
    image = (3, *task.input_hw)
    return _lone_phase(
        config, task, first_schedule(config.settings), partial(build_network, config), image, image
    )


def refine_phase(config: RunConfig, num_landmarks: int) -> LonePhase:
    """Build the phase of the second network, on crops; its batch counts images, each with all its crops."""
    task = _LoneTask(**vars(build_refiner_task(config, _placeholder_names(num_landmarks))))
    crops = (num_landmarks, 3, *task.input_hw)
    drawn = (config.settings.num_refiners * num_landmarks, *crops[1:])
    return _lone_phase(
        config, task, refine_schedule(config.settings), partial(build_refiner, config), drawn, crops
    )


def _lone_phase(
    config: RunConfig,
    task: LandmarkTask,
    schedule: Schedule,
    build: Callable[[int], nn.Module],
    training_shape: Sequence[int],
    validation_shape: Sequence[int],
) -> LonePhase:
    """Build a phase; `build(num_landmarks)` builds its network, the shapes are those of one image of a batch.

    If memory runs out the steps fail: what fits only in smaller parts does not fit.
    """
    num_landmarks = len(task.landmark_names)
    observer = cast(Any, _NoObserver())
    config = replace(config, settings=config.settings.model_copy(update={"on_oom": "stop"}))
    return LonePhase(
        build_network=lambda: build(num_landmarks),
        build_trainer=lambda network: build_trainer(config, schedule, network, task, NO_DATA, None, observer),
        make_training_batch=lambda size: make_noise_batch((size, *training_shape), num_landmarks),
        make_validation_batch=lambda size: make_noise_batch((size, *validation_shape), num_landmarks),
    )


def run_validation_step(trainer: Trainer, batch: Batch) -> None:
    """Run the engine's validation on this batch alone; its points are decoded, but not scored."""
    trainer.passes.validate(cast(Any, _OneBatch(batch)))


def make_noise_batch(images_shape: Sequence[int], num_landmarks: int) -> Batch:
    """Make random images, or crops, of a shape, with landmarks anywhere in the input."""
    batch_size, (height, width) = images_shape[0], images_shape[-2:]
    size_xy = torch.tensor([width - 1.0, height - 1.0])
    are_crops = len(images_shape) == 5
    num_points, num_affines = (images_shape[1], images_shape[1]) if are_crops else (num_landmarks, 1)
    return Batch(
        images=torch.randn(*images_shape),
        points_xy_input=torch.rand(batch_size, num_points, 2) * size_xy,
        points_xy_image=torch.zeros(batch_size, num_points, 2, dtype=torch.float64),
        affine_input_to_image=torch.zeros(batch_size, num_affines, 2, 3, dtype=torch.float64),
        mm_per_px_xy=torch.ones(batch_size, 2, dtype=torch.float64),
        rows=torch.arange(batch_size),
    )


def _placeholder_names(num_landmarks: int) -> list[str]:
    return [str(number) for number in range(num_landmarks)]


class _NoObserver:
    """A stand-in for a trainer's observer, which requests nothing."""

    def poll(self) -> set[Request]:
        return set()

    def on_event(self, _event: Event) -> None:
        pass


@dataclass(frozen=True)
class _OneBatch:
    """A stand-in for the batches of a data set."""

    batch: Batch

    @property
    def largest_batch(self) -> int:
        return len(self.batch.rows)

    def iterate_epoch(self, _epoch: int) -> Iterator[Batch]:
        return iter([self.batch])


class _LoneTask(LandmarkTask):
    """The run's task without reading numbers from tensors, which fake tensors lack.

    Its scorer stops before results would leave the device.
    """

    def count_targets(self, batch: Batch) -> int:
        return batch.points_xy_input[..., 0].numel()

    def new_scorer(self) -> Any:
        return _LoneScorer(self)


@dataclass(frozen=True)
class _LoneScorer:
    """The part of `LandmarkScorer` that computes on the device."""

    task: LandmarkTask

    def add(self, heatmaps: Tensor, _batch: Batch) -> None:
        decode_heatmaps(heatmaps, self.task.stride, self.task.decoder)
        maps = self.task.display_maps(heatmaps)
        _ = maps.amax((-2, -1)) - maps.mean((-2, -1))

    def metrics(self) -> Metrics:
        return {}
