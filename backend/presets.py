"""Named sets of settings to start from, by the time available. A setting that is also given explicitly wins.

A setting that only another preset changes is at its default, so that choosing a preset means the same
whatever was chosen before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from backend.config import Choice, RunConfig, Settings


@dataclass(frozen=True)
class Preset:
    """The measured error and time, and the values of settings as `Settings` holds them."""

    description: str
    values: Mapping[str, Any]


_COMMON: dict[str, Any] = {
    "model": "hrnet",
    "image_size": (256, 256),
    "batch_size": 8,
    "loss": "kl",
    "lr": 1.5e-3,
    "mixed_precision": True,
    "resize": "stretch",
    "refine": True,
}

PRESETS: dict[str, Preset] = {
    "fast": Preset(
        "1.18 mm on ISBI 2015, 5 min on two cores",
        {
            **_COMMON,
            "epochs": 20,
            "warmup_epochs": 2.0,
            "refine_epochs": 12,
            "num_refiners": 1,
        },
    ),
    "balanced": Preset(
        "1.11 mm on ISBI 2015, 28 min on two cores",
        {
            **_COMMON,
            "epochs": 60,
            "warmup_epochs": 6.0,
            "refine_epochs": 40,
            "num_refiners": 3,
        },
    ),
    "best": Preset(
        "1.08 mm on ISBI 2015, 71 min on one to two cores",
        {
            **_COMMON,
            "epochs": 60,
            "warmup_epochs": 6.0,
            "refine_epochs": 32,
            "num_refiners": 6,
            "crop_size": 96,
            "crop_mm_per_px": 0.2,
            "shape_prior": True,
        },
    ),
}


def preset_values(name: str) -> dict[str, Any]:
    """Return every setting that any preset sets, with this preset's value."""
    all_keys = dict.fromkeys(key for preset in PRESETS.values() for key in preset.values)
    return {key: Settings.model_fields[key].default for key in all_keys} | dict(PRESETS[name].values)


def with_preset(name: str | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """Add a preset's values to the given settings, which win. None: no preset."""
    return {**(preset_values(name) if name else {}), **given}


def match_preset(values: Mapping[str, Any]) -> str | None:
    """Return the name of the preset whose values are all in `values`; None if there is none.

    A setting that `values` lacks is at its default.
    """
    for name in PRESETS:
        preset = preset_values(name)
        if all(values.get(key, Settings.model_fields[key].default) == value for key, value in preset.items()):
            return name
    return None


def record_preset(config: RunConfig, name: str) -> RunConfig:
    """Add the preset to the configuration as its first choice, with the values that replace its own."""
    replaced = {
        key: getattr(config.settings, key)
        for key, value in preset_values(name).items()
        if getattr(config.settings, key) != value
    }
    differences = ", ".join(f"{key} {_format_value(value)}" for key, value in replaced.items())
    reason = f"as asked, but {differences}" if replaced else "as asked"
    return replace(config, chosen={"preset": Choice(name, reason), **config.chosen})


def _format_value(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
