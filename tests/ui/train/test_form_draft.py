from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from backend.config import parse_settings
from ui.text.language import speaking
from ui.train.form import ADVANCED_KEYS, MAIN_KEYS, build_field, to_settings
from ui.train.form_draft import draft_note, restore

DEFAULTS: dict[str, Any] = {
    "dataset_path": "",
    "annotation_type": "mean",
    "accept_implausible": False,
    **{key: build_field(key).value for key in (*MAIN_KEYS, *ADVANCED_KEYS)},
}


def test_what_was_typed_comes_back(tiny_dataset: Path) -> None:
    stored = {
        "dataset_path": str(tiny_dataset), "model": "unet", "image_height": "128", "lr": "0.01",
        "refine": False, "sigma": "2.5", "patience": "7",
    }  # fmt: skip
    draft = restore(stored, DEFAULTS)
    assert draft.values == stored
    assert draft_note(draft) == ""
    assert parse_settings(to_settings({**DEFAULTS, **draft.values})).patience == 7


def test_a_number_comes_back_as_it_was_understood_or_was_kept_by_an_earlier_version() -> None:
    stored = {"lr": "۰٫۰۰۱", "epochs": 9, "warmup_epochs": 2.5, "refiner_sides": "۶۴،۳۲", "sigma": ""}
    draft = restore(stored, DEFAULTS)
    numbers = {"lr": "0.001", "epochs": "9", "warmup_epochs": "2.5", "refiner_sides": "64, 32", "sigma": ""}
    assert draft.values == numbers
    assert draft_note(draft) == ""


@pytest.mark.parametrize("stored", [None, [], "text", 7, {}])
def test_without_a_draft_the_form_is_as_it_is_laid_out(stored: Any) -> None:
    assert restore(stored, DEFAULTS).values == {}
    assert draft_note(restore(stored, DEFAULTS)) == ""


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("image_height", 250),
        ("lr", -1),
        ("lr", None),
        ("lr", "fast"),
        ("epochs", True),
        ("epochs", 2.5),
        ("epochs", "۲٫۵"),
        ("lr", "1,000"),
        ("refine", 1),
        ("model", "a network of another version"),
        ("loss", ["kl"]),
        ("a_setting_of_another_version", 3),
        ("dataset_path", "/data/that/is/gone"),
        ("dataset_path", "~nobody-here/films"),
        ("dataset_path", {"path": "/"}),
        ("pretrained", "resnet34.pth"),  # which hrnet, the default, cannot load
    ],
)
def test_what_cannot_be_used_any_more_falls_back_alone_and_is_told(key: str, value: Any) -> None:
    draft = restore({"seed": "5", key: value}, DEFAULTS)
    assert draft.values == {"seed": "5"}
    assert str(value) in draft_note(draft)
    assert "seed" not in draft_note(draft).lower()
    with speaking("fa"):
        assert str(value) in draft_note(restore({key: value}, DEFAULTS))


def test_what_a_lost_value_was_needed_for_falls_back_too() -> None:
    draft = restore({"model": "resnet9000", "pretrained": "weights.pth", "seed": "5"}, DEFAULTS)
    assert draft.values == {"seed": "5"}
    assert "resnet9000" in draft_note(draft) and "weights.pth" in draft_note(draft)


def test_a_reader_who_is_gone_gives_way_to_the_mean(tiny_dataset: Path) -> None:
    stored = {"dataset_path": str(tiny_dataset), "annotation_type": "Senior Orthodontists"}
    draft = restore(stored, DEFAULTS)
    assert draft.values == {"dataset_path": str(tiny_dataset)}
    assert "Senior Orthodontists" in draft_note(draft)


def test_a_data_set_that_was_never_chosen_is_no_loss() -> None:
    assert draft_note(restore({"dataset_path": None}, DEFAULTS)) == ""
