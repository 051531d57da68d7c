"""A table of plain HTML: how the page shows one that is read and not clicked. Pure: words to HTML."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape


def table_html(label: str, heads: Sequence[str], lines: Sequence[str]) -> str:
    """`label`: what a screen reader calls it; `heads`: words; `lines`: HTML, a `<tr>` each.

    One that is too wide for a small screen is scrolled by itself, by finger and by keyboard.
    """
    head = "".join(f'<th scope="col">{escape(word)}</th>' for word in heads)
    return (
        f'<div class="plain-table" role="region" aria-label="{escape(label)}" tabindex="0">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )
