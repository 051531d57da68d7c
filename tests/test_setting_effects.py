"""Every setting takes effect: the program reads it, and an image varies with each that says so."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from backend.config import RunConfig, Settings, parse_settings, settings_affecting
from backend.data.dataset import View
from backend.data.samples import read_splits
from backend.training.build import build_augmentation, build_images, build_store, crops_in_force

REPOSITORY = Path(__file__).resolve().parents[1]
# the program without what copies, checks or shows every setting alike
READERS = [
    REPOSITORY / "train.py",
    *(path for path in sorted((REPOSITORY / "backend").rglob("*.py")) if "config" not in path.parts),
]
# not read by their own name, but through a property of Settings or RunConfig that is made of them
READ_AS = {
    "output_stride": "stride_in_force",
    "crop_mm_per_px": "crop_frame",
    "crop_share": "crop_frame",
}
# another value of a setting whose type does not tell one
OTHER_VALUES: dict[str, Any] = {"flip_pairs": "nose=ear"}
NUM_EPOCHS = 4  # a mirrored image comes in every second epoch


def names_read(path: Path) -> Iterator[str]:
    """What a file reads of settings: `settings.NAME`, `config.settings.NAME`, `config.value("NAME")`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and _last_name(node.value) in ("settings", "config"):
            yield node.attr
        if isinstance(node, ast.Call) and _last_name(node.func) == "value":
            yield from (word.value for word in node.args if isinstance(word, ast.Constant))


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


@pytest.fixture(scope="module")
def read() -> set[str]:
    return {name for path in READERS for name in names_read(path)}


@pytest.mark.parametrize("name", Settings.model_fields)
def test_the_program_reads_every_setting(name: str, read: set[str]) -> None:
    assert READ_AS.get(name, name) in read, "no code reads it: see CONTRIBUTING.md, A setting, step 4"


def test_every_exception_is_needed(read: set[str]) -> None:
    assert not read & {*READ_AS}


def another_value(name: str) -> Any:
    """A value that a setting accepts beside its default: its highest, another choice, or the opposite."""
    field = Settings.model_fields[name]
    if name in OTHER_VALUES:
        return OTHER_VALUES[name]
    if isinstance(field.default, bool):
        return not field.default
    limits = [limit.le for limit in field.metadata if getattr(limit, "le", None) is not None]
    if isinstance(field.default, int | float) and limits:
        return limits[0]
    choices = [choice for choice in get_args(field.annotation) if choice != field.default]
    assert choices, f"add a value of {name} to OTHER_VALUES"
    return choices[0]


def draw_views(settings: Settings) -> list[View]:
    """One image as the first epochs see it."""
    splits = read_splits(settings)
    store = build_store(
        splits.train, RunConfig(settings, crops_in_force(RunConfig(settings, {}), splits.train))
    )
    augmentation = build_augmentation(settings, splits.annotations.landmark_names)
    images = build_images(settings, splits.train, store, augmentation)
    return [images.draw((epoch, 0)) for epoch in range(NUM_EPOCHS)]


@pytest.mark.parametrize("name", settings_affecting("views"))
def test_an_image_varies_with_every_setting_that_affects_the_views(name: str, tiny_dataset: Path) -> None:
    data = {"dataset_path": str(tiny_dataset), "image_size": (64, 64)}
    usual = draw_views(parse_settings(data))
    changed = draw_views(parse_settings({**data, name: another_value(name)}))
    assert any(
        not np.array_equal(one.picture, other.picture)
        or not np.array_equal(one.points_xy_input, other.points_xy_input)
        for one, other in zip(usual, changed, strict=True)
    )
