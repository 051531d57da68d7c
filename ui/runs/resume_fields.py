"""The settings that can change when the opened run is resumed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import gradio as gr

from backend.config import RunConfig, Settings
from backend.errors import UserError
from backend.overrides import CHANGEABLE
from ui.bindings import Updates
from ui.number_field import MISTAKE, create_number_field, number_classes
from ui.text.say import quote, say


@dataclass(frozen=True)
class ResumeFields:
    """The components, named like the settings; an empty field changes nothing."""

    panel: gr.Accordion
    dataset_path: gr.Textbox
    device: gr.Textbox
    patience: gr.Textbox
    num_workers: gr.Textbox

    @property
    def inputs(self) -> list[Any]:
        """The fields in the order of CHANGEABLE."""
        return [getattr(self, name) for name in CHANGEABLE]

    @property
    def outputs(self) -> list[Any]:
        """The components that drawing the fields changes."""
        return [getattr(self, field.name) for field in fields(self)]


def create_resume_fields() -> ResumeFields:
    """Lay out the fields, closed."""
    with gr.Accordion(say("resume_changes"), open=False, visible=False, elem_id="resume-changes") as panel:
        gr.Markdown(say("resume_changes_info"))
        with gr.Row(equal_height=True):
            boxes = {name: _create_field(name) for name in CHANGEABLE}
    return ResumeFields(panel, **boxes)


def _create_field(name: str) -> gr.Textbox:
    named: dict[str, Any] = {
        "label": say(f"resume_{name}"),
        "info": say(f"resume_{name}_info"),
        "elem_id": f"resume-{name.replace('_', '-')}",
        "min_width": 220,
    }
    if Settings.model_fields[name].annotation is int:
        return create_number_field(None, is_whole=True, **named)
    return gr.Textbox(max_lines=1, **named)


def _field_classes(name: str) -> list[str]:
    return number_classes(is_whole=True) if Settings.model_fields[name].annotation is int else []


def draw_fields(
    parts: ResumeFields, config: RunConfig | None, *, is_resumable: bool, needs_patience: bool
) -> Updates:
    """Empty the fields, with the current values as placeholders.

    The panel is open if the run needs another patience to continue.
    """
    updates: Updates = {
        parts.panel: gr.update(visible=config is not None and is_resumable, open=needs_patience)
    }
    for name in CHANGEABLE:
        in_force = "" if config is None else str(config.value(name))
        updates[getattr(parts, name)] = gr.update(
            value="", placeholder=in_force, info=say(f"resume_{name}_info"), elem_classes=_field_classes(name)
        )
    return updates


def typed_changes(values: Mapping[str, str | None]) -> dict[str, str]:
    """Return what was typed, by setting."""
    return {name: text.strip() for name, text in values.items() if text and text.strip()}


def mark_mistake(parts: ResumeFields, error: UserError) -> Updates:
    """Mark the field that is wrong and open the panel; nothing if the mistake is in none of these fields."""
    if error.field not in CHANGEABLE:
        return {}
    what = f"{error.what}; {error.cure}" if error.cure else error.what
    marked = gr.update(
        info=say("field_mistake", what=quote(what)), elem_classes=[*_field_classes(error.field), MISTAKE]
    )
    return {getattr(parts, error.field): marked, parts.panel: gr.update(open=True)}
