"""Checks settings by name, and describes each mistake."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from backend.config.checks import SIDES
from backend.config.settings import Settings
from backend.errors import UserError


def parse_settings(values: Mapping[str, Any]) -> Settings:
    """Validate settings by name. Raises UserError for the first mistake."""
    try:
        return Settings.model_validate(dict(values))
    except ValidationError as error:
        raise _list_mistakes(error)[0] from None


def find_mistakes(values: Mapping[str, Any]) -> list[UserError]:
    """List the first mistake of each field, with what the field accepts."""
    try:
        Settings.model_validate(dict(values))
    except ValidationError as error:
        return _list_mistakes(error)
    return []


def _list_mistakes(error: ValidationError) -> list[UserError]:
    by_field: dict[str, UserError] = {}
    for item in error.errors():
        field = str(item["loc"][0]) if item["loc"] else ""
        by_field.setdefault(field, _describe(item, field))
    return list(by_field.values())


def _describe(item: Any, field: str) -> UserError:
    if field not in Settings.model_fields:
        return UserError("unknown setting", field=field, cure=f"known are {', '.join(Settings.model_fields)}")
    message = str(item["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    if item["type"] == "value_error":
        return UserError(message, field=field)
    message = f"{message}, not {item['input']!r}"
    if item["input"] is None:  # the form passes None for an empty field of a number
        message = "is missing: a number belongs here"
    if field == "image_size" and len(item["loc"]) > 1:
        message = f"{SIDES[item['loc'][1]]} {message}"
    return UserError(message, field=field, cure=Settings.model_fields[field].description or "")
