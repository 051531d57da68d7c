"""Plain HTML tables, sorted in the browser (`sort_tables.js`) by a click on a column's head.

Numbers sort by value, whatever unit follows them, words as a person orders them, and missing values come last
in both directions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import Enum
from html import escape


class ByWords(Enum):
    """How a cell without a number is sorted."""

    WORDS = "words"


WORDS = ByWords.WORDS
SortKey = float | tuple[float, ...] | None | ByWords
"""A number, several of which the first that differs decides, None for a number that is missing, or the words.
"""


def table_html(
    label: str, heads: Sequence[str], lines: Sequence[str], *, classes: str = "", sorts: bool = True
) -> str:
    """`label`: its name for screen readers; `heads`: words; `lines`: HTML, one `<tr>` each.

    A table that is too wide for a small screen scrolls by itself, by finger and by keyboard.
    """
    head = "".join(f'<th scope="col">{_head(word, sorts)}</th>' for word in heads)
    return (
        f'<div class="{f"plain-table {classes}".strip()}" role="region" aria-label="{escape(label)}" tabindex="0">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def cell_html(words: str, key: SortKey = WORDS, *, html: str | None = None, classes: str = "") -> str:
    """A cell: its words, or HTML instead, and its sort key."""
    sort = "" if key is WORDS else f' data-sort="{_sort_words(key)}"'
    kind = f' class="{escape(classes)}"' if classes else ""
    return f"<td{kind}{sort}><bdi>{escape(words) if html is None else html}</bdi></td>"


def opening_line(key: str, cells: Sequence[tuple[str, SortKey]]) -> str:
    """A row that opens what `key` names; its first cell is a button."""
    (words, sort), *others = cells
    button = f'<button type="button">{escape(words)}</button>'
    row = cell_html(words, sort, html=button) + "".join(cell_html(*other) for other in others)
    return f'<tr data-key="{escape(key)}">{row}</tr>'


def _head(word: str, sorts: bool) -> str:
    return f'<button type="button">{escape(word)}</button>' if sorts else escape(word)


def _sort_words(key: SortKey) -> str:
    numbers = key if isinstance(key, tuple) else (key,)
    known = [
        float(number) for number in numbers if isinstance(number, int | float) and not math.isnan(number)
    ]
    return " ".join(f"{number!r}" for number in known) if len(known) == len(numbers) else ""
