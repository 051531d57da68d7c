"""Which batch fits: free memory and a prediction in, a recommendation with its reason out.

Imports torch only when it has to predict or to ask a silent driver's GPU, so that a dashboard can import this.
Knows no screen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import get_args

from backend.config import SIZE_MULTIPLE, Choice, ModelName, RunConfig, Settings
from backend.data.image_store import SHARE_OF_FREE_MEMORY
from backend.device.gpu import GpuReading, read_gpus
from backend.device.host import read_memory
from backend.device.machine import cpu_title
from backend.device.measured import NOTHING_MEASURED, Bench, Measured, identify
from backend.device.memory import StepMemory, predict_step_memory
from backend.errors import UserError
from backend.geometry import Size

GIB = 2**30
MIN_BATCH = 2  # batch normalisation cannot use a lone image
MAX_BATCH = 64  # beyond, an epoch has too few steps; who wants more sets it
SHARE_OF_IMAGES = 10
MIN_RESERVE_BYTES = int(0.6 * GIB)
RESERVE_SHARE = 0.1
SMALLER_SIDES = (0.75, 0.5, 0.25)  # of the image asked for, where not even two fit

BytesAt = Callable[[int], int]


@dataclass(frozen=True)
class DeviceMemory:
    """A device's memory now. `total_bytes` and `free_bytes` are None where nobody could say."""

    title: str
    total_bytes: int | None
    free_bytes: int | None


@dataclass(frozen=True)
class Batching:
    """Images a batch, and batches an optimizer step."""

    batch_size: int
    gradient_accumulation_steps: int = 1


@dataclass(frozen=True)
class Recommendation:
    """The batch that fits (None: not even two images do, or the free memory is unknown), why, and the bytes predicted
    for some batches. `instead` keeps a step's images where the batch asked for does not fit but smaller ones do."""

    batch_size: int | None
    reason: str
    predicted_bytes: Mapping[int, int]
    terms: Mapping[str, int] = field(default_factory=dict)
    reserve_bytes: int | None = None
    instead: Batching | None = None


def recommend_batch_size(
    *,
    bytes_per_image: float,
    constant_bytes: float,
    free_bytes: int | None,
    total_bytes: int | None,
    num_images: int | None = None,
    floor_bytes: int = 0,
    reserve_bytes: int | None = None,
    image_hw: Size | None = None,
    terms: Mapping[str, int] | None = None,
    wanted: Batching | None = None,
) -> Recommendation:
    """The largest sensible batch that leaves the reserve free, where a need grows along a line.

    A batch of B needs `constant_bytes + B * bytes_per_image`, but never less than `floor_bytes` (the update of
    the weights). For the rest see `recommend`. Where nothing fits, the reason names the size that would, if
    `image_hw` is given.
    """
    line = _Line(bytes_per_image, constant_bytes, floor_bytes)
    memory = DeviceMemory("the device", total_bytes, free_bytes)
    found = recommend(
        line.at, memory, num_images=num_images, reserve_bytes=reserve_bytes, terms=terms, wanted=wanted
    )
    if found.batch_size is None and found.reserve_bytes is not None and free_bytes is not None:
        return replace(
            found, reason=f"{found.reason}; {line.cure(free_bytes - found.reserve_bytes, image_hw)}"
        )
    return found


def recommend(
    bytes_at: BytesAt,
    memory: DeviceMemory,
    *,
    num_images: int | None = None,
    reserve_bytes: int | None = None,
    terms: Mapping[str, int] | None = None,
    measured: Measured = NOTHING_MEASURED,
    wanted: Batching | None = None,
) -> Recommendation:
    """The largest sensible batch that leaves the reserve free; `bytes_at(batch)` is what one needs.

    Sensible is at least 2, at most 64, at most a tenth of `num_images`, the training images, where their number is
    known, and, once it was measured, no more than where images/s stops growing. The reserve is `reserve_bytes`, or
    0.6 GiB or a tenth of the total, whichever is more. What was measured corrects what was predicted.
    """
    need = measured.correct(bytes_at)
    known = dict(terms or {})
    if memory.free_bytes is None:
        reason = f"how much memory is free on {memory.title} is unknown: neither the driver nor torch says"
        return Recommendation(None, reason, _table(need, wanted), known)
    reserve = _reserve(memory.total_bytes or memory.free_bytes) if reserve_bytes is None else reserve_bytes
    budget = memory.free_bytes - reserve
    cap, cap_reason = _largest_sensible(num_images, measured)
    fitting = [size for size in range(MIN_BATCH, MAX_BATCH + 1) if need(size) <= budget]
    best = max((size for size in fitting if size <= cap), default=None)
    if best is None:
        reason = (
            f"not even {MIN_BATCH} images fit: {_gib(need(MIN_BATCH))} GiB needed, {_gib(memory.free_bytes)} GiB "
            f"free less a reserve of {_gib(reserve)} GiB"
        )
        return Recommendation(None, reason, _table(need, wanted), known, reserve)
    more = f"{best + 1} would leave less than the reserve of {_gib(reserve)} GiB"
    reason = f"{best}: {_gib(need(best))} of {_gib(memory.free_bytes)} GiB free; "
    reason += cap_reason if best == cap else more
    instead = None
    if wanted is not None and need(wanted.batch_size) > budget:
        # the gradients of the batches before, as large as the weights, lie beside the next one's activations
        beside = known.get("weights", 0) if wanted.gradient_accumulation_steps == 1 else 0
        instead = _accumulate(wanted, [size for size in fitting if need(size) + beside <= budget])
        reason += _not_fitting(wanted, need(wanted.batch_size), instead)
    return Recommendation(best, reason, _table(need, wanted), known, reserve, instead)


def _accumulate(wanted: Batching, fitting: list[int]) -> Batching | None:
    """The fewest batches that fit and keep the images of a step; None where no batch fits beside their gradients.

    Equal parts are preferred (16 as 2 x 8) unless they take twice as many; else the parts hold a few images more.
    """
    if not fitting:
        return None
    fewest = math.ceil(wanted.batch_size / fitting[-1])
    parts = range(fewest, min(2 * fewest, wanted.batch_size // MIN_BATCH + 1))
    steps = next((n for n in parts if wanted.batch_size % n == 0), fewest)
    part = math.ceil(wanted.batch_size / steps)
    return Batching(part, steps * wanted.gradient_accumulation_steps)


def _not_fitting(wanted: Batching, needed_bytes: int, instead: Batching | None) -> str:
    words = f"; a batch of {wanted.batch_size} needs {_gib(needed_bytes)} GiB and does not fit"
    if instead is None:
        return words
    images = instead.batch_size * instead.gradient_accumulation_steps
    return (
        f"{words}: {instead.batch_size} with an accumulation of {instead.gradient_accumulation_steps} "
        f"takes {images} images a step"
    )


@dataclass(frozen=True)
class _Line:
    """A need that grows along a line, above a floor."""

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


def _table(need: BytesAt, wanted: Batching | None) -> dict[int, int]:
    """For every batch up to the largest sensible one, and for the one asked for."""
    sizes = {*range(1, MAX_BATCH + 1), *([wanted.batch_size] if wanted else [])}
    return {size: need(size) for size in sorted(sizes)}


def _largest_sensible(num_images: int | None, measured: Measured) -> tuple[int, str]:
    caps = [(MAX_BATCH, f"more than {MAX_BATCH} would leave an epoch too few steps")]
    if num_images is not None:
        caps.append(_largest_share(num_images))
    if measured.plateau is not None:
        caps.append((max(MIN_BATCH, measured.plateau), "larger batches are no faster, as measured"))
    return min(caps, key=lambda cap: cap[0])


def _largest_share(num_images: int) -> tuple[int, str]:
    tenth = num_images // SHARE_OF_IMAGES
    if tenth <= MIN_BATCH:
        why = f"the least that batch normalisation can use, with only {num_images} training images"
        return MIN_BATCH, why
    return tenth, f"more than a tenth of the {num_images} training images would leave an epoch too few steps"


def _reserve(total_bytes: int) -> int:
    return max(MIN_RESERVE_BYTES, round(RESERVE_SHARE * total_bytes))


def reserve_on(device: str, memory: DeviceMemory) -> int | None:
    """What a training must leave free on a device; None where its free memory is unknown.

    In main memory (device "cpu") the images that were read need room beside the training.
    """
    if memory.free_bytes is None:
        return None
    store_bytes = round(SHARE_OF_FREE_MEMORY * memory.free_bytes) if device == "cpu" else 0
    return max(_reserve(memory.total_bytes or memory.free_bytes), store_bytes)


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / GIB:.1f}"


def batching_of(settings: Settings) -> Batching | None:
    """The batch that the settings ask for; None where they leave it open."""
    if settings.batch_size == "auto":
        return None
    return Batching(settings.batch_size, settings.gradient_accumulation_steps)


def recommend_for_memory(
    need: StepMemory,
    memory: DeviceMemory,
    *,
    device: str,
    num_images: int | None = None,
    measured: Measured = NOTHING_MEASURED,
    wanted: Batching | None = None,
) -> Recommendation:
    """`recommend` for a traced step on a device, with the terms of the batch that it recommends."""
    found = recommend(
        need.bytes_at,
        memory,
        num_images=num_images,
        reserve_bytes=reserve_on(device, memory),
        terms=need.terms_at(MIN_BATCH),
        measured=measured,
        wanted=wanted,
    )
    return replace(found, terms=need.terms_at(found.batch_size or MIN_BATCH))


def find_what_fits(settings: Settings, num_landmarks: int, device: str, budget_bytes: int) -> str:
    """Settings near these with which two images fit into a budget, each of them predicted; some seconds."""

    def need(changed: Settings) -> int:
        return predict_step_memory(changed, num_landmarks, device).bytes_at(MIN_BATCH)

    found: list[str] = []
    for height, width in _smaller_sizes(settings.image_size):
        needed = need(settings.model_copy(update={"image_size": (height, width)}))
        if needed <= budget_bytes:
            found.append(f"images of {height} x {width} ({_gib(needed)} GiB)")
            break
    others = [model for model in get_args(ModelName) if model != settings.model]
    needs = {model: need(settings.model_copy(update={"model": model})) for model in others}
    least = min(needs, key=lambda model: needs[model])
    if needs[least] <= budget_bytes:
        found.append(f"the model {least} ({_gib(needs[least])} GiB)")
    if not found:
        return "no smaller image and no other model fits either: free some memory"
    return f"{' or '.join(found)} would fit"


def _smaller_sizes(image_hw: Size) -> Iterator[Size]:
    seen: set[Size] = set()
    for share in SMALLER_SIDES:
        height, width = (int(side * share) // SIZE_MULTIPLE * SIZE_MULTIPLE for side in image_hw)
        if min(height, width) >= SIZE_MULTIPLE and (height, width) not in seen:
            seen.add((height, width))
            yield height, width


def read_device_memory(device: str, gpus: tuple[GpuReading, ...] | None = None) -> DeviceMemory:
    """The memory of "cpu" or "cuda:N" now; `gpus` are NVML's readings where they were made already.

    Where NVML does not know the GPU, torch is asked, which opens a CUDA context; where that fails too, the bytes
    are None. Raises UserError for a GPU that neither of them knows.
    """
    if device == "cpu":
        host = read_memory()
        return DeviceMemory(cpu_title(), host.total_bytes, host.free_bytes)
    number = int(device.partition(":")[2] or 0)
    listed = next((gpu for gpu in (read_gpus() if gpus is None else gpus) if gpu.index == number), None)
    if listed is not None and listed.free_bytes is not None:
        return DeviceMemory(listed.title, listed.total_bytes, listed.free_bytes)
    return _ask_torch(number, listed)


def _ask_torch(number: int, listed: GpuReading | None) -> DeviceMemory:
    import torch

    try:
        if number < torch.cuda.device_count():
            free_bytes, total_bytes = torch.cuda.mem_get_info(number)
            return DeviceMemory(torch.cuda.get_device_name(number), total_bytes, free_bytes)
    except (RuntimeError, AssertionError):  # CUDA cannot start: torch raises the one or the other
        return DeviceMemory(listed.title if listed else f"cuda:{number}", None, None)
    if listed is not None:
        return DeviceMemory(listed.title, listed.total_bytes, None)
    raise UserError(f"there is no cuda:{number} here", field="device", cure="choose cpu, or give --free_gib")


def recommend_for_settings(settings: Settings, device: str) -> Choice:
    """The batch for `--batch_size auto`: reads the data set, the free memory, and traces a step.

    Raises UserError where not even two images fit, where the free memory is unknown, and for a data set that
    cannot be read.
    """
    from backend.choices import choose_dataset
    from backend.training.build import build_splits

    splits = build_splits(RunConfig(settings, {"dataset_path": choose_dataset(settings)}))
    num_landmarks = len(splits.annotations.landmark_names)
    memory = read_device_memory(device)
    need = predict_step_memory(settings, num_landmarks, device)
    measured = Bench(settings, num_landmarks, device, identify(device, read_gpus())).read()
    found = recommend_for_memory(need, memory, device=device, num_images=len(splits.train), measured=measured)
    if found.batch_size is None:
        cure = "give a number"
        if memory.free_bytes is not None and found.reserve_bytes is not None:
            budget = memory.free_bytes - found.reserve_bytes
            cure = find_what_fits(settings, num_landmarks, device, budget)
        raise UserError(found.reason, field="batch_size", cure=cure)
    return Choice(found.batch_size, found.reason)
