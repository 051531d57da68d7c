"""How a setting is declared: its help, its range, its group on the form, and the answers it affects."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field
from pydantic.fields import FieldInfo

Group = Literal[
    "dataset",  # beside the choice of the data set, placed by hand
    "main",  # always visible; each group below has its heading in "More settings"
    "target",
    "data",
    "augmentation",
    "optimization",
    "refinement",
    "machine",
]
# what is computed from settings
Effect = Literal[
    "data",  # which images and landmarks are read, and how they are split
    "sample",  # the picture of a training image with its sigma and its crop
    "views",  # the pictures of an image as augmentation varies it
    "memory",  # the memory and the time of a training step
    "estimate",  # how many steps of which batch a run takes on which device
    "decoding_error",  # the mean error that would remain with perfect heatmaps
    "first_network",  # what a first network is and sees: equal in the runs that share one
]


def setting(
    default: Any, description: str, *, group: Group, affects: tuple[Effect, ...], **limits: Any
) -> Any:
    """Declare one field of `Settings`; it becomes one command-line flag and one form field.

    `affects` lists what depends on the field; a part of the page is computed again when the field changes.
    `limits` are pydantic's constraints (`ge`, `lt`, `pattern`, ...).
    """
    extra: dict[str, Any] = {"group": group, "affects": [*affects]}
    return Field(default, description=description, json_schema_extra=extra, **limits)


def group_of(field: FieldInfo) -> Group:
    """Return the group on the form in which a field is declared."""
    group: Group = _extra(field)["group"]
    return group


def effects_of(field: FieldInfo) -> tuple[Effect, ...]:
    """Return the parts of the page that a field is declared to affect."""
    return tuple(_extra(field)["affects"])


def _extra(field: FieldInfo) -> dict[str, Any]:
    assert isinstance(field.json_schema_extra, dict), "every field of Settings is declared with `setting`"
    return field.json_schema_extra
