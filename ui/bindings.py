"""How the page binds its events and their scripts, and what their handlers return."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

STATIC = Path(__file__).parent / "static"

Updates = dict[Any, Any]
"""What a handler returns: the new value of each component that changes."""

# Not offered to programs. `show_progress_on=[]` keeps the page fast: with "hidden" alone, each event makes
# Gradio rewrite the state of every output of every event that ever ran, and look each of them up in the page.
PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "show_progress_on": []}

LATEST: dict[str, Any] = {**PRIVATE, "trigger_mode": "always_last"}
"""For inputs that change faster than they are answered: the last change is always answered."""

SEQUENTIAL: dict[str, Any] = {**PRIVATE, "trigger_mode": "multiple", "concurrency_limit": 1}
"""For events of which every one must be answered, in order."""


def show_figures(plots: Sequence[Any], figures: Sequence[tuple[str, Any]]) -> Updates:
    """Show titles and figures in the first plots, and hide the others."""
    updates: Updates = {plot: gr.update(visible=False) for plot in plots}
    for plot, (title, figure) in zip(plots, figures, strict=False):
        updates[plot] = gr.update(value=figure, label=title, visible=True)
    return updates


def read_static(name: str) -> str:
    """Read a file in `ui/static`."""
    return (STATIC / name).read_text(encoding="utf-8")


def script(name: str, *values: object) -> str:
    """Return a function in a file of `ui/static`, for `js=`; it gets `values` before what Gradio passes."""
    function = read_static(name).strip().removesuffix(";")
    if not values:
        return function
    first = ", ".join(json.dumps(value, ensure_ascii=False) for value in values)
    return f"(...passed) => ({function})({first}, ...passed)"
