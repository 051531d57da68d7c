"""The foot of the page: what `backend.check` finds on this computer, when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from backend.device import unusable
from backend.errors import UserError
from ui.bindings import PRIVATE
from ui.text.say import quote, say, say_count
from ui.torch_queries import query_checks


def create_check_panel(runs_dir: Path, data_root: Path) -> None:
    """Lay out the panel, closed; it looks each time it is opened."""
    with gr.Accordion(say("check_title"), open=False, elem_id="check") as panel:
        found = gr.HTML(elem_id="check-found")
    user_agent = gr.Textbox(visible=False)
    look = partial(on_open, runs_dir, data_root)
    panel.expand(look, [user_agent], [found], js="() => navigator.userAgent", **PRIVATE)


def on_open(runs_dir: Path, data_root: Path, user_agent: str) -> Iterator[str]:
    """Say that it takes a moment, then show what was found."""
    yield f'<p role="status">{escape(say("check_looking"))}</p>'
    try:
        yield checks_html(query_checks(runs_dir, data_root, user_agent))
    except UserError as error:  # then no training starts either
        yield f'<p role="alert">{escape(str(error))}</p>'


def checks_html(checks: Sequence[Mapping[str, Any]]) -> str:
    """Return the faults, each with its cure, and then all that was found."""
    faults = [check for check in checks if check["fault"]]
    verdict = say_count("check_faults", len(faults)) if faults else say("check_no_fault")
    found = "".join(map(_row, [*faults, *(check for check in checks if not check["fault"])]))
    return f'<p role="status">{escape(verdict)}</p><dl>{found}</dl>'


def _row(check: Mapping[str, Any]) -> str:
    key = check["name"]
    name, value = say(f"check_name_{key}"), quote(check["value"] or say("check_none"))
    if not check["fault"]:
        return f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
    fault, cure, values = check["fault"], check["cure"], check["values"]
    # a GPU that cannot be used is explained in the words of the top of the page
    why = say(f"gpu_why_{fault}" if fault in unusable.ENGLISH else f"check_fault_{fault}", **values)
    what_to_do = say(f"gpu_cure_{cure}" if cure in unusable.CURES else f"check_cure_{cure}", **values)
    said = f"<dd><strong>{escape(why)}</strong></dd><dd>{escape(what_to_do)}</dd>"
    return f'<div class="faulty"><dt>{escape(name)}</dt><dd>{escape(value)}</dd>{said}</div>'
