"""Look up the visible text of the page, which handlers and layouts name by key.

The text is in `ui.text.en` and `ui.text.fa`, under the same keys.
"""

from __future__ import annotations

from html import escape

from ui.text.en import TEXT as ENGLISH
from ui.text.fa import TEXT as PERSIAN
from ui.text.language import LEFT_TO_RIGHT_MARK, isolate, isolate_latin, spoken

_TEXTS = {"en": ENGLISH, "fa": {key: isolate_latin(text) for key, text in PERSIAN.items()}}


def say(key: str, **values: object) -> str:
    """Return a text in the language of the page, with its placeholders filled in."""
    return _TEXTS[spoken().code][key].format(**values)


def say_count(key: str, num: int, **values: object) -> str:
    """Return a text with a number, in its singular or plural form."""
    return say(f"{key}_one" if num == 1 else key, num=num, **values)


def say_cases(num: int, kind: str) -> str:
    """Name the cases that an interval or a test counts: "12 images", "3 patients"."""
    return say_count(f"num_{kind}s", num)


def say_label(name: str, prefix: str = "") -> str:
    """Return the label of a setting or a column; one from another version or a data set keeps its name."""
    return say(prefix + name) if prefix + name in ENGLISH else quote(name)


def quote(text: str) -> str:
    """Return a text that the backend wrote, in English, with its order kept on a page from right to left."""
    return isolate(text) if spoken().direction == "rtl" else text


def in_markdown(text: object) -> str:
    """Escape a text of the backend for Markdown.

    Markdown would take `<name>` for a tag and `a*b*` for emphasis.
    """
    return escape(str(text), quote=False).replace("*", r"\*").replace("`", r"\`")


def from_left(text: str) -> str:
    """Return the text of a chart that is positioned by its left end, in any language."""
    return LEFT_TO_RIGHT_MARK + text if spoken().direction == "rtl" else text


def in_bytes(number: float) -> str:
    """Format bytes for people: "10.4 GiB", "25 MiB", "310 KiB"."""
    if number >= 2**30:
        return f"{number / 2**30:.1f} GiB"
    return f"{number / 2**20:.0f} MiB" if number >= 2**20 else f"{number / 2**10:.0f} KiB"


def in_time(seconds: float) -> str:
    """Format seconds for people: "42 s", "12 min", "3 h 05 min"."""
    if seconds < 90:
        return say("time_seconds", seconds=f"{seconds:.0f}" if seconds >= 10 else f"{seconds:.1f}")
    minutes = round(seconds / 60)
    if minutes < 90:
        return say("time_minutes", minutes=minutes)
    return say("time_hours", hours=minutes // 60, minutes=f"{minutes % 60:02d}")


def in_time_left(seconds: float) -> str:
    """Format remaining time: "12 min left"; "finishing ..." if the last steps take longer than predicted."""
    return say("time_left", time=in_time(seconds)) if seconds >= 0.5 else say("time_left_none")


def in_distance(px: float | None, mm: float | None) -> str:
    """Format an error in mm if the pixel size is known, else in px; never both."""
    if mm is not None:
        return f"{mm:.2f} mm"
    return f"{px:.1f} px" if px is not None else "-"
