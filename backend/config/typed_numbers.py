"""Settings that hold numbers: which they are, and how each is read as it was typed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

from pydantic.fields import FieldInfo

from backend.errors import UserError
from backend.numbers import read_number, read_whole_number, to_latin

AUTO = "auto"


@dataclass(frozen=True)
class NumberSetting:
    """A setting that holds a number, or a pair of them (height, width), or may hold "auto" instead."""

    is_whole: bool
    accepts_auto: bool
    is_pair: bool

    def read(self, typed: Any, name: str = "") -> Any:
        """The number that was typed; None where nothing was. Raises ValueError with the cure, after the
        `name`.
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
    """What a field takes that holds a number; None for the others."""
    kinds = _kinds_of(field.annotation)
    if int not in kinds and float not in kinds:
        return None
    return NumberSetting(int in kinds, AUTO in kinds, isinstance(field.default, tuple))


def _kinds_of(annotation: Any) -> set[Any]:
    """The types and the words that an annotation is made of."""
    parts = [part for part in get_args(annotation) if not isinstance(part, FieldInfo)]
    return set().union(*map(_kinds_of, parts)) if parts else {annotation}
