"""How the page's own events are bound: they show no progress and are not offered to programs."""

from __future__ import annotations

from typing import Any

# `show_progress_on=[]` is what keeps the page quick: with "hidden" alone, Gradio writes the state of every output of
# every event that ever ran anew at each event, and looks each of them up in the whole page.
QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "show_progress_on": []}

LATEST: dict[str, Any] = {**QUIET, "trigger_mode": "always_last"}
"""For what changes faster than it is answered: of those that come meanwhile, the last one is answered too."""

IN_TURN: dict[str, Any] = {**QUIET, "trigger_mode": "multiple", "concurrency_limit": 1}
"""For what must be answered each and in its order."""
