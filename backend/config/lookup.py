"""The names of settings, by their group on the form and by what they affect."""

from __future__ import annotations

from backend.config.declare import Effect, Group, effects_of, group_of
from backend.config.settings import Settings


def settings_in(group: Group) -> tuple[str, ...]:
    """List the names of a group's settings, in the order of the form."""
    return tuple(name for name, field in Settings.model_fields.items() if group_of(field) == group)


def settings_affecting(*effects: Effect) -> tuple[str, ...]:
    """List the names of the settings that affect any of these."""
    return tuple(name for name, field in Settings.model_fields.items() if {*effects_of(field)} & {*effects})
