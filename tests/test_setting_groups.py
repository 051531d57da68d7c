"""What every setting declares, and that the lists which follow from it are what they are meant to be."""

from __future__ import annotations

from typing import get_args

import pytest

from backend.config import (
    Effect,
    Group,
    Settings,
    effects_of,
    group_of,
    parse_settings,
    settings_affecting,
    settings_in,
)
from backend.errors import UserError

DATA = {"dataset_path", "dataset_format", "annotation_type", "val_fraction", "seed"}
SAMPLE = {
    "image_size", "loss", "sigma", "resize", "output_stride", "refine", "crop_size", "crop_mm_per_px", "crop_share",
}  # fmt: skip
STEP = {
    "model", "image_size", "loss", "decoder", "output_stride", "mixed_precision", "gradient_accumulation_steps",
    "refine", "refine_crops", "num_refiners", "crop_size", "refiner_sides",
}  # fmt: skip


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_declares_its_group_and_what_it_affects(name: str) -> None:
    field = Settings.model_fields[name]
    assert group_of(field) in get_args(Group)
    assert {*effects_of(field)} <= {*get_args(Effect)}
    assert field.description and field.description[-1] != "."


def test_every_setting_is_in_one_group() -> None:
    grouped = [name for group in get_args(Group) for name in settings_in(group)]
    assert sorted(grouped) == sorted(Settings.model_fields)
    assert all(settings_in(group) for group in get_args(Group))


def test_what_follows_from_the_declarations() -> None:
    assert {*settings_affecting("data")} == DATA
    assert {*settings_affecting("sample")} == SAMPLE
    assert {*settings_affecting("memory")} == STEP
    # ema_decay is not among them: a run keeps averaged weights whatever their decay is
    estimate = {"batch_size", "device", "epochs", "refine_epochs"}
    assert {*settings_affecting("data", "memory", "estimate")} == {*DATA, *STEP, *estimate}
    assert {*settings_affecting("views")} == {
        "rotation_deg", "scale_jitter", "shift_jitter", "elastic", "photometric", "flip_pairs", "seed",
    }  # fmt: skip
    # what the decoding error is computed from; nothing else asks for it again
    assert {*settings_affecting("decoding_error")} == {*DATA, *SAMPLE, "decoder", "refine_sigma"}


def test_the_names_come_in_the_order_of_the_form() -> None:
    order = [*Settings.model_fields]
    assert list(settings_affecting("memory")) == sorted(settings_affecting("memory"), key=order.index)


def test_a_setting_that_depends_on_another_is_declared_after_it() -> None:
    with pytest.raises(UserError, match="crop_size, 32"):
        parse_settings({"crop_size": 32, "refiner_sides": "64"})
    with pytest.raises(UserError, match="only resnet"):
        parse_settings({"model": "unet", "pretrained": "weights.pth"})
    with pytest.raises(UserError, match="--no-refine"):
        parse_settings({"refine": False, "first_network": "best.pt"})
