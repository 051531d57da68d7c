from __future__ import annotations

from typing import Any

import pytest

from backend import presets
from backend.config import RunConfig, Settings, parse_settings
from backend.presets import PRESETS, Preset, match_preset, preset_values, record_preset, with_preset


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid_settings(name: str) -> None:
    settings = parse_settings(with_preset(name, {}))
    values = preset_values(name)
    assert {key: getattr(settings, key) for key in values} == values
    assert match_preset(settings.model_dump()) == name
    assert PRESETS[name].description


def test_the_defaults_are_the_balanced_preset() -> None:
    assert match_preset(Settings().model_dump()) == "balanced"


def test_what_is_given_wins_and_no_preset_is_nothing() -> None:
    assert with_preset(None, {"epochs": "3"}) == {"epochs": "3"}
    settings = parse_settings(with_preset("fast", {"epochs": "3", "seed": "7"}))
    assert (settings.epochs, settings.seed, settings.batch_size, settings.resize) == (3, 7, 8, "stretch")


def test_a_preset_undoes_what_only_another_one_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, rich = Preset("a", {"epochs": 3}), Preset("b", {"epochs": 9, "seed": 5, "sigma": 2.5})
    monkeypatch.setattr(presets, "PRESETS", {"plain": plain, "rich": rich})
    assert preset_values("plain") == {"epochs": 3, "seed": 0, "sigma": "auto"}
    assert match_preset({"epochs": 3, "seed": 5}) is None
    assert match_preset({"epochs": 3}) == "plain"
    assert match_preset({"epochs": 9, "seed": 5, "sigma": 2.5, "lr": 0.1}) == "rich"


@pytest.mark.parametrize(
    "change", [{"epochs": 21}, {"image_size": (256, 128)}, {"lr": None}, {"model": "unet"}]
)
def test_settings_that_differ_anywhere_are_custom(change: dict[str, Any]) -> None:
    assert match_preset({**with_preset("fast", {}), **change}) is None


def test_config_tells_the_preset_and_what_replaced_its_values() -> None:
    asked = parse_settings(with_preset("best", {"epochs": 9, "image_size": (128, 96), "seed": 4}))
    config = record_preset(RunConfig(asked, {}), "best")
    assert config.value("preset") == "best"
    assert config.chosen["preset"].reason == "as asked, but image_size 128 96, epochs 9"
    assert RunConfig.from_dict(config.to_dict()) == config
    plain = record_preset(RunConfig(parse_settings(with_preset("best", {"seed": 4})), {}), "best")
    assert plain.chosen["preset"].reason == "as asked"
    assert Settings.model_fields.keys().isdisjoint({"preset"})
