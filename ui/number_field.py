"""Fields for numbers: text boxes that offer digits on a phone, and sliders with such a box in their corner.

The page has no number inputs, because a browser drops the digits and separators that it does not know. Typed
text stays as it is; if it is written in an unusual way, a line above the field says how it was understood.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from backend.config import AUTO
from backend.errors import UserError
from backend.numbers import format_number, read_whole_number
from ui.bindings import PRIVATE, Updates, script
from ui.text.say import quote, say

MISTAKE = "field-error"


def number_classes(*, is_whole: bool) -> list[str]:
    """Return the CSS classes of a number field."""
    return ["number-field", "whole-number" if is_whole else "any-number"]


def create_number_field(
    value: float | str | None, *, is_whole: bool, accepts_auto: bool = False, **named: Any
) -> gr.Textbox:
    """Create a field for a number, with a label and help. If it accepts "auto", an empty field means it."""
    return gr.Textbox(
        value=field_text(value),
        max_lines=1,
        placeholder=AUTO if accepts_auto else None,
        elem_classes=number_classes(is_whole=is_whole),
        html_attributes=gr.InputHTMLAttributes(
            autocapitalize="off", autocorrect="off", autocomplete="off", spellcheck=False
        ),
        **named,
    )


def field_text(value: float | str | None) -> str:
    """Return the text that a field shows for a value."""
    return format_number(value) if isinstance(value, int | float) else value or ""


def understood_info(text: str, info: str) -> str:
    """Return a field's help, preceded by how its value was understood."""
    return say("field_understood", value=f"= {text}", info=info)


def mistake_info(what: str) -> str:
    """Return what replaces a field's help when its value is wrong."""
    return say("field_mistake", what=quote(what))


@dataclass(frozen=True)
class NumberedSlider:
    """A slider over whole numbers, with a field in its corner for typing one."""

    slider: gr.Slider
    field: gr.Textbox
    info: str | None

    def bind(self) -> None:
        """Make the field follow the slider, unless somebody is typing in it."""
        follow = script("follow_slider.js", self.field.elem_id, number_classes(is_whole=True), self.info)
        self.slider.change(None, self.slider, [self.field, self.slider], js=follow, **PRIVATE)

    @property
    def typed(self) -> Sequence[Any]:
        """The events of a typed number: Enter, or leaving the field."""
        return [self.field.submit, self.field.blur]

    def take(self, typed: str, maximum: int) -> tuple[int | None, Updates]:
        """Return the typed number and updates that show it; or None and updates that mark the mistake."""
        minimum = int(self.slider.minimum)
        try:
            number = read_whole_number(typed)
            if not minimum <= number <= maximum:
                raise UserError(say("number_outside", number=number, minimum=minimum, maximum=maximum))
        except UserError as error:
            return None, {
                self.field: gr.update(elem_classes=[*number_classes(is_whole=True), MISTAKE]),
                self.slider: gr.update(info=mistake_info(str(error))),
            }
        return number, {
            self.field: gr.update(value=str(number), elem_classes=number_classes(is_whole=True)),
            self.slider: gr.update(value=number, info=self.info),
        }


def create_numbered_slider(
    minimum: int, maximum: int, value: int, *, label: str, elem_id: str, info: str | None = None, **named: Any
) -> NumberedSlider:
    """Create the slider with its field in the corner; `named` places both."""
    with gr.Column(elem_classes="numbered-slider", **named):
        slider = gr.Slider(
            minimum, maximum, value, step=1, label=label, info=info, elem_id=elem_id, buttons=[]
        )
        field = create_number_field(
            value, is_whole=True, label=label, show_label=False, container=False, elem_id=f"{elem_id}-typed"
        )
    return NumberedSlider(slider, field, info)
