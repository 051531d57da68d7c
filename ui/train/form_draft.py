"""The Train form as the browser keeps it: over a refresh, a restarted dashboard, and in both languages.

The browser stores what differs from the defaults, by form key, for the dashboard's address. It writes at
every change, so that nothing is lost by leaving, and sends it when the page opens. Until then the form is
hidden (`page.css`) and Start is disabled, so that nobody types into a form that is about to change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.data.annotations import read_annotations
from backend.errors import UserError
from ui.text.say import quote, say, say_label
from ui.train.form import mistakes_by_key, number_setting, to_fields, to_settings, understood_by_key

STORAGE_KEY = "fiducial_train_form"
Values = Mapping[str, Any]


@dataclass(frozen=True)
class Draft:
    """`values` to fill in, by form key; `lost`: descriptions of those that are no longer valid."""

    values: dict[str, Any]
    lost: tuple[str, ...] = ()


def restore(kept: Any, defaults: Values) -> Draft:
    """What a browser kept, as far as it is still valid together with the defaults.

    Each value that is no longer known or accepted, and a data set or a reader that is gone, falls back on its
    own.
    """
    if not isinstance(kept, Mapping):
        return Draft({})
    alike = {
        key: value for key, value in kept.items() if key in defaults and _is_alike(key, value, defaults[key])
    }
    values = {**to_fields(alike), **understood_by_key(alike)}
    while wrong := [key for key in mistakes_by_key(to_settings({**defaults, **values})) if key in values]:
        for key in wrong:
            del values[key]
    if not _is_there(values.get("dataset_path")):
        values.pop("dataset_path", None)
    if not _is_reader({**defaults, **values}):
        values.pop("annotation_type", None)
    lost = [key for key in kept if key not in values and not _is_empty(key, kept[key])]
    return Draft(
        values, tuple(say("draft_value", label=say_label(key), value=quote(str(kept[key]))) for key in lost)
    )


def draft_note(draft: Draft) -> str:
    """What to say about a restored form; empty where nothing has fallen back."""
    return say("draft_lost", values="; ".join(draft.lost)) if draft.lost else ""


def _is_alike(key: str, value: Any, default: Any) -> bool:
    """Whether a component with this default can hold the value. Older pages kept numbers as numbers."""
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    return isinstance(value, str) or (isinstance(value, int | float) and number_setting(key) is not None)


def _is_empty(key: str, value: Any) -> bool:
    """A data set that was never chosen needs no message."""
    return key == "dataset_path" and not value


def _is_there(path: str | None) -> bool:
    try:
        return path is not None and Path(path).expanduser().exists()
    except (OSError, RuntimeError, ValueError):  # too long, an unknown home folder, a null byte
        return False


def _is_reader(values: Values) -> bool:
    if values["annotation_type"] == "mean":
        return True
    try:
        names = read_annotations(
            Path(values["dataset_path"] or "").expanduser(), values["dataset_format"]
        ).reader_names
    except UserError:
        return True  # the data set itself is reported as wrong; its readers are unknown
    return values["annotation_type"] in names
