"""How the page binds its events: none of them is offered to programs or shows Gradio's own progress."""

from __future__ import annotations

from typing import Any

Updates = dict[Any, Any]
"""What a handler returns: the new value of each component that changes."""

# `show_progress_on=[]` keeps the page fast: with "hidden" alone, each event makes Gradio rewrite the state of every
# output of every event that ever ran, and look each of them up in the whole page.
PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "show_progress_on": []}

LATEST: dict[str, Any] = {**PRIVATE, "trigger_mode": "always_last"}
"""For inputs that change faster than they are answered: the last change is always answered."""

SEQUENTIAL: dict[str, Any] = {**PRIVATE, "trigger_mode": "multiple", "concurrency_limit": 1}
"""For events of which every one must be answered, in order."""
