"""Fields for numbers: text boxes that offer digits on a phone, and sliders with such a box in their corner.

A browser's own number input drops the digits and the separators that it does not know, so the page has none. What is
typed stays as it was typed; where it is written otherwise, a line above it says how it was understood.
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
    """What a field of numbers is marked with in the page."""
    return ["number-field", "whole-number" if is_whole else "any-number"]


def create_number_field(
    value: float | str | None, *, is_whole: bool, accepts_auto: bool = False, **named: Any
) -> gr.Textbox:
    """A field with a label, help and a number in it, or "auto" where that is accepted, which an empty field means."""
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
    """What a field shows of a value."""
    return format_number(value) if isinstance(value, int | float) else value or ""


def understood_info(text: str, info: str) -> str:
    """A field's help with what was understood in front."""
    return say("field_understood", value=f"= {text}", info=info)


def mistake_info(what: str) -> str:
    """What is said at a field instead of its help."""
    return say("field_mistake", what=quote(what))


@dataclass(frozen=True)
class NumberedSlider:
    """A slider over whole numbers, and the field in its corner in which one can be typed."""

    slider: gr.Slider
    field: gr.Textbox
    info: str | None

    def bind(self) -> None:
        """Let the field show where the slider is, unless it is being typed in."""
        given = (self.field.elem_id, number_classes(is_whole=True), self.info)
        follow = script("follow_slider.js", *given)
        self.slider.change(None, self.slider, [self.field, self.slider], js=follow, **PRIVATE)

    @property
    def typed(self) -> Sequence[Any]:
        """The events of a number that was typed: Enter, or another place was clicked."""
        return [self.field.submit, self.field.blur]

    def take(self, typed: str, maximum: int) -> tuple[int | None, Updates]:
        """The number that was typed, with what shows it; None, and the mistake at the field, for what is not one."""
        minimum = int(self.slider.minimum)
        try:
            number = read_whole_number(typed)
            if not minimum <= number <= maximum:
                raise UserError(say("number_outside", number=number, minimum=minimum, maximum=maximum))
        except UserError as error:
            classes = [*number_classes(is_whole=True), MISTAKE]
            marked = gr.update(info=mistake_info(str(error)))
            return None, {self.field: gr.update(elem_classes=classes), self.slider: marked}
        shown = gr.update(value=str(number), elem_classes=number_classes(is_whole=True))
        return number, {self.field: shown, self.slider: gr.update(value=number, info=self.info)}


def create_numbered_slider(
    minimum: int, maximum: int, value: int, *, label: str, elem_id: str, info: str | None = None, **named: Any
) -> NumberedSlider:
    """The slider with its field in the corner; `named` place both."""
    with gr.Column(elem_classes="numbered-slider", **named):
        slider = gr.Slider(
            minimum, maximum, value, step=1, label=label, info=info, elem_id=elem_id, buttons=[]
        )
        field = create_number_field(
            value, is_whole=True, label=label, show_label=False, container=False, elem_id=f"{elem_id}-typed"
        )
    return NumberedSlider(slider, field, info)
