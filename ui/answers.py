"""Parts of the page that answer some inputs, and the mark on a part that no longer matches them.

A part is a few elements of the page that show something about some inputs. Its question is the values of
these inputs, as the browser writes them; a part without inputs gets a number that each event raises. An event
asks when it changes the question: the browser (`answers.js`) marks the part in gray at once. A handler
answers by drawing the part: the question travels to the server with the inputs and comes back with the
answer. The answer settles the part: the browser compares the question that was answered with the current one,
and removes the mark only if they are equal, so that a late answer to older inputs never counts as current.

An answer can arrive up to a minute after its question on a busy machine. If a late answer was drawn over the
right one, the browser presses the part's hidden button `again`, and a handler that mends the part runs again.
A handler that polls looks for changes every few seconds, and also draws the part if its question still waits
for an answer.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from ui.bindings import LATEST, PRIVATE, Updates
from ui.text.say import say

VOID = "!"  # before a question that has no answer; answers.js has the same


class NoAnswer(Exception):  # noqa: N818 (not an error of the program)
    """Raised by a handler when a wrong field leaves its inputs without an answer.

    What is shown stays, marked as belonging to other settings.
    """


class Superseded(Exception):  # noqa: N818 (not an error of the program)
    """Raised by a handler that finds that newer inputs were asked about meanwhile.

    Nothing is shown; their answer follows.
    """


@dataclass(frozen=True)
class Part:
    """A part of the page: the selectors of its elements, its inputs, and the question that it answers now.

    `keys`: those that it answers of its only input, an object; none: all of its inputs. `keeps`: what is
    shown changes only on request, so it is never marked as updating, only as belonging to other settings.
    """

    name: str
    shown_in: tuple[str, ...]
    inputs: tuple[Any, ...]
    answered: gr.Textbox
    again: gr.Button  # pressed by the browser when a late answer has replaced the right one
    keys: tuple[str, ...] = ()
    keeps: bool = False

    def asks(self, events: Any, *, repeated: bool = False) -> None:
        """Mark the part at once, in the browser, when one of these events changes the question.

        `repeated`: also if the question stays the same, since it is answered again. Bind this before the
        handlers of the same events: Gradio runs them in order, and waits until the server has accepted the
        previous one.
        """
        if repeated:
            js = f"() => {{ window.fiducialAnswers.forget({self._json}); }}"
            _binder(events)(None, None, None, js=js, **PRIVATE)
        else:
            _binder(events)(None, list(self.inputs), None, js=self.ask_js, **PRIVATE)

    def answers(
        self,
        events: Any,
        handler: Callable[..., Any],
        inputs: Sequence[Any],
        outputs: Sequence[Any],
        *,
        how: Mapping[str, Any] = LATEST,
        also: Sequence[Part] = (),
        mends: bool = False,
    ) -> Any:
        """Bind a handler that answers. Returns the event that `.then` continues.

        `inputs` include the part's own. `also`: other parts that the handler answers. `mends`: the handler
        runs again when a late answer was drawn over the right one.
        """
        answer = with_questions([part.answered for part in (self, *also)], handler)
        if mends:
            self.binds(self.again.click, answer, inputs, outputs, also=also)
        return self.binds(events, answer, inputs, outputs, how=how, also=also)

    def polls(
        self,
        event: Any,
        handler: Callable[..., Any],
        inputs: Sequence[Any],
        outputs: Sequence[Any],
        drawn: str,
    ) -> None:
        """Bind a handler that checks for changes every few seconds. Its first input is the session. Where the
        browser shows another answer than was asked for, the part that the session calls `drawn` is drawn
        again."""

        def look(unanswered: str, session: Any, *values: Any) -> dict[Any, Any]:
            if unanswered:
                session.drawn.pop(drawn, None)
            answered = {self.answered: unanswered} if unanswered else {}
            return {**answered, **handler(session, *values)}

        self.binds(event, look, inputs, outputs, how={**PRIVATE, "trigger_mode": "once"}, polls=True)

    def binds(
        self,
        events: Any,
        handler: Callable[..., Any],
        inputs: Sequence[Any],
        outputs: Sequence[Any],
        *,
        how: Mapping[str, Any] = LATEST,
        also: Sequence[Part] = (),
        polls: bool = False,
    ) -> Any:
        """Bind a handler that gets the question before its inputs and returns itself what it answers. One
        that polls gets the question that still waits for an answer, or an empty one."""
        parts = (self, *also)
        bound = _binder(events)(
            handler,
            [*(part.answered for part in parts), *inputs],
            list(dict.fromkeys([*(part.answered for part in parts), *outputs])),
            js=_questions_js(parts, inputs, polls=polls),
            **how,
        )
        for part in parts:
            part.settles(bound)
        return bound

    def settles(self, bound: Any) -> None:
        """Update the mark after an event that may have changed what is shown."""
        bound.then(None, [self.answered], None, js=self.answer_js, **PRIVATE)

    @property
    def ask_js(self) -> str:
        if not self.inputs:
            return f"() => {{ window.fiducialAnswers.askAnew({self._json}); }}"
        return (
            f"(...values) => {{ window.fiducialAnswers.ask({self._json}, {self.question_js(self.inputs)}); }}"
        )

    @property
    def answer_js(self) -> str:
        return f"(question) => {{ window.fiducialAnswers.answer({self._json}, question); }}"

    def question_js(self, inputs: Sequence[Any]) -> str:
        """Return a JavaScript expression for the question within the `values` of these inputs."""
        if not self.inputs:
            return f"window.fiducialAnswers.asked({self._json})"
        places = [list(inputs).index(own) for own in self.inputs]
        if self.keys:
            return f"JSON.stringify({list(self.keys)}.map((key) => values[{places[0]}][key]))"
        return f"JSON.stringify({places}.map((place) => values[place]))"

    @property
    def unanswered_js(self) -> str:
        return f"window.fiducialAnswers.unanswered({self._json})"

    @property
    def _json(self) -> str:
        """The description of the part for the browser."""
        return json.dumps(
            {
                "name": self.name,
                "shown_in": ", ".join(self.shown_in),
                "updating": say("answer_updating"),
                "other": say("answer_other"),
                "keeps": self.keeps,
            }
        )


def create_part(
    name: str,
    shown_in: Sequence[str],
    inputs: Sequence[Any] = (),
    *,
    keys: Sequence[str] = (),
    keeps: bool = False,
) -> Part:
    """Create a part while the page is being laid out."""
    again = gr.Button(visible="hidden", elem_id=f"again-{name}")
    return Part(
        name=name,
        shown_in=tuple(shown_in),
        inputs=tuple(inputs),
        answered=gr.Textbox(visible=False),
        again=again,
        keys=tuple(keys),
        keeps=keeps,
    )


def _binder(events: Any) -> Callable[..., Any]:
    """Return what binds a handler to one event, or to any of several."""
    return partial(gr.on, list(events)) if isinstance(events, Sequence) else events


def _questions_js(parts: Sequence[Part], inputs: Sequence[Any], *, polls: bool) -> str:
    """Return a script that puts the question of each part before the inputs of an event."""
    questions = ", ".join(part.unanswered_js if polls else part.question_js(inputs) for part in parts)
    before = ", ".join(f"_{place}" for place in range(len(parts)))
    return f"({before}, ...values) => [{questions}, ...values]"


def with_questions(answered: Sequence[Any], handler: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a handler: it gets the questions of some parts before its inputs and returns them with its answer.

    One that yields several answers returns the questions after the last.
    """
    num = len(answered)

    def echo(questions: Sequence[str], mark: str = "") -> dict[Any, Any]:
        return {part: mark + question for part, question in zip(answered, questions, strict=True)}

    def answer(*values: Any) -> dict[Any, Any]:
        try:
            return {**echo(values[:num]), **handler(*values[num:])}
        except NoAnswer:
            return echo(values[:num], VOID)
        except Superseded:
            return {answered[0]: gr.skip()}

    def answer_in_steps(*values: Any) -> Iterator[Updates]:
        try:
            with closing(handler(*values[num:])) as steps:
                yield from steps
            yield echo(values[:num])
        except NoAnswer:
            yield echo(values[:num], VOID)
        except Superseded:
            yield {answered[0]: gr.skip()}

    function = getattr(handler, "func", handler)  # of a partial
    return answer_in_steps if inspect.isgeneratorfunction(function) else answer


def question_of(*values: Any) -> str:
    """Return a question as the browser writes it, for a handler that returns by itself what it answers.

    Only for texts and whole numbers: the browser writes others differently.
    """
    return json.dumps(values, ensure_ascii=False, separators=(",", ":"))
