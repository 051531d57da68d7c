from __future__ import annotations

from typing import Any

import pytest

from backend.config import Choice, RunConfig, Settings
from backend.training.memory_advice import advise


def advice(phase: str = "train", num_images: int | None = None, *, device: str = "cpu", **values: Any) -> str:
    chosen = {"device": Choice(device, "test"), "batch_size": Choice(values.get("batch_size", 16), "test")}
    return advise(RunConfig(Settings(**values), chosen), phase, num_images, is_resumable=False)


def test_a_smaller_batch_is_named_with_the_accumulation_that_keeps_the_effective_one() -> None:
    told = advice(num_images=16)
    assert "--batch_size 8 --gradient_accumulation_steps 2 (an effective batch of 16, now 16)" in told
    assert "--image_size 192 192 (56% of the pixels)" in told
    assert "mixed_precision" not in told and "on_oom" not in told


def test_what_was_tried_in_parts_is_halved_again() -> None:
    told = advice(num_images=8, gradient_accumulation_steps=3)
    assert "--batch_size 4 --gradient_accumulation_steps 12 (an effective batch of 48, now 48)" in told
    assert "--batch_size 2 --gradient_accumulation_steps 5 (an effective batch of 10, now 9)" in advice(
        num_images=5, batch_size=9
    )


def test_two_images_that_do_not_fit_need_another_size() -> None:
    told = advice(num_images=2, image_size=(512, 256))
    assert "--batch_size" not in told and "--image_size 384 192 (56% of the pixels)" in told


def test_on_a_gpu_mixed_precision_is_offered_once() -> None:
    assert "--mixed_precision" in advice(device="cuda:0", mixed_precision=False)
    assert "--mixed_precision" not in advice(device="cuda:0", mixed_precision=True)


def test_where_nothing_can_shrink_another_model_is_left() -> None:
    told = advice(num_images=2, image_size=(32, 32), batch_size=2)
    assert told == "Free memory that other programs hold, or start a new run with another model"


def test_a_refinement_has_flags_of_its_own() -> None:
    told = advice("refine", num_images=2, crop_size=64, num_refiners=3)
    assert "--num_refiners 1 (now 3)" in told and "--crop_size 32 (25% of the pixels)" in told
    assert "--no-refine" in told and "--batch_size" not in told and "--image_size" not in told
    least = advice("refine", num_images=1, crop_size=32, num_refiners=1)
    assert least == "Free memory that other programs hold, or start a new run with --no-refine"


def test_a_refinement_of_several_scales_is_advised_its_smallest() -> None:
    told = advice("refine", num_images=2, crop_size=96, num_refiners=2, refiner_sides="96, 64")
    assert "with --refiner_sides 64 (now 96, 64)" in told and "--crop_size" not in told
    assert "--num_refiners 1 --refiner_sides 64 (now 2)" in told  # the flags fit each other
    Settings(crop_size=96, num_refiners=1, refiner_sides="64")


@pytest.mark.parametrize("phase", ["train", "refine"])
def test_smaller_parts_come_first_where_they_were_not_wanted(phase: str) -> None:
    assert "with --on_oom retry (" in advice(phase, on_oom="stop")


def test_a_run_with_a_checkpoint_can_be_resumed() -> None:
    config = RunConfig(Settings(), {"device": Choice("cpu", "test")})
    assert advise(config, "train", None, is_resumable=True).startswith(
        "Free memory that other programs hold and resume,"
    )
