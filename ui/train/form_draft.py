"""The Train form as the browser stores it: over a refresh, a restarted dashboard, and in both languages.

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
    """The `values` to fill in, by form key; `lost`: descriptions of those that are no longer valid."""

    values: dict[str, Any]
    lost: tuple[str, ...] = ()


def restore(stored: Any, defaults: Values) -> Draft:
    """Return what a browser stored, as far as it is still valid together with the defaults.

    Each value that is no longer known or accepted, and a data set or a reader that is gone, falls back to its
    default alone.
    """
    if not isinstance(stored, Mapping):
        return Draft({})
    fitting = {
        key: value for key, value in stored.items() if key in defaults and _fits(key, value, defaults[key])
    }
    values = {**to_fields(fitting), **understood_by_key(fitting)}
    # without the wrong values, others may be wrong that were valid beside them
    while invalid := [key for key in mistakes_by_key(to_settings({**defaults, **values})) if key in values]:
        for key in invalid:
            del values[key]

    if not _exists(values.get("dataset_path")):
        values.pop("dataset_path", None)
    if not _is_reader({**defaults, **values}):
        values.pop("annotation_type", None)
    # a data set that was never chosen needs no message
    lost = [key for key in stored if key not in values and (key != "dataset_path" or stored[key])]
    return Draft(
        values, tuple(say("draft_value", label=say_label(key), value=quote(str(stored[key]))) for key in lost)
    )


def draft_note(draft: Draft) -> str:
    """Say which values of a restored form were reset; empty if none were."""
    return say("draft_lost", values="; ".join(draft.lost)) if draft.lost else ""


def _fits(key: str, value: Any, default: Any) -> bool:
    """Whether a component with this default can hold the value. Older pages stored numbers as numbers."""
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    return isinstance(value, str) or (isinstance(value, int | float) and number_setting(key) is not None)


def _exists(path: str | None) -> bool:
    """Whether there is such a file or folder."""
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
