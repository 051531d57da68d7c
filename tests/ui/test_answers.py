from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import gradio as gr
import pytest

from ui.answers import VOID, NoAnswer, Part, Superseded, create_part, question_of, with_questions


def test_an_answer_comes_with_its_question() -> None:
    answer = with_questions(["answered"], lambda value: {"words": value})
    assert answer("[1]", "one") == {"answered": "[1]", "words": "one"}


def test_steps_on_the_way_are_no_answer_yet() -> None:
    def handler(value: str) -> Iterator[dict[str, str]]:
        yield {"words": "wait"}
        yield {"words": value}

    answer = with_questions(["answered"], handler)
    assert [*answer("[1]", "one")] == [{"words": "wait"}, {"words": "one"}, {"answered": "[1]"}]


def test_a_handler_may_answer_several_questions() -> None:
    answer = with_questions(["a", "b"], lambda value: {"words": value})
    assert answer("[1]", "[2]", "one") == {"a": "[1]", "b": "[2]", "words": "one"}


@pytest.mark.parametrize("in_steps", [False, True])
def test_what_has_no_answer_is_said_and_what_is_superseded_says_nothing(in_steps: bool) -> None:
    def refuse(mistake: type[Exception]) -> dict[str, str]:
        raise mistake

    def refuse_in_steps(mistake: type[Exception]) -> Iterator[dict[str, str]]:
        raise mistake
        yield {}

    answer = with_questions(["answered"], refuse_in_steps if in_steps else refuse)

    def last(*values: Any) -> dict[Any, Any]:
        found = answer(*values)
        return [*found][-1] if in_steps else found

    assert last("[1]", NoAnswer) == {"answered": VOID + "[1]"}
    assert last("[1]", Superseded) == {"answered": gr.skip()}


def test_a_question_is_written_as_the_browser_writes_it() -> None:
    assert question_of("a", None, "\u0622", 2) == '["a",null,"\u0622",2]'


def test_the_browser_takes_the_question_from_the_part_s_own_inputs() -> None:
    async def build() -> tuple[Part, Any]:
        with gr.Blocks() as page:
            other, own, button = gr.Textbox(), gr.Textbox(), gr.Button()
            part = create_part("part", ("#part",), [own])
            part.asks(own.change)
            part.answers(button.click, lambda *_: {}, [other, own], [])
            return part, page

    part, page = asyncio.run(build())
    asked, answered, settled = page.fns.values()
    assert asked.fn is None and "ask(" in asked.js
    assert "[1].map((place) => values[place])" in answered.js
    assert answered.inputs[0] is part.answered is answered.outputs[0] is settled.inputs[0]
