from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from backend.config import Settings, settings_affecting
from ui.train.data_view import settings_for_data
from ui.train.form import FORM_KEYS, build_field, field_keys


def form_values(**typed: Any) -> dict[str, Any]:
    """The untouched form with a few fields changed."""
    return {**{key: build_field(key).value for key in FORM_KEYS}, **typed}


@pytest.mark.parametrize(
    ("key", "typed", "value"),
    [
        ("rotation_deg", "90", 90.0),
        ("flip_pairs", "a=b", "a=b"),
        ("decoder", "argmax", "argmax"),
        ("seed", "7", 7),
    ],
)
def test_the_data_tab_shows_the_image_and_the_decoding_error_of_the_form(
    tiny_dataset: Path, key: str, typed: str, value: Any
) -> None:
    settings = settings_for_data(form_values(dataset_path=str(tiny_dataset), **{key: typed}))
    assert getattr(settings, key) == value


def test_a_wrong_field_falls_back_to_its_default_where_data_is_shown(tiny_dataset: Path) -> None:
    wrong = {"lr": "fast", "image_width": "33", "rotation_deg": "left", "sigma": "2"}
    settings = settings_for_data(form_values(dataset_path=str(tiny_dataset), **wrong))
    assert settings == Settings(dataset_path=str(tiny_dataset), sigma=2)


def test_what_is_shown_of_the_data_set_depends_on_settings_of_the_form() -> None:
    assert {*field_keys(settings_affecting("data", "sample", "views", "decoding_error"))} <= {*FORM_KEYS}
