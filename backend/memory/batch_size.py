"""Recommend a batch size, with the reasons, from the free memory and the memory that steps need.

Imports torch only to predict, or to query a GPU that the driver does not report, so that the page can import
it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import get_args

from backend.config import SIZE_MULTIPLE, Choice, ModelName, RunConfig, Settings
from backend.data.image_store import SHARE_OF_FREE_MEMORY
from backend.device.gpu import GpuReading, read_gpus
from backend.device.host import read_memory
from backend.device.machine import cpu_title
from backend.errors import UserError
from backend.geometry import Size
from backend.memory.benchmark_store import NOTHING_MEASURED, Bench, Measured, identify
from backend.memory.prediction import predict_step_memory
from backend.memory.reasons import CURES, GIB, Reason, in_english, in_gib, reason
from backend.memory.step_memory import ALLOCATOR_MARGIN, StepMemory

MIN_BATCH = 2  # batch normalization cannot use a single image
MAX_BATCH = 64  # larger ones leave too few steps per epoch; a user who wants more sets the batch size
SHARE_OF_IMAGES = 10
MIN_RESERVE_BYTES = int(0.6 * GIB)
RESERVE_SHARE = 0.1
SMALLER_SIDES = (0.75, 0.5, 0.25)  # shares of the requested image, tried if not even two fit

BytesAt = Callable[[int], int]


@dataclass(frozen=True)
class DeviceMemory:
    """A device's memory now. `total_bytes` and `free_bytes` are None if unknown."""

    title: str
    total_bytes: int | None
    free_bytes: int | None


@dataclass(frozen=True)
class Batching:
    """Images per batch, and batches per optimizer step."""

    batch_size: int
    gradient_accumulation_steps: int = 1


@dataclass(frozen=True)
class Recommendation:
    """The batch that fits, the reasons, and the bytes predicted by batch.

    `batch_size` is None if not even two images fit, or the free memory is unknown. If the requested batch
    does not fit, `instead` has as many images per step in smaller batches.
    """

    batch_size: int | None
    reasons: tuple[Reason, ...]
    predicted_bytes: Mapping[int, int]
    terms: Mapping[str, int] = field(default_factory=dict)
    reserve_bytes: int | None = None
    instead: Batching | None = None

    @property
    def reason(self) -> str:
        """The reasons in English, as the command line prints them and a run records them."""
        return in_english(self.reasons)


def recommend(
    bytes_at: BytesAt,
    memory: DeviceMemory,
    *,
    num_images: int | None = None,
    reserve_bytes: int | None = None,
    terms: Mapping[str, int] | None = None,
    measured: Measured = NOTHING_MEASURED,
    requested: Batching | None = None,
) -> Recommendation:
    """Recommend the largest sensible batch that leaves the reserve free; `bytes_at(batch)` is what one needs.

    Sensible is at least 2, at most 64, at most a tenth of `num_images`, the training images, if their number
    is known, and, once measured, no more than the batch at which images/s stops growing. The reserve is
    `reserve_bytes`, or 0.6 GiB or a tenth of the total, whichever is more. Measurements correct the
    prediction.
    """
    need = measured.correct(bytes_at)
    terms = dict(terms or {})
    if memory.free_bytes is None:
        unknown = reason("unknown", device=memory.title)
        return Recommendation(None, (unknown,), _table(need, requested), terms)
    reserve = _reserve(memory.total_bytes or memory.free_bytes) if reserve_bytes is None else reserve_bytes
    budget, free = memory.free_bytes - reserve, in_gib(memory.free_bytes)
    cap, cap_reason = _largest_sensible(num_images, measured)
    fitting = [size for size in range(MIN_BATCH, MAX_BATCH + 1) if need(size) <= budget]
    best = max((size for size in fitting if size <= cap), default=None)
    if best is None:
        needed = in_gib(need(MIN_BATCH))
        too_few = reason("too_few_fit", least=MIN_BATCH, need=needed, free=free, reserve=in_gib(reserve))
        return Recommendation(None, (too_few,), _table(need, requested), terms, reserve)
    more = reason("more_than_free", more=best + 1, reserve=in_gib(reserve))
    reasons = [reason("fits", batch=best, need=in_gib(need(best)), free=free)]
    if "allocator_margin" in terms and not measured.batches:
        reasons.append(reason("allocator_margin", percent=round(100 * ALLOCATOR_MARGIN)))
    reasons.append(cap_reason if best == cap else more)
    instead = None
    if requested is not None and need(requested.batch_size) > budget:
        # the gradients of earlier batches, as large as the weights, are held beside the next one's
        # activations
        beside = terms.get("weights", 0) if requested.gradient_accumulation_steps == 1 else 0
        instead = _accumulate(requested, [size for size in fitting if need(size) + beside <= budget])
        reasons.append(_not_fitting(requested, need(requested.batch_size), instead))
    return Recommendation(
        batch_size=best,
        reasons=tuple(reasons),
        predicted_bytes=_table(need, requested),
        terms=terms,
        reserve_bytes=reserve,
        instead=instead,
    )


def _accumulate(requested: Batching, fitting: list[int]) -> Batching | None:
    """Split a batch into the fewest that fit, for as many images per step; None if none fits.

    Equal batches are preferred (16 as 2 x 8) unless they need twice as many; else a step has a few images
    more.
    """
    if not fitting:
        return None
    fewest = math.ceil(requested.batch_size / fitting[-1])
    parts = range(fewest, min(2 * fewest, requested.batch_size // MIN_BATCH + 1))
    steps = next((n for n in parts if requested.batch_size % n == 0), fewest)
    part = math.ceil(requested.batch_size / steps)
    return Batching(part, steps * requested.gradient_accumulation_steps)


def _not_fitting(requested: Batching, needed_bytes: int, instead: Batching | None) -> Reason:
    size, needed = requested.batch_size, in_gib(needed_bytes)
    if instead is None:
        return reason("wanted_does_not_fit", wanted=size, need=needed)
    batch, steps = instead.batch_size, instead.gradient_accumulation_steps
    return reason(
        "accumulate_instead", wanted=size, need=needed, batch=batch, steps=steps, images=batch * steps
    )


def _table(need: BytesAt, requested: Batching | None) -> dict[int, int]:
    """Return the bytes by batch, up to the largest sensible one, and for the requested one."""
    sizes = {*range(1, MAX_BATCH + 1), *([requested.batch_size] if requested else [])}
    return {size: need(size) for size in sorted(sizes)}


def _largest_sensible(num_images: int | None, measured: Measured) -> tuple[int, Reason]:
    caps = [(MAX_BATCH, reason("too_few_steps", most=MAX_BATCH))]
    if num_images is not None:
        caps.append(_largest_share(num_images))
    if measured.plateau is not None:
        caps.append((max(MIN_BATCH, measured.plateau), reason("no_faster")))
    return min(caps, key=lambda cap: cap[0])


def _largest_share(num_images: int) -> tuple[int, Reason]:
    tenth = num_images // SHARE_OF_IMAGES
    if tenth <= MIN_BATCH:
        return MIN_BATCH, reason("few_images", images=num_images)
    return tenth, reason("share_of_images", images=num_images)


def _reserve(total_bytes: int) -> int:
    return max(MIN_RESERVE_BYTES, round(RESERVE_SHARE * total_bytes))


def choose_reserve(device: str, memory: DeviceMemory) -> int | None:
    """Return the bytes that a training must leave free on a device; None if its free memory is unknown.

    On device "cpu" the images are kept in the same memory.
    """
    if memory.free_bytes is None:
        return None
    store_bytes = round(SHARE_OF_FREE_MEMORY * memory.free_bytes) if device == "cpu" else 0
    return max(_reserve(memory.total_bytes or memory.free_bytes), store_bytes)


def requested_batching(settings: Settings) -> Batching | None:
    """Return the batch in the settings; None for "auto"."""
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
    requested: Batching | None = None,
) -> Recommendation:
    """Recommend a batch for traced steps on a device (see `recommend`), with the terms of that batch."""
    advice = recommend(
        need.bytes_at,
        memory,
        num_images=num_images,
        reserve_bytes=choose_reserve(device, memory),
        terms=need.terms_at(MIN_BATCH),
        measured=measured,
        requested=requested,
    )
    return replace(advice, terms=need.terms_at(advice.batch_size or MIN_BATCH))


def find_what_fits(settings: Settings, num_landmarks: int, device: str, budget_bytes: int) -> Reason:
    """Name similar settings with which two images fit into a budget.

    Predicts each of them, which takes some seconds.
    """

    def need(changed: Settings) -> int:
        return predict_step_memory(changed, num_landmarks, device).bytes_at(MIN_BATCH)

    size_values: dict[str, str | int] = {}
    for height, width in _smaller_sizes(settings.image_size):
        needed = need(settings.model_copy(update={"image_size": (height, width)}))
        if needed <= budget_bytes:
            size_values = {"height": height, "width": width, "image_need": in_gib(needed)}
            break
    needs = {
        model: need(settings.model_copy(update={"model": model}))
        for model in get_args(ModelName)
        if model != settings.model
    }
    smallest = min(needs, key=lambda model: needs[model])
    if needs[smallest] > budget_bytes:
        return reason("image_fits", **size_values) if size_values else reason("nothing_fits")
    model_values: dict[str, str | int] = {"model": smallest, "model_need": in_gib(needs[smallest])}
    return reason("image_or_model_fits" if size_values else "model_fits", **size_values, **model_values)


def _smaller_sizes(image_hw: Size) -> Iterator[Size]:
    seen: set[Size] = set()
    for share in SMALLER_SIDES:
        height, width = (int(side * share) // SIZE_MULTIPLE * SIZE_MULTIPLE for side in image_hw)
        if min(height, width) >= SIZE_MULTIPLE and (height, width) not in seen:
            seen.add((height, width))
            yield height, width


def read_device_memory(device: str, gpus: tuple[GpuReading, ...] | None = None) -> DeviceMemory:
    """Read the memory of "cpu" or "cuda:N" now; `gpus` are NVML's readings if they exist already.

    If NVML does not list the GPU, torch is queried, which opens a CUDA context; if that fails too, the bytes
    are None. Raises UserError for a GPU that neither of them lists.
    """
    if device == "cpu":
        host = read_memory()
        return DeviceMemory(cpu_title(), host.total_bytes, host.free_bytes)
    number = int(device.partition(":")[2] or 0)
    listed = next((gpu for gpu in (read_gpus() if gpus is None else gpus) if gpu.index == number), None)
    if listed is not None and listed.free_bytes is not None:
        return DeviceMemory(listed.title, listed.total_bytes, listed.free_bytes)
    return _query_torch(number, listed)


def _query_torch(number: int, listed: GpuReading | None) -> DeviceMemory:
    import torch

    try:
        if number < torch.cuda.device_count():
            free_bytes, total_bytes = torch.cuda.mem_get_info(number)
            return DeviceMemory(torch.cuda.get_device_name(number), total_bytes, free_bytes)
    except (RuntimeError, AssertionError):  # CUDA cannot start: torch raises either
        return DeviceMemory(listed.title if listed else f"cuda:{number}", None, None)
    if listed is not None:
        return DeviceMemory(listed.title, listed.total_bytes, None)
    raise UserError(f"there is no cuda:{number} here", field="device", cure="choose cpu, or give --free_gib")


def recommend_for_settings(settings: Settings, device: str) -> Choice:
    """Choose the batch for `--batch_size auto`: reads the data set and the free memory, and traces the steps.

    Raises UserError if not even two images fit, if the free memory is unknown, and for a data set that cannot
    be read.
    """
    from backend.resolve import choose_dataset
    from backend.training.build import build_splits

    splits = build_splits(RunConfig(settings, {"dataset_path": choose_dataset(settings)}))
    num_landmarks = len(splits.annotations.landmark_names)
    memory = read_device_memory(device)
    need = predict_step_memory(settings, num_landmarks, device)
    measured = Bench(settings, num_landmarks, device, identify(device, read_gpus())).read()
    advice = recommend_for_memory(
        need, memory, device=device, num_images=len(splits.train), measured=measured
    )
    reasons = advice.reasons
    if advice.batch_size is None and memory.free_bytes is not None and advice.reserve_bytes is not None:
        budget = memory.free_bytes - advice.reserve_bytes
        reasons = (*reasons, find_what_fits(settings, num_landmarks, device, budget))
    return choose_batch(advice.batch_size, reasons)


def choose_batch(batch_size: int | None, reasons: Sequence[Reason]) -> Choice:
    """Return a recommended batch as the choice of a run. Raises UserError with the cure if there is none."""
    if batch_size is not None:
        return Choice(batch_size, in_english(reasons))
    cures = [reason for reason in reasons if reason.key in CURES]
    what = in_english(reason for reason in reasons if reason not in cures)
    raise UserError(what, field="batch_size", cure=in_english(cures) or "give a number")
