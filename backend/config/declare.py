"""What each setting declares about itself: help, range, its group on the form, and what it affects."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field
from pydantic.fields import FieldInfo

Group = Literal[
    "dataset",  # beside the choice of the data set, placed by hand
    "main",  # always in sight; the groups below are under a heading of their own in "More settings"
    "target",
    "data",
    "augmentation",
    "optimization",
    "refinement",
    "machine",
]
Effect = Literal[
    "data",  # which images and landmarks are read, and how they are split
    "sample",  # the picture of a training image with its sigma and its crop
    "views",  # the pictures of an image as augmentation varies it
    "memory",  # the memory and the time of a training step
    "estimate",  # how many steps of which batch a run takes on which device
    "decoding_error",
]


def setting(
    default: Any, description: str, *, group: Group, affects: tuple[Effect, ...], **limits: Any
) -> Any:
    """A field of `Settings`: one flag and one form field. `limits` are pydantic's (`ge`, `lt`, `pattern`
    ...).

    An answer on the page is computed again when a setting changes that affects it, and only then.
    """
    declared: dict[str, Any] = {"group": group, "affects": [*affects]}
    return Field(default, description=description, json_schema_extra=declared, **limits)


def group_of(field: FieldInfo) -> Group:
    """The group on the form that a field declares."""
    group: Group = _declared(field)["group"]
    return group


def effects_of(field: FieldInfo) -> tuple[Effect, ...]:
    """What a field declares to affect."""
    return tuple(_declared(field)["affects"])


def _declared(field: FieldInfo) -> dict[str, Any]:
    assert isinstance(field.json_schema_extra, dict), "every field of Settings is made by `setting`"
    return field.json_schema_extra
