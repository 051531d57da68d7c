from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from backend.config import (
    FORMAT_VERSION,
    NUMBER_SETTINGS,
    Choice,
    ModelName,
    RunConfig,
    Settings,
    find_mistakes,
    parse_settings,
    sides_of,
)
from backend.errors import UserError


def mistake_in(field: str, value: Any) -> UserError:
    (mistake,) = find_mistakes({field: value})
    assert mistake.field == field
    return mistake


def test_unknown_setting_is_refused_by_name_with_the_known_ones() -> None:
    mistake = mistake_in("learning_rate", 1e-3)
    assert "unknown" in str(mistake) and " lr," in str(mistake)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", "vgg"),
        ("batch_size", 0),
        ("batch_size", 4097),
        ("batch_size", "all"),
        ("batch_size", 1.5),
        ("lr", 0),
        ("lr", -1e-3),
        ("lr", 11),
        ("lr", float("nan")),
        ("epochs", 0),
        ("loss", "l1"),
        ("warmup_epochs", -1),
        ("gradient_accumulation_steps", 0),
        ("sigma", 0),
        ("sigma", 65),
        ("sigma", "wide"),
        ("refiner_sides", "96"),  # crops have 64
        ("refiner_sides", "48"),
        ("refiner_sides", "64, wide"),
        ("refiner_sides", "64, 64, 64, 32"),  # of three networks
        ("val_fraction", 0.6),
        ("val_fraction", -0.1),
        ("resize", "crop"),
        ("rotation_deg", 181),
        ("photometric", 4),
        ("decoder", "soft"),
        ("weight_decay", -1),
        ("clip_norm", 0),
        ("ema_decay", 1),
        ("device", "gpu"),
        ("device", "cuda:x"),
        ("num_workers", -1),
        ("seed", -1),
        ("preview_every", 0),
    ],
)
def test_value_out_of_range_is_refused_naming_field_and_value(field: str, value: Any) -> None:
    text = str(mistake_in(field, value))
    assert text.startswith(f"{field}: ")
    assert repr(value) in text
    assert "\n" not in text


@pytest.mark.parametrize("field", ["lr", "warmup_epochs", "sigma", "clip_norm", "weight_decay"])
def test_no_number_may_be_infinite_since_json_cannot_hold_it(field: str) -> None:
    mistake_in(field, float("inf"))
    mistake_in(field, "inf")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("batch_size", "auto"),
        ("batch_size", 4096),
        ("sigma", "auto"),
        ("sigma", 64),
        ("device", "cuda:3"),
        ("ema_decay", 0),
        ("val_fraction", 0.5),
        ("image_size", (32, 4096)),
        ("num_workers", "auto"),
    ],
)
def test_value_at_the_edge_of_its_range_is_taken(field: str, value: Any) -> None:
    assert getattr(parse_settings({field: value}), field) == value


def test_image_size_that_fits_no_network_names_the_nearest_that_do() -> None:
    mistake = mistake_in("image_size", (250, 256))
    assert "height 250" in str(mistake) and "224" in str(mistake) and "256" in str(mistake)
    mistake = mistake_in("image_size", (256, 100))
    assert "width 100" in str(mistake) and "96" in str(mistake) and "128" in str(mistake)


@pytest.mark.parametrize("size", [(31, 256), (256, 4128), (0, 0), (256,), (1, 2, 3), "256"])
def test_image_size_outside_the_range_or_of_another_form_is_refused(size: Any) -> None:
    mistake_in("image_size", size)


def test_pretrained_weights_are_for_resnet_only() -> None:
    assert "resnet" in str(*find_mistakes({"model": "unet", "pretrained": "w.pth"}))
    assert parse_settings({"model": "resnet", "pretrained": "w.pth"}).pretrained == "w.pth"


def test_find_mistakes_lists_every_field_once() -> None:
    mistakes = find_mistakes({"lr": -1, "epochs": 0, "batch_size": "many", "image_size": (33, 34), "nope": 1})
    assert sorted(m.field for m in mistakes) == ["batch_size", "epochs", "image_size", "lr", "nope"]
    assert find_mistakes({"lr": 1e-4}) == []


def test_parse_settings_raises_the_first_mistake_and_takes_text_for_numbers() -> None:
    with pytest.raises(UserError, match="lr: "):
        parse_settings({"lr": "fast"})
    parsed = parse_settings({"lr": "1e-4", "batch_size": "8", "image_size": ["128", "64"]})
    assert (parsed.lr, parsed.batch_size, parsed.image_size) == (1e-4, 8, (128, 64))


NUMBERS = [name for name, field in Settings.model_fields.items() if type(field.default) in (int, float)]


def test_every_setting_that_holds_a_number_is_known_as_one() -> None:
    with_auto = {"sigma", "output_stride", "crop_jitter", "refine_sigma", "num_workers", "batch_size"}
    assert set(NUMBER_SETTINGS) == {*NUMBERS, *with_auto, "image_size"}
    assert {name for name, kind in NUMBER_SETTINGS.items() if kind.accepts_auto} == with_auto
    assert [name for name, kind in NUMBER_SETTINGS.items() if kind.is_pair] == ["image_size"]


@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_is_read_as_it_is_typed_and_kept_plain(name: str) -> None:
    default = Settings.model_fields[name].default
    for zero, point in (("۰", "٫"), ("٠", ","), ("0", ".")):
        digits = {ord("0") + digit: ord(zero) + digit for digit in range(10)} | {ord("."): point}
        found = parse_settings({name: f" {default}\u200f".translate(digits)})
        assert getattr(found, name) == default
        assert found == Settings() and found.model_dump_json().isascii()


@pytest.mark.parametrize("name", [name for name, kind in NUMBER_SETTINGS.items() if kind.accepts_auto])
def test_auto_is_read_however_it_is_typed(name: str) -> None:
    for typed in (" auto", "Auto", "\u2068AUTO\u2069"):
        assert getattr(parse_settings({name: typed}), name) == "auto"
    assert "or auto" in str(mistake_in(name, "automatic"))


@pytest.mark.parametrize("name", [name for name, kind in NUMBER_SETTINGS.items() if not kind.is_pair])
def test_numbers_reject_booleans_and_counts_reject_fractions(name: str) -> None:
    for wrong in (True, "true", "1,000", "1٬000", "1 000", "1_0"):
        assert mistake_in(name, wrong).what
    if NUMBER_SETTINGS[name].is_whole:
        assert "write 2 or 3" in str(mistake_in(name, 2.5))
        assert "write 2 or 3" in str(mistake_in(name, "۲٫۵"))


def test_a_pair_is_read_side_by_side() -> None:
    assert parse_settings({"image_size": ["۱۲۸", 64.0]}).image_size == (128, 64)
    assert str(mistake_in("image_size", ("128.5", 64))).startswith(
        "image_size: height '128.5' is not a whole"
    )
    assert str(mistake_in("image_size", (128, True))).startswith("image_size: width True is not a number")
    assert "width is missing" in str(mistake_in("image_size", (128, "")))


def test_a_number_that_was_left_empty_is_missing() -> None:
    for empty in (None, "", " \u200e"):
        assert "is missing: a number belongs here" in str(mistake_in("lr", empty))


def test_the_number_of_a_gpu_is_read_in_every_digit_system() -> None:
    assert parse_settings({"device": " cuda:۱"}).device == "cuda:1"


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Settings().lr = 1.0  # type: ignore[misc]


def test_the_guides_three_ways_to_train_are_valid() -> None:
    for size, batch in ((256, 16), (128, 32), (512, 8)):
        values = {"image_size": (size, size), "batch_size": batch, "loss": "adaptive_wing"}
        assert find_mistakes({**values, "mixed_precision": True}) == []


@settings(max_examples=30, deadline=None)
@given(
    st.fixed_dictionaries(
        {
            "model": st.sampled_from(get_args(ModelName)),
            "image_size": st.tuples(st.sampled_from([32, 96, 512]), st.sampled_from([64, 256])),
            "batch_size": st.one_of(st.just("auto"), st.integers(1, 4096)),
            "lr": st.floats(1e-9, 10),
            "sigma": st.one_of(st.just("auto"), st.floats(0.01, 64)),
            "mixed_precision": st.booleans(),
            "dataset_path": st.text(max_size=8),
        }
    )
)
def test_config_survives_json_unchanged(values: dict[str, Any]) -> None:
    config = RunConfig(
        parse_settings(values), {"batch_size": Choice(6, "fits"), "device": Choice("cpu", "x")}
    )
    assert RunConfig.from_dict(json.loads(json.dumps(config.to_dict(), allow_nan=False))) == config


def test_chosen_value_goes_before_the_asked_one() -> None:
    config = RunConfig(Settings(batch_size="auto", lr=0.1), {"batch_size": Choice(6, "fits")})
    assert (config.value("batch_size"), config.value("lr")) == (6, 0.1)


def test_config_of_another_format_is_refused_with_a_cure() -> None:
    raw = RunConfig(Settings(), {}).to_dict()
    for version in (FORMAT_VERSION + 1, None):
        with pytest.raises(UserError, match="format_version") as caught:
            RunConfig.from_dict({**raw, "format_version": version})
        assert caught.value.cure


def test_config_with_a_setting_out_of_range_is_refused() -> None:
    raw = RunConfig(Settings(), {}).to_dict()
    raw["settings"]["epochs"] = -3
    with pytest.raises(UserError, match="epochs"):
        RunConfig.from_dict(raw)


def test_sides_of_refiners_are_read_from_a_list() -> None:
    settings = parse_settings({"crop_size": 128, "refiner_sides": "128, 96,64"})
    assert sides_of(settings.refiner_sides) == (128, 96, 64)
    typed = parse_settings({"crop_size": 128, "refiner_sides": "۱۲۸، 96 , ٦٤"})
    assert typed == settings and typed.refiner_sides == "128, 96, 64"
    assert "'2.5' is not a whole number" in str(mistake_in("refiner_sides", "64, 2.5"))
    assert sides_of(Settings().refiner_sides) == ()
