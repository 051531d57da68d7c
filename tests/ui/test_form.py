from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from backend.config import Choice, RunConfig, Settings, parse_settings
from backend.presets import PRESETS, match_preset, with_preset
from ui.form import (
    ADVANCED_KEYS,
    CUSTOM,
    MAIN_KEYS,
    PLACED_BY_HAND,
    SIZE_KEYS,
    build_field,
    build_preset_choice,
    form_values,
    mistakes_by_key,
    preset_fields,
    to_settings,
)
from ui.text_en import TEXT

FORM_KEYS = (*PLACED_BY_HAND, *MAIN_KEYS, *ADVANCED_KEYS)


def defaults() -> dict[str, Any]:
    values = {key: build_field(key).value for key in (*MAIN_KEYS, *ADVANCED_KEYS)}
    return {**values, "dataset_path": "", "annotation_type": "mean"}


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
    ("key", "typed", "value"), [("sigma", "2.5", 2.5), ("sigma", "auto", "auto"), ("num_workers", "3", 3)]
)
def test_a_text_box_takes_a_number_or_auto(key: str, typed: str, value: Any) -> None:
    assert getattr(parse_settings(to_settings({**defaults(), key: typed})), key) == value


def test_a_mistake_stands_at_the_field_that_is_wrong() -> None:
    raw = to_settings({**defaults(), "image_width": 250, "lr": None, "sigma": "wide", "batch_size": 0})
    assert set(mistakes_by_key(raw)) == {"image_width", "lr", "sigma", "batch_size"}
    assert "224 and 256" in mistakes_by_key(raw)["image_width"]
    assert mistakes_by_key(raw)["lr"] == "is missing: a number belongs here"


def test_a_side_that_is_no_number_is_marked_where_it_stands() -> None:
    raw = to_settings({**defaults(), "image_width": None})
    assert mistakes_by_key(raw) == {"image_width": "width is missing: a number belongs here"}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_fills_the_form_with_what_train_py_makes_of_it(name: str) -> None:
    raw = to_settings({**defaults(), **preset_fields(name)})
    assert parse_settings(raw) == parse_settings(with_preset(name, {}))
    assert match_preset(raw) == name


def test_an_edited_field_makes_the_preset_custom_and_back() -> None:
    values = {**defaults(), **preset_fields("fast")}
    for key, value in (("epochs", 21), ("image_width", 128), ("image_width", None), ("lr", "fast")):
        assert match_preset(to_settings({**values, key: value})) is None
    assert match_preset(to_settings({**values, "seed": 9, "dataset_path": "~/films"})) == "fast"


def test_every_preset_stands_on_the_form_with_its_words() -> None:
    words = {value: label for label, value in build_preset_choice().choices}
    assert list(words) == [*PRESETS, CUSTOM]
    assert all(preset.description in words[name] for name, preset in PRESETS.items())


def test_a_runs_settings_fill_the_form_and_come_back() -> None:
    settings = Settings(
        model="unet", image_size=(128, 256), batch_size="auto", sigma=2.5, refine=False, seed=7, device="cpu"
    )
    chosen = {"batch_size": Choice(6, "what fits"), "dataset_path": Choice("/data/films", "demo data")}
    values = form_values(RunConfig(settings, chosen))
    assert set(values) == set(FORM_KEYS)
    expected = settings.model_copy(update={"batch_size": 6, "dataset_path": "/data/films"})
    assert parse_settings(to_settings(values)) == expected
