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
    "image_size", "loss", "sigma", "resize", "output_stride", "refine", "crop_size", "crop_mm_per_px",
    "crop_share",
}  # fmt: skip
STEP = {
    "model", "image_size", "loss", "decoder", "output_stride", "mixed_precision",
    "gradient_accumulation_steps",
    "refine", "refine_crops", "num_refiners", "crop_size", "refiner_sides",
}  # fmt: skip
# what each of the settings below affects, as it was measured or thought through; one that is added later is
# free
AFFECTED_BY: dict[Effect, set[str]] = {
    "data": DATA,
    "sample": SAMPLE,
    # ema_decay is not among them: a run keeps averaged weights whatever their decay is
    "memory": STEP,
    "estimate": {"batch_size", "device", "epochs", "refine_epochs"},
    "views": {
        "rotation_deg", "scale_jitter", "shift_jitter", "elastic", "photometric", "flip_pairs", "seed",
    },
    # what the decoding error is computed from; nothing else asks for it again
    "decoding_error": {*DATA, *SAMPLE, "decoder", "refine_sigma"},
    "first_network": {"model", "image_size", "output_stride", "resize", "loss", "decoder"},
}  # fmt: skip
AFFECT_NOTHING = {
    "lr", "warmup_epochs", "accept_implausible", "shape_prior", "weight_decay", "clip_norm", "ema_decay",
    "patience",
    "on_divergence", "pretrained", "refine_lr", "crop_jitter", "prediction_crops", "first_network",
    "num_workers",
    "on_oom", "preview_every",
}  # fmt: skip
KNOWN = AFFECT_NOTHING.union(*AFFECTED_BY.values())


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


@pytest.mark.parametrize("effect", get_args(Effect))
def test_what_follows_from_the_declarations(effect: Effect) -> None:
    assert {*Settings.model_fields} >= KNOWN
    assert {*settings_affecting(effect)} & KNOWN == AFFECTED_BY[effect]


def test_several_effects_are_those_of_each() -> None:
    several: tuple[Effect, ...] = ("data", "memory", "estimate")
    assert {*settings_affecting(*several)} == {
        name for effect in several for name in settings_affecting(effect)
    }


def test_every_setting_of_the_augmentation_affects_the_views_alone() -> None:
    assert {*settings_in("augmentation")} == {*settings_affecting("views")} - {"seed"}
    assert all(effects_of(Settings.model_fields[name]) == ("views",) for name in settings_in("augmentation"))


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
