from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from backend.config import Choice, RunConfig, Settings, parse_settings
from backend.presets import PRESETS, match_preset, with_preset
from ui.number_field import number_classes
from ui.text.en import TEXT
from ui.train.form import (
    ADVANCED_KEYS,
    CUSTOM,
    DATASET_KEYS,
    FORM_KEYS,
    MAIN_KEYS,
    SIZE_KEYS,
    build_field,
    build_preset_choice,
    form_values,
    mark_fields,
    mistakes_by_key,
    number_setting,
    preset_fields,
    to_settings,
    understood_by_key,
)


def defaults() -> dict[str, Any]:
    values = {key: build_field(key).value for key in (*MAIN_KEYS, *ADVANCED_KEYS)}
    return {**values, **dict(zip(DATASET_KEYS, ("", "mean", False), strict=True))}


def test_the_untouched_form_gives_the_default_settings() -> None:
    assert parse_settings(to_settings(defaults())) == Settings()


def test_a_typed_home_folder_is_expanded_and_a_cleared_field_is_empty() -> None:
    assert to_settings({**defaults(), "dataset_path": "~/films"})["dataset_path"] == str(
        Path.home() / "films"
    )
    assert to_settings({**defaults(), "dataset_path": None})["dataset_path"] == ""
    assert to_settings({**defaults(), "dataset_path": "~nobody-here/x"})["dataset_path"] == "~nobody-here/x"


def test_every_setting_is_on_the_form_once() -> None:
    on_form = [key for key in FORM_KEYS if key not in SIZE_KEYS]
    assert sorted([*on_form, "image_size"]) == sorted(Settings.model_fields)


@pytest.mark.parametrize("key", FORM_KEYS)
def test_every_field_has_words_of_its_own(key: str) -> None:
    assert TEXT.get(key, key) != key


@pytest.mark.parametrize(
    ("key", "typed", "value"),
    [
        ("lr", "0,001", 0.001),
        ("lr", "۰٫۰۰۱", 0.001),
        ("lr", "1e-4", 1e-4),
        ("epochs", "۲۰", 20),
        ("epochs", "٢٠", 20),
        ("warmup_epochs", "2.5", 2.5),
        ("sigma", "2.5", 2.5),
        ("sigma", "auto", "auto"),
        ("sigma", "", "auto"),  # a phone's keyboard for digits has no letters
        ("batch_size", "Auto", "auto"),
        ("num_workers", "3", 3),
        ("device", "cuda:۱", "cuda:1"),
        ("refiner_sides", "۶۴، ۳۲", "64, 32"),
    ],
)
def test_a_field_takes_a_number_as_it_is_typed_or_auto(key: str, typed: str, value: Any) -> None:
    assert getattr(parse_settings(to_settings({**defaults(), key: typed})), key) == value


def test_a_mistake_stands_at_the_field_that_is_wrong() -> None:
    wrong = {"image_width": "250", "lr": "", "sigma": "wide", "batch_size": "0"}
    raw = to_settings({**defaults(), **wrong})
    assert set(mistakes_by_key(raw)) == {"image_width", "lr", "sigma", "batch_size"}
    assert "224 and 256" in mistakes_by_key(raw)["image_width"]
    assert mistakes_by_key(raw)["lr"] == "is missing: a number belongs here"


@pytest.mark.parametrize(
    ("typed", "mistake"),
    [
        ({"epochs": "2.5"}, "'2.5' is not a whole number; write 2 or 3"),
        ({"epochs": "1,000"}, "'1,000' can mean 1.000 or 1000; write the one that you mean"),
        ({"lr": "0.001.5"}, "'0.001.5' has more than one separator or a space in it"),
        ({"image_height": "256 256"}, "height '256 256' has more than one separator or a space in it"),
        ({"image_width": "۱۲۸٫۵"}, "width '۱۲۸٫۵' is not a whole number; write 128 or 129"),
        ({"image_width": ""}, "width is missing: a number belongs here"),
        ({"sigma": "nan"}, "'nan' is not a number; write it such as 20, 0.001 or 1e-4, or auto"),
    ],
)
def test_what_is_not_a_number_of_its_field_is_refused_there_with_the_cure(
    typed: dict[str, str], mistake: str
) -> None:
    found = mistakes_by_key(to_settings({**defaults(), **typed}))
    assert list(found) == list(typed)
    assert next(iter(found.values())).startswith(mistake)


def test_no_field_is_a_number_input_which_drops_the_digits_that_it_does_not_know() -> None:
    for key in (*MAIN_KEYS, *ADVANCED_KEYS):
        field = build_field(key)
        assert not isinstance(field, gr.Number)
        setting = number_setting(key)
        kinds = [] if setting is None else number_classes(is_whole=setting.is_whole)
        assert field.elem_classes == kinds
        assert setting is None or (isinstance(field, gr.Textbox) and field.max_lines == 1)


def test_what_was_understood_is_shown_where_it_is_written_otherwise() -> None:
    typed = {
        "lr": "۰٫۰۰۱", "epochs": " 20 ", "warmup_epochs": "6.0", "weight_decay": "1e-4", "seed": "x",
        "patience": "", "sigma": "AUTO", "refine_lr": "0.002", "image_width": "٢٥٦", "refiner_sides": "۶۴،۳۲",
        "device": "cuda:۱",
    }  # fmt: skip
    assert understood_by_key(typed) == {
        "lr": "0.001", "warmup_epochs": "6", "weight_decay": "0.0001", "sigma": "auto", "image_width": "256",
        "refiner_sides": "64, 32",
    }  # fmt: skip
    assert understood_by_key(defaults()) == {}


def test_a_field_says_what_is_wrong_else_what_was_understood_else_its_help() -> None:
    keys = ("lr", "epochs", "seed", "refine_sigma", "device")
    wrong, understood, before = (
        {"epochs": "2.5 is wrong"},
        {"lr": "0.001"},
        ["seed", "device", "lr", "epochs"],
    )
    lr, epochs, seed, untouched, device = mark_fields(keys, wrong, understood, before)
    assert "= 0.001" in lr["info"] and TEXT["lr_info"] in lr["info"]
    assert epochs["info"] == "2.5 is wrong"
    assert (seed["info"], device["info"]) == (TEXT["seed_info"], TEXT["device_info"])
    assert "info" not in untouched
    # what makes a phone offer digits stays with the field
    assert lr["elem_classes"] == number_classes(is_whole=False)
    assert epochs["elem_classes"] == [*number_classes(is_whole=True), "field-error"]
    assert seed["elem_classes"] == number_classes(is_whole=True) and device["elem_classes"] == []


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_fills_the_form_with_what_train_py_makes_of_it(name: str) -> None:
    raw = to_settings({**defaults(), **preset_fields(name)})
    assert parse_settings(raw) == parse_settings(with_preset(name, {}))
    assert match_preset(raw) == name


def test_an_edited_field_makes_the_preset_custom_and_back() -> None:
    values = {**defaults(), **preset_fields("fast")}
    for key, value in (("epochs", "21"), ("image_width", "128"), ("image_width", ""), ("lr", "fast")):
        assert match_preset(to_settings({**values, key: value})) is None
    assert match_preset(to_settings({**values, "epochs": "۲۰", "lr": "0,0015"})) == "fast"
    assert match_preset(to_settings({**values, "seed": 9, "dataset_path": "~/films"})) == "fast"


def test_every_preset_stands_on_the_form_with_its_words() -> None:
    labels = {value: label for label, value in build_preset_choice().choices}
    assert list(labels) == [*PRESETS, CUSTOM]
    assert all(preset.description in labels[name] for name, preset in PRESETS.items())


def test_a_runs_settings_fill_the_form_and_come_back() -> None:
    settings = Settings(
        model="unet", image_size=(128, 256), batch_size="auto", sigma=2.5, refine=False, seed=7, device="cpu"
    )
    chosen = {"batch_size": Choice(6, "what fits"), "dataset_path": Choice("/data/films", "demo data")}
    values = form_values(RunConfig(settings, chosen))
    assert set(values) == set(FORM_KEYS)
    assert (values["lr"], values["warmup_epochs"], values["sigma"]) == ("0.0015", "6", "2.5")
    expected = settings.model_copy(update={"batch_size": 6, "dataset_path": "/data/films"})
    assert parse_settings(to_settings(values)) == expected
