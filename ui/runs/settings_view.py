"""The settings of one run, and the differences between several, as HTML tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from backend.config import RunConfig
from ui.figures.table import table_html
from ui.text.say import say, say_label


def settings_table(config: RunConfig | None) -> str:
    """Render every setting with its value, and the reason if the program chose it."""
    if config is None:
        return ""
    preset = ["preset"] if "preset" in config.chosen else []  # not a setting, but it chose some of them
    lines = [
        _settings_line(name, config.value(name), config.chosen[name].reason if name in config.chosen else "")
        for name in (*preset, *config.settings.model_dump())
    ]
    return table_html(
        say("settings_of"), [say(word) for word in ("setting", "value", "note")], lines, sorts=False
    )


def differing_settings(configs: Mapping[str, RunConfig]) -> dict[str, list[Any]]:
    """Return the settings in which the runs differ, each with its value in effect in every run."""
    differing: dict[str, list[Any]] = {}
    for name in next(iter(configs.values())).settings.model_dump():
        values = [config.value(name) for config in configs.values()]
        if any(value != values[0] for value in values):
            differing[name] = values
    return differing


def differences_table(configs: Mapping[str, RunConfig]) -> str:
    """Render the settings in which runs differ, side by side; values unlike the first run's are marked."""
    differing = differing_settings(configs)
    if not differing:
        return f'<p class="note">{escape(say("settings_equal"))}</p>'
    lines = []
    for name, values in differing.items():
        cells = "".join(_value_cell(value, is_marked=value != values[0]) for value in values)
        lines.append(f"<tr><td>{escape(say_label(name))}</td>{cells}</tr>")
    return table_html(say("settings_differ"), [say("setting"), *configs], lines, sorts=False)


def _value_cell(value: Any, *, is_marked: bool) -> str:
    text = f"<bdi>{escape(_format_value(value))}</bdi>"
    return f"<td><mark>{text}</mark></td>" if is_marked else f"<td>{text}</td>"


def _format_value(value: Any) -> str:
    is_size = isinstance(value, Sequence) and not isinstance(value, str)
    return " x ".join(map(str, value)) if is_size else str(value)


def _settings_line(name: str, value: Any, reason: str) -> str:
    note = say("chosen_by", reason=reason) if reason else ""
    label, text = escape(say_label(name)), escape(_format_value(value))
    return f"<tr><td>{label}</td><td><bdi>{text}</bdi></td><td>{escape(note)}</td></tr>"
