from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from backend.config import Settings, parse_settings
from ui.form import (
    ADVANCED_KEYS,
    MAIN_KEYS,
    PLACED_BY_HAND,
    SIZE_KEYS,
    build_field,
    mistakes_by_key,
    to_settings,
)
from ui.text import TEXT

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
