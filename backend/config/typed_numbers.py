"""The settings that hold numbers, and how each is read as the user typed it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

from pydantic.fields import FieldInfo

from backend.config.checks import SIDES
from backend.errors import UserError
from backend.numbers import read_number, read_whole_number, to_latin

AUTO = "auto"


@dataclass(frozen=True)
class NumberSetting:
    """A setting that holds a number, or a pair of them (height, width), and may accept "auto" instead."""

    is_whole: bool
    accepts_auto: bool
    is_pair: bool

    def read_value(self, value: Any) -> Any:
        """Read the setting's value: one number, or both of a pair. Raises ValueError as `read` does."""
        if not self.is_pair:
            return self.read(value)
        if not isinstance(value, list | tuple) or len(value) != len(SIDES):
            return value  # pydantic refuses it
        return tuple(self.read(typed, f"{side} ") for side, typed in zip(SIDES, value, strict=True))

    def read(self, typed: Any, name: str = "") -> Any:
        """Read one number as it was typed; None for an empty text.

        Raises ValueError with the cure; its message begins with `name`.
        """
        text = to_latin(typed) if isinstance(typed, str) else typed
        if text is None or text == "":
            return None
        if self.accepts_auto and isinstance(text, str) and text.lower() == AUTO:
            return AUTO
        try:
            return read_whole_number(typed) if self.is_whole else read_number(typed)
        except UserError as error:
            choice = f", or {AUTO}" if self.accepts_auto else ""
            raise ValueError(f"{name}{error}{choice}") from None


def number_setting_of(field: FieldInfo) -> NumberSetting | None:
    """Describe a field that holds a number; None for the others."""
    parts = _flatten(field.annotation)
    if int not in parts and float not in parts:
        return None
    return NumberSetting(
        is_whole=int in parts, accepts_auto=AUTO in parts, is_pair=isinstance(field.default, tuple)
    )


def _flatten(annotation: Any) -> set[Any]:
    """Return the types and literals of which a type annotation is composed."""
    parts = [part for part in get_args(annotation) if not isinstance(part, FieldInfo)]
    return set().union(*map(_flatten, parts)) if parts else {annotation}
