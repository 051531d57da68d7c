"""Look up the visible words of the page, which handlers and layouts name by key.

The words are in `ui.text.en` and `ui.text.fa`, under the same keys.
"""

from __future__ import annotations

from html import escape

from ui.text.en import TEXT as ENGLISH
from ui.text.fa import TEXT as PERSIAN
from ui.text.language import LEFT_TO_RIGHT_MARK, isolate, isolate_latin, spoken

_WORDS = {"en": ENGLISH, "fa": {key: isolate_latin(text) for key, text in PERSIAN.items()}}


def say(key: str, **values: object) -> str:
    """A text in the language of the page, with its placeholders filled in."""
    return _WORDS[spoken().code][key].format(**values)


def say_count(key: str, num: int, **values: object) -> str:
    """A text with a number, in its singular or plural form."""
    return say(f"{key}_one" if num == 1 else key, num=num, **values)


def say_cases(num: int, kind: str) -> str:
    """The cases that an interval or a test counts: "12 images", "3 patients"."""
    return say_count(f"num_{kind}s", num)


def say_label(name: str, prefix: str = "") -> str:
    """The label of a setting or a column; one that is unknown here, from another version or a data set, keeps
    its name."""
    return say(prefix + name) if prefix + name in ENGLISH else quote(name)


def quote(words: str) -> str:
    """Words that stay as the backend wrote them, in English, with their order kept on a page from right to
    left."""
    return isolate(words) if spoken().direction == "rtl" else words


def in_markdown(words: object) -> str:
    """Words of the backend, escaped for a Markdown text, which would take `<name>` for a tag and `a*b*` for
    emphasis."""
    return escape(str(words), quote=False).replace("*", r"\*").replace("`", r"\`")


def from_left(words: str) -> str:
    """Words on a chart that is positioned by their left end, in any language."""
    return LEFT_TO_RIGHT_MARK + words if spoken().direction == "rtl" else words


def in_bytes(number: float) -> str:
    """Bytes for people: "10.4 GiB", "25 MiB", "310 KiB"."""
    if number >= 2**30:
        return f"{number / 2**30:.1f} GiB"
    return f"{number / 2**20:.0f} MiB" if number >= 2**20 else f"{number / 2**10:.0f} KiB"


def in_time(seconds: float) -> str:
    """Seconds for people: "42 s", "12 min", "3 h 05 min"."""
    if seconds < 90:
        return say("time_seconds", seconds=f"{seconds:.0f}" if seconds >= 10 else f"{seconds:.1f}")
    minutes = round(seconds / 60)
    if minutes < 90:
        return say("time_minutes", minutes=minutes)
    return say("time_hours", hours=minutes // 60, minutes=f"{minutes % 60:02d}")


def in_time_left(seconds: float) -> str:
    """Remaining time: "12 min left"; or that the run is finishing, where the last steps take longer than
    predicted."""
    return say("time_left", time=in_time(seconds)) if seconds >= 0.5 else say("time_left_none")


def in_distance(px: float | None, mm: float | None) -> str:
    """An error in mm where the pixel size is known, else in px; never both."""
    if mm is not None:
        return f"{mm:.2f} mm"
    return f"{px:.1f} px" if px is not None else "-"
