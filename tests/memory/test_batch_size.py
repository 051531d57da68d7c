from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from backend.config import Choice, parse_settings
from backend.device.gpu import GpuReading
from backend.errors import UserError
from backend.memory import batch_size
from backend.memory.batch_size import Batching, DeviceMemory, Recommendation, read_device_memory
from backend.memory.benchmark_store import Measured, MeasuredBatch
from backend.memory.reasons import GIB, in_english


def recommend(
    *,
    constant_bytes: float = 1.5 * GIB,
    floor_bytes: int = 0,
    free_bytes: int | None = round(10.4 * GIB),
    total_bytes: int | None = 12 * GIB,
    **more: Any,
) -> Recommendation:
    """Recommend on a device of 12 GiB for 0.4 GiB an image, beside a constant and above a floor."""

    def bytes_at(size: int) -> int:
        return round(max(floor_bytes, constant_bytes + 0.4 * GIB * size))

    return batch_size.recommend(bytes_at, DeviceMemory("the device", total_bytes, free_bytes), **more)


def test_the_largest_batch_that_leaves_the_reserve():
    advice = recommend()
    # 10.4 - 1.2 = 9.2 GiB to use, (9.2 - 1.5) / 0.4 = 19.25
    assert advice.batch_size == 19
    assert advice.reason == "19: 9.1 of 10.4 GiB free; 20 would leave less than the reserve of 1.2 GiB"
    assert advice.predicted_bytes[19] == round(9.1 * GIB)
    assert advice.predicted_bytes[2] == round(2.3 * GIB)


def test_the_reserve_is_at_least_0_6_gib():
    advice = recommend(total_bytes=2 * GIB, free_bytes=2 * GIB, constant_bytes=0)
    assert advice.batch_size == 3
    assert "reserve of 0.6 GiB" in advice.reason


def test_at_most_a_tenth_of_the_training_images():
    advice = recommend(num_images=150)
    assert advice.batch_size == 15
    assert "a tenth of the 150 training images" in advice.reason


def test_few_images_still_give_two():
    advice = recommend(num_images=7)
    assert advice.batch_size == 2
    assert "batch normalization" in advice.reason


def test_an_unmeasured_margin_for_the_allocator_is_stated():
    terms = {"allocator_margin": GIB}
    advice = recommend(terms=terms)
    assert advice.reasons[1].key == "allocator_margin" and advice.reasons[1].values == {"percent": 20}
    assert "; with a margin of 20% for CUDA's memory allocator, which was not measured; " in advice.reason
    measured = Measured((MeasuredBatch(4, GIB, training_s=0.1),))
    memory = DeviceMemory("x", 8 * GIB, 8 * GIB)
    after = batch_size.recommend(lambda size: GIB, memory, terms=terms, measured=measured)
    assert "margin" not in after.reason


@pytest.mark.parametrize("num_images", [None, 100_000])
def test_never_more_than_64(num_images):
    advice = recommend(free_bytes=1000 * GIB, num_images=num_images)
    assert advice.batch_size == 64
    assert "more than 64" in advice.reason


def test_the_update_of_the_weights_is_a_floor():
    advice = recommend(floor_bytes=5 * GIB)
    assert advice.predicted_bytes[2] == 5 * GIB
    assert recommend(floor_bytes=10 * GIB).batch_size is None


def test_nothing_fits_says_what_is_needed():
    advice = recommend(free_bytes=3 * GIB)
    assert advice.batch_size is None
    assert advice.reason == ("not even 2 images fit: 2.3 GiB needed, 3.0 GiB free less a reserve of 1.2 GiB")


def test_unknown_free_memory_gives_no_number_and_says_so():
    advice = recommend(free_bytes=None, total_bytes=None)
    assert advice.batch_size is None
    assert "unknown" in advice.reason
    assert advice.predicted_bytes[2] == round(2.3 * GIB)


@pytest.mark.parametrize(
    ("requested", "instead"),
    [
        (Batching(19), None),
        (Batching(20), Batching(10, 2)),
        (Batching(32, 2), Batching(16, 4)),
        (Batching(46), Batching(16, 3)),  # 46 = 2 x 23, which do not fit: the parts hold two images more
    ],
)
def test_a_batch_that_does_not_fit_is_split_into_some_that_do(requested, instead):
    advice = recommend(requested=requested)
    assert (advice.batch_size, advice.instead) == (19, instead)
    assert ("does not fit" in advice.reason) == (instead is not None)
    if instead is not None:
        steps = f"{instead.batch_size} with an accumulation of {instead.gradient_accumulation_steps}"
        assert steps in advice.reason


def test_accumulated_gradients_need_room_beside_the_activations():
    # 19 fill the budget to 0.1 GiB: beside 0.5 GiB of gradients 18 fit, and 36 = 2 x 18 and 38 = 3 x 13
    for size, parts in ((36, 18), (38, 13)):
        advice = recommend(requested=Batching(size), terms={"weights": GIB // 2})
        assert advice.instead is not None
        assert advice.instead.batch_size == parts


def test_no_larger_than_where_the_speed_stops_growing():
    # 0.1 s a step and 0.2 s an image: 95 % of 5 images/s are reached at 0.1 / 0.2 * 19 = 9.5 images
    batches = tuple(MeasuredBatch(n, 0, training_s=(0.1 + 0.2 * n) / n) for n in (4, 16))
    advice = batch_size.recommend(
        lambda size: 0, DeviceMemory("x", 8 * GIB, 8 * GIB), measured=Measured(batches)
    )
    assert advice.batch_size == 10
    assert "not faster, as measured" in advice.reason


class FakeNeed:
    """A stand-in for a traced step: bytes grow with the area; unet takes less than hrnet, others more."""

    def __init__(self, settings) -> None:
        height, width = settings.image_size
        self.bytes = {"hrnet": 4, "unet": 3}.get(settings.model, 9) * height * width

    def bytes_at(self, size: int) -> int:
        return self.bytes


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (4 * 192 * 192, "images of 192 x 192 (0.0 GiB) would fit"),
        (3 * 256 * 256, "images of 192 x 192 (0.0 GiB) or the model unet (0.0 GiB) would fit"),
        (100, "no smaller image and no other model fits either: free some memory"),
    ],
)
def test_what_would_fit_is_predicted(monkeypatch, budget, message):
    monkeypatch.setattr(
        batch_size, "predict_step_memory", lambda settings, num_landmarks, device: FakeNeed(settings)
    )
    advice = batch_size.find_what_fits(parse_settings({}), 5, "cpu", budget)
    assert in_english([advice]) == message


def reading(index: int, free_bytes: int | None) -> GpuReading:
    return GpuReading(
        index=index,
        uuid=f"GPU-{index}",
        title=f"card {index}",
        total_bytes=8 * GIB,
        used_bytes=None,
        free_bytes=free_bytes,
        others_bytes=None,
        utilization_percent=None,
        temperature_c=None,
    )


def test_a_gpus_free_memory_is_the_drivers():
    gpus = (reading(0, 1 * GIB), reading(1, 5 * GIB))
    assert read_device_memory("cuda:1", gpus) == DeviceMemory("card 1", 8 * GIB, 5 * GIB)


def test_torch_is_asked_where_the_driver_is_silent(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda number: (3, 4))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: "card")
    assert read_device_memory("cuda:0", (reading(0, None),)) == DeviceMemory("card", 4, 3)


@pytest.mark.parametrize("error", [RuntimeError("CUDA error: unknown error"), AssertionError("no CUDA")])
def test_memory_is_unknown_where_torch_fails_as_well(monkeypatch, error):
    import torch

    def fail(number):
        raise error

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", fail)
    assert read_device_memory("cuda:0", (reading(0, None),)) == DeviceMemory("card 0", None, None)


def test_memory_is_unknown_on_a_gpu_that_only_the_driver_sees(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert read_device_memory("cuda:0", (reading(0, None),)) == DeviceMemory("card 0", 8 * GIB, None)


def test_a_gpu_that_is_not_there_is_the_users_mistake(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UserError, match="no cuda:3") as caught:
        read_device_memory("cuda:3", ())
    assert caught.value.field == "device"


@pytest.fixture
def small_data(monkeypatch, tmp_path):
    """A data set of 60 training images and 5 landmarks, in place of one on disk."""
    from types import SimpleNamespace

    from backend import resolve
    from backend.training import build

    annotations = SimpleNamespace(landmark_names=tuple("abcde"))
    splits = SimpleNamespace(annotations=annotations, train=range(60))
    monkeypatch.setattr(resolve, "choose_dataset", lambda settings: Choice(str(tmp_path), "test"))
    monkeypatch.setattr(build, "build_splits", lambda config: splits)


@pytest.mark.slow
def test_settings_give_a_choice_with_its_reason(small_data, monkeypatch):
    monkeypatch.setattr(batch_size, "read_device_memory", lambda device: DeviceMemory("x", 8 * GIB, 7 * GIB))
    choice = batch_size.recommend_for_settings(
        parse_settings({"model": "unet", "image_size": (64, 64)}), "cpu"
    )
    assert choice.value == 6
    assert "tenth of the 60" in choice.reason


@pytest.mark.slow
def test_settings_for_which_nothing_fits(small_data, monkeypatch):
    monkeypatch.setattr(batch_size, "read_device_memory", lambda device: DeviceMemory("x", GIB, GIB // 2))
    with pytest.raises(UserError, match="not even 2 images fit") as caught:
        batch_size.recommend_for_settings(parse_settings({"model": "unet", "image_size": (64, 64)}), "cpu")
    assert caught.value.field == "batch_size"


def test_importing_brings_no_torch():
    code = "import sys, backend.memory.batch_size, backend.vram; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
