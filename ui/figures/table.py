"""Plain HTML tables, sorted in the browser (`sort_tables.js`) by a click on a column's head.

Numbers sort by value, without their unit, text as a person orders it, and missing values come last
in both directions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import Enum
from html import escape


class ByText(Enum):
    """The sort key of a cell that is sorted by its text."""

    BY_TEXT = "text"


BY_TEXT = ByText.BY_TEXT
SortKey = float | tuple[float, ...] | None | ByText
"""A number, several of which the first that differs decides, None for a missing number, or the text."""


def table_html(
    label: str, heads: Sequence[str], lines: Sequence[str], *, classes: str = "", sorts: bool = True
) -> str:
    """Render a table. `label`: its name for screen readers; `heads`: text; `lines`: HTML, one `<tr>` each.

    A table that is too wide for a small screen scrolls by itself, by finger and by keyboard.
    """
    head = "".join(f'<th scope="col">{_head(text, sorts)}</th>' for text in heads)
    all_classes = f"plain-table {classes}".strip()
    return (
        f'<div class="{all_classes}" role="region" aria-label="{escape(label)}" tabindex="0">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def cell_html(text: str, key: SortKey = BY_TEXT, *, html: str | None = None, classes: str = "") -> str:
    """Render a cell from its text, or from HTML instead, with its sort key."""
    sort = "" if key is BY_TEXT else f' data-sort="{_format_sort_key(key)}"'
    kind = f' class="{escape(classes)}"' if classes else ""
    return f"<td{kind}{sort}><bdi>{escape(text) if html is None else html}</bdi></td>"


def opening_line(key: str, cells: Sequence[tuple[str, SortKey]]) -> str:
    """Render a row that opens what `key` names; its first cell is a button."""
    (text, sort_key), *others = cells
    button = f'<button type="button">{escape(text)}</button>'
    row = cell_html(text, sort_key, html=button) + "".join(cell_html(*cell) for cell in others)
    return f'<tr data-key="{escape(key)}">{row}</tr>'


def _head(text: str, sorts: bool) -> str:
    return f'<button type="button">{escape(text)}</button>' if sorts else escape(text)


def _format_sort_key(key: SortKey) -> str:
    numbers = key if isinstance(key, tuple) else (key,)
    present = [
        float(number) for number in numbers if isinstance(number, int | float) and not math.isnan(number)
    ]
    return " ".join(f"{number!r}" for number in present) if len(present) == len(numbers) else ""
