"""The form of a run: settings to components and back. Ranges, defaults and help are the settings model's."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

import gradio as gr

from backend.config import (
    AUTO,
    NUMBER_SETTINGS,
    Group,
    NumberSetting,
    RunConfig,
    Settings,
    find_mistakes,
    parse_settings,
    settings_affecting,
    settings_in,
    sides_of,
)
from backend.numbers import to_latin
from backend.presets import PRESETS, preset_values
from ui.number_field import (
    MISTAKE,
    create_number_field,
    field_text,
    mistake_info,
    number_classes,
    understood_info,
)
from ui.text.say import in_markdown, quote, say, say_label

# `image_size` is two numbers on the page; every other setting is one component of its own name
SIZE_KEYS = ("image_height", "image_width")


def field_keys(names: Iterable[str]) -> tuple[str, ...]:
    """Return the keys of the fields for these settings."""
    return tuple(key for name in names for key in (SIZE_KEYS if name == "image_size" else (name,)))


DATASET_KEYS = field_keys(settings_in("dataset"))  # placed by hand
MAIN_KEYS = field_keys(settings_in("main"))
# under a heading each, `advanced_NAME`
ADVANCED_GROUPS = {
    group: field_keys(settings_in(group)) for group in get_args(Group) if group not in ("dataset", "main")
}
ADVANCED_KEYS = tuple(key for keys in ADVANCED_GROUPS.values() for key in keys)
# the order in which handlers get the form's values
FORM_KEYS = (*DATASET_KEYS, *MAIN_KEYS, *ADVANCED_KEYS)
# the fields on which the parts of the page depend: only their changes update a part
DATA_KEYS = field_keys(settings_affecting("data"))
SAMPLE_KEYS = field_keys(settings_affecting("sample"))
MEMORY_KEYS = field_keys(settings_affecting("data", "memory", "estimate"))
ACCEPT = "accept_implausible"  # shown beside the problem that it accepts

FormValues = Mapping[str, Any]
"""The values of the form's fields, as they are typed, by key."""


CUSTOM = "custom"  # the choice of no preset


def build_preset_choice() -> gr.Radio:
    """Create the choice of a preset, each with what it reaches."""
    choices = [(say("preset_choice", name=name, info=say(f"preset_{name}_info")), name) for name in PRESETS]
    choices.append((say("preset_custom"), CUSTOM))
    return gr.Radio(choices, value=CUSTOM, label=say("preset"), info=say("preset_info"), elem_id="preset")


def preset_fields(name: str) -> dict[str, Any]:
    """Return a preset's values by form key."""
    values = preset_values(name)
    sizes = dict(zip(SIZE_KEYS, values.pop("image_size", ()), strict=False))
    return to_fields({**sizes, **values})


def build_field(key: str) -> gr.components.Component:
    """Create the component of one form key, with its default and help."""
    field = Settings.model_fields["image_size" if key in SIZE_KEYS else key]
    default = field.default[SIZE_KEYS.index(key)] if key in SIZE_KEYS else field.default
    label, info = say(key), say(f"{key}_info")
    name = f"field-{key}"
    if isinstance(default, bool):
        return gr.Checkbox(value=default, label=label, info=info, elem_id=name)
    choices = get_args(field.annotation)
    if choices and all(isinstance(choice, str) for choice in choices):
        kind = gr.Radio if len(choices) <= 4 else gr.Dropdown
        return kind(list(choices), value=default, label=label, info=info, elem_id=name)
    if kind_of_number := number_setting(key):
        return create_number_field(
            default,
            is_whole=kind_of_number.is_whole,
            accepts_auto=kind_of_number.accepts_auto,
            label=label,
            info=info,
            elem_id=name,
        )
    return gr.Textbox(value=str(default), label=label, info=info, elem_id=name)


def number_setting(key: str) -> NumberSetting | None:
    """Return what a field accepts that holds a number; None for other fields."""
    return NUMBER_SETTINGS.get("image_size" if key in SIZE_KEYS else key)


def to_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values by form key as the fields show them: numbers are texts there."""
    return {key: field_text(value) if number_setting(key) else value for key, value in values.items()}


def to_settings(values: FormValues) -> dict[str, Any]:
    """Convert the form's values to raw settings for `parse_settings`."""
    raw = {key: _plain(key, value) for key, value in values.items() if key not in SIZE_KEYS}
    raw["image_size"] = tuple(_plain(key, values[key]) for key in SIZE_KEYS)
    # here, once, so that every part of the page sees the same folder; an unknown ~name stays as it was typed
    raw["dataset_path"] = os.path.expanduser(values["dataset_path"] or "")  # noqa: PTH111
    return raw


def settings_of(form: FormValues) -> Settings:
    """Convert the form's values to settings. Raises UserError."""
    return parse_settings(to_settings(form))


def form_values(config: RunConfig) -> dict[str, Any]:
    """Return a run's settings by form key: `to_settings` backwards.

    The form leaves no data set and no batch size open, so it gets those that were chosen for the run.
    """
    values = {**config.settings.model_dump(), "batch_size": config.value("batch_size")}
    values["dataset_path"] = config.value("dataset_path")
    sizes = dict(zip(SIZE_KEYS, values.pop("image_size"), strict=True))
    return to_fields({**sizes, **values})


def understood_by_key(values: FormValues) -> dict[str, str]:
    """Return how a field's value was understood, by form key, if that is not how it was typed."""
    texts: dict[str, str] = {}
    for key, typed in values.items():
        if not isinstance(typed, str) or not typed.strip():
            continue
        text = _understood(key, typed)
        if text is not None and text != typed.strip():
            texts[key] = text
    return texts


def mistakes_by_key(raw: Mapping[str, Any]) -> dict[str, str]:
    """Return what is wrong, by form key; a wrong image size is reported at the side that is wrong."""
    mistakes: dict[str, str] = {}
    for mistake in find_mistakes(raw):
        if mistake.field == "image_size":
            key = SIZE_KEYS[1] if mistake.what.startswith("width") else SIZE_KEYS[0]
            mistakes[key] = mistake.what
        else:
            mistakes[mistake.field] = mistake.what
    return mistakes


def mark_fields(
    keys: Sequence[str],
    mistakes: Mapping[str, str],
    understood: Mapping[str, str],
    marked_keys: Sequence[str],
) -> list[Any]:
    """Return updates that mark wrong fields and show how others were understood.

    `marked_keys`: fields that were marked before; they are cleared.
    """
    updates: list[Any] = []
    for key in keys:
        kind = number_setting(key)
        classes = number_classes(is_whole=kind.is_whole) if kind else []
        if key in mistakes:
            updates.append(gr.update(info=mistake_info(mistakes[key]), elem_classes=[*classes, MISTAKE]))
        elif key in understood:
            info = understood_info(understood[key], say(f"{key}_info"))
            updates.append(gr.update(info=info, elem_classes=classes))
        elif key in marked_keys:
            updates.append(gr.update(info=say(f"{key}_info"), elem_classes=classes))
        else:
            updates.append(gr.skip())
    return updates


def first_mistake(mistakes: Mapping[str, str]) -> str:
    """Say in one line, for the Start button, what is wrong first."""
    key, what = next(iter(mistakes.items()))
    return say("start_blocked", reason=f"{say_label(key)}: {quote(in_markdown(what))}")


def _plain(key: str, value: Any) -> Any:
    """Return a typed number as a number, and "auto" for an empty field that accepts it.

    Anything else stays as it is; `parse_settings` refuses it.
    """
    kind = number_setting(key)
    if kind is None:
        return value.strip() if isinstance(value, str) else value
    if kind.accepts_auto and isinstance(value, str) and not to_latin(value):
        return AUTO
    try:
        return kind.read(value)
    except ValueError:
        return value


def _understood(key: str, typed: str) -> str | None:
    """Return the number or the list of numbers in a field as text; None if it holds neither."""
    try:
        if key == "refiner_sides":
            return ", ".join(map(str, sides_of(typed)))
        kind = number_setting(key)
        return field_text(kind.read(typed)) if kind else None
    except ValueError:
        return None
