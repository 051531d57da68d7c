from __future__ import annotations

import asyncio

import gradio as gr
import pytest

from ui.number_field import (
    NumberedSlider,
    create_number_field,
    create_numbered_slider,
    number_classes,
    understood_info,
)
from ui.text.language import speaking


@pytest.fixture
def numbered() -> NumberedSlider:
    async def build() -> NumberedSlider:  # Gradio wants a loop
        with gr.Blocks():
            made = create_numbered_slider(1, 2, 1, label="Image", elem_id="image", info="one of them")
            made.bind()
        return made

    return asyncio.run(build())


def test_a_field_shows_a_plain_number_and_says_that_empty_is_auto() -> None:
    assert create_number_field(6.0, is_whole=False).value == "6"
    assert create_number_field(1e-5, is_whole=False).value == "0.00001"
    assert create_number_field(None, is_whole=False).value == ""
    field = create_number_field("auto", is_whole=True, accepts_auto=True)
    assert (field.value, field.placeholder) == ("auto", "auto")


def test_what_was_understood_comes_before_the_help_in_both_languages() -> None:
    assert understood_info("0.001", "help") == "**= 0.001** · help"
    with speaking("fa"):
        assert "= 0.001" in understood_info("0.001", "help")


@pytest.mark.parametrize(("typed", "number"), [("۱۷", 17), (" 30", 30), ("1.0", 1)])
def test_a_number_typed_beside_a_slider_moves_it(numbered: NumberedSlider, typed: str, number: int) -> None:
    taken, updates = numbered.take(typed, 30)
    assert taken == number
    assert updates[numbered.slider] == gr.update(value=number, info="one of them")
    assert updates[numbered.field] == gr.update(value=str(number), elem_classes=number_classes(is_whole=True))


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("2.5", "write 2 or 3"),
        ("31", "31 is not between 1 and 30"),
        ("0", "not between"),
        ("", "not a number"),
        ("x", "not a"),
    ],
)
def test_what_is_not_on_the_slider_is_refused_beside_it(
    numbered: NumberedSlider, typed: str, message: str
) -> None:
    taken, updates = numbered.take(typed, 30)
    assert taken is None
    assert message in updates[numbered.slider]["info"] and "value" not in updates[numbered.slider]
    assert "field-error" in updates[numbered.field]["elem_classes"]
    assert "value" not in updates[numbered.field]  # what was typed stays
