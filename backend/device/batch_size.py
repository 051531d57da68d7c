"""Which batch fits: free memory and a prediction in, a recommendation with its reason out.

Imports torch only when it has to predict, so that a dashboard can import this. Knows no screen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from backend.config import SIZE_MULTIPLE, Choice, RunConfig, Settings
from backend.data.image_store import SHARE_OF_FREE_MEMORY
from backend.device.gpu import GpuReading, read_gpus
from backend.device.host import read_memory
from backend.device.machine import cpu_title
from backend.errors import UserError
from backend.geometry import Size

if TYPE_CHECKING:
    from backend.device.memory import StepMemory

GIB = 2**30
MIN_BATCH = 2  # batch normalisation cannot use a lone image
MAX_BATCH = 64  # beyond, an epoch has too few steps; who wants more sets it
SHARE_OF_IMAGES = 10
MIN_RESERVE_BYTES = int(0.6 * GIB)
RESERVE_SHARE = 0.1


@dataclass(frozen=True)
class DeviceMemory:
    """A device's memory now. `free_bytes` is None where nobody could say."""

    title: str
    total_bytes: int | None
    free_bytes: int | None


@dataclass(frozen=True)
class Recommendation:
    """The batch that fits (None: not even two images do), why, and the bytes predicted for some batches."""

    batch_size: int | None
    reason: str
    predicted_bytes: Mapping[int, int]
    terms: Mapping[str, int] = field(default_factory=dict)


def recommend_batch_size(
    *,
    bytes_per_image: float,
    constant_bytes: float,
    free_bytes: int,
    total_bytes: int,
    num_images: int | None = None,
    floor_bytes: int = 0,
    reserve_bytes: int | None = None,
    image_hw: Size | None = None,
    terms: Mapping[str, int] | None = None,
) -> Recommendation:
    """The largest sensible batch that leaves the reserve free.

    A batch of B needs `constant_bytes + B * bytes_per_image`, but never less than `floor_bytes` (the update of
    the weights). Sensible is at least 2, at most 64, and at most a tenth of `num_images`, the training images,
    where their number is known. The reserve is `reserve_bytes`, or 0.6 GiB or a tenth of `total_bytes`, whichever
    is more. Where nothing fits, the reason names the size that would, if `image_hw` is given.
    """
    need = _Need(bytes_per_image, constant_bytes, floor_bytes)
    reserve = _reserve(total_bytes) if reserve_bytes is None else reserve_bytes
    cap, cap_reason = _largest_sensible(num_images)
    fitting = [size for size in range(MIN_BATCH, cap + 1) if need.at(size) <= free_bytes - reserve]
    best = fitting[-1] if fitting else None
    if best is None:
        reason = (
            f"not even {MIN_BATCH} images fit: {_gib(need.at(MIN_BATCH))} GiB needed, {_gib(free_bytes)} GiB free "
            f"less a reserve of {_gib(reserve)} GiB; {need.cure(free_bytes - reserve, image_hw)}"
        )
    else:
        more = f"{best + 1} would leave less than the reserve of {_gib(reserve)} GiB"
        reason = f"{best}: {_gib(need.at(best))} of {_gib(free_bytes)} GiB free; "
        reason += cap_reason if best == cap else more
    return Recommendation(best, reason, need.table(best or 1), terms or {})


@dataclass(frozen=True)
class _Need:
    """The bytes that a batch needs."""

    bytes_per_image: float
    constant_bytes: float
    floor_bytes: float

    def at(self, batch_size: int) -> int:
        return round(max(self.floor_bytes, self.constant_bytes + self.bytes_per_image * batch_size))

    def cure(self, budget_bytes: int, image_hw: Size | None) -> str:
        """What would fit into a budget: activations grow with the image's area, everything else does not."""
        room = budget_bytes - self.constant_bytes
        if image_hw is None or self.floor_bytes > budget_bytes or room <= 0:
            return "choose another model, or free some memory"
        shrink = math.sqrt(room / (MIN_BATCH * self.bytes_per_image))
        height, width = (int(side * shrink) // SIZE_MULTIPLE * SIZE_MULTIPLE for side in image_hw)
        if min(height, width) < SIZE_MULTIPLE:
            return "choose another model, or free some memory"
        return f"images of about {height} x {width} would fit, or another model"

    def table(self, batch_size: int) -> dict[int, int]:
        """For the powers of two up to the largest sensible batch, and for one batch more."""
        powers = [2**power for power in range(MAX_BATCH.bit_length())]
        return {size: self.at(size) for size in sorted({*powers, batch_size})}


def _largest_sensible(num_images: int | None) -> tuple[int, str]:
    if num_images is None or num_images // SHARE_OF_IMAGES >= MAX_BATCH:
        return MAX_BATCH, f"more than {MAX_BATCH} would leave an epoch too few steps"
    tenth = num_images // SHARE_OF_IMAGES
    if tenth <= MIN_BATCH:
        return (
            MIN_BATCH,
            f"the least that batch normalisation can use, with only {num_images} training images",
        )
    return tenth, f"more than a tenth of the {num_images} training images would leave an epoch too few steps"


def _reserve(total_bytes: int) -> int:
    return max(MIN_RESERVE_BYTES, round(RESERVE_SHARE * total_bytes))


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / GIB:.1f}"


def recommend_for_memory(
    need: StepMemory,
    memory: DeviceMemory,
    *,
    device: str,
    image_hw: Size,
    num_images: int | None = None,
) -> Recommendation:
    """`recommend_batch_size` for a traced step on a device. `memory.free_bytes` has to be known.

    In main memory (device "cpu") the images that were read need room beside the training.
    """
    assert memory.free_bytes is not None
    total_bytes = memory.total_bytes or memory.free_bytes
    store_bytes = round(SHARE_OF_FREE_MEMORY * memory.free_bytes) if device == "cpu" else 0
    bytes_per_image = need.bytes_at(MAX_BATCH) - need.bytes_at(MAX_BATCH - 1)
    return recommend_batch_size(
        bytes_per_image=bytes_per_image,
        constant_bytes=need.bytes_at(MAX_BATCH) - MAX_BATCH * bytes_per_image,
        floor_bytes=need.bytes_at(1),
        free_bytes=memory.free_bytes,
        total_bytes=total_bytes,
        num_images=num_images,
        reserve_bytes=max(_reserve(total_bytes), store_bytes),
        image_hw=image_hw,
        terms=need.terms_at(MIN_BATCH),
    )


def read_device_memory(device: str, gpus: tuple[GpuReading, ...] | None = None) -> DeviceMemory:
    """The memory of "cpu" or "cuda:N" now; `gpus` are NVML's readings where they were made already.

    Where NVML does not know the GPU, torch is asked, which opens a CUDA context. Raises UserError where torch
    does not know it either.
    """
    if device == "cpu":
        host = read_memory()
        return DeviceMemory(cpu_title(), host.total_bytes, host.free_bytes)
    number = int(device.partition(":")[2] or 0)
    for gpu in read_gpus() if gpus is None else gpus:
        if gpu.index == number and gpu.free_bytes is not None:
            return DeviceMemory(gpu.title, gpu.total_bytes, gpu.free_bytes)
    return _ask_torch(number)


def _ask_torch(number: int) -> DeviceMemory:
    import torch

    if number >= torch.cuda.device_count():
        raise UserError(
            f"there is no cuda:{number} here", field="device", cure="choose cpu, or give --free_gib"
        )
    free_bytes, total_bytes = torch.cuda.mem_get_info(number)
    return DeviceMemory(torch.cuda.get_device_name(number), total_bytes, free_bytes)


def recommend_for_settings(settings: Settings, device: str) -> Choice:
    """The batch for `--batch_size auto`: reads the data set, the free memory, and traces a step.

    Raises UserError where not even two images fit, and for a data set that cannot be read.
    """
    from backend.choices import choose_dataset
    from backend.device.memory import predict_step_memory
    from backend.training.build import build_splits

    splits = build_splits(RunConfig(settings, {"dataset_path": choose_dataset(settings)}))
    need = predict_step_memory(settings, len(splits.annotations.landmark_names), device)
    found = recommend_for_memory(
        need,
        read_device_memory(device),
        device=device,
        image_hw=settings.image_size,
        num_images=len(splits.train),
    )
    if found.batch_size is None:
        raise UserError(found.reason, field="batch_size")
    return Choice(found.batch_size, found.reason)
