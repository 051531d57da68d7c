"""Parts of the page that answer what some inputs hold, and the mark on one that answers something else.

An answer arrives later than its question is asked, on a busy machine by a minute. The question is what the inputs hold,
as the browser writes it. It travels to the server with the inputs, and comes back beside the answer. The browser
compares it with what is asked now (`answers.js`), and greys a part from the moment in which its inputs change until the
answer to just these inputs is there: one that comes late, for inputs of before, never counts as current.
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


class NoAnswer(Exception):  # noqa: N818 (not a mistake of the program's)
    """Raised by a handler whose inputs have no answer, since a field is wrong: what is shown stays, marked as of other
    settings."""


class Superseded(Exception):  # noqa: N818 (not a mistake of the program's)
    """Raised by a handler that finds other inputs asked about by now: nothing is shown, and what they ask answers."""


@dataclass(frozen=True)
class Part:
    """A part of the page: the selectors of its elements, the inputs that it answers, and the question answered now.

    Without inputs, a question is a number that each event raises. `keeps`: what is shown is only replaced on request,
    so that it is not being updated, but of something else.
    """

    name: str
    shown_in: tuple[str, ...]
    inputs: tuple[Any, ...]
    answered: gr.Textbox
    again: gr.Button  # pressed by the browser where a late answer has replaced the right one
    keeps: bool = False

    def asks(self, events: Any, *, anew: bool = False) -> None:
        """The mark at once, in the browser, whenever one of these events changes the question. `anew`: even where it
        does not, what is shown is made again.

        To be bound before the handlers of the same events: Gradio takes them in turn, and waits until the server has
        taken in the one before.
        """
        if anew:
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
        """Bind a handler that answers: `inputs` hold the part's own among others. Returns what `.then` goes on from.

        `also`: other parts that it answers. `mends`: it is asked again where a late answer has replaced the right one.
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
        """Bind what looks for news every few seconds: its first input is the session, and where the browser shows
        another answer than was asked for, what the session notes as `drawn` is drawn again."""

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
        """The same for a handler that gets the question before its inputs, and says itself what it answers. One that
        polls gets the question that waits for an answer, empty where none does."""
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
        """The mark anew after an event that may have changed what is shown."""
        bound.then(None, [self.answered], None, js=self.answer_js, **PRIVATE)

    @property
    def ask_js(self) -> str:
        if not self.inputs:
            return f"() => {{ window.fiducialAnswers.askAnew({self._json}); }}"
        return f"(...values) => {{ window.fiducialAnswers.ask({self._json}, JSON.stringify(values)); }}"

    @property
    def answer_js(self) -> str:
        return f"(question) => {{ window.fiducialAnswers.answer({self._json}, question); }}"

    def question_js(self, inputs: Sequence[Any]) -> str:
        """An expression for the question in the `values` of these inputs."""
        if not self.inputs:
            return f"window.fiducialAnswers.asked({self._json})"
        places = [list(inputs).index(own) for own in self.inputs]
        return f"JSON.stringify({places}.map((place) => values[place]))"

    @property
    def unanswered_js(self) -> str:
        return f"window.fiducialAnswers.unanswered({self._json})"

    @property
    def _json(self) -> str:
        """What the browser knows of the part."""
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
    name: str, shown_in: Sequence[str], inputs: Sequence[Any] = (), *, keeps: bool = False
) -> Part:
    """A part of the page that is being laid out."""
    again = gr.Button(visible="hidden", elem_id=f"again-{name}")
    return Part(name, tuple(shown_in), tuple(inputs), gr.Textbox(visible=False), again, keeps)


def _binder(events: Any) -> Callable[..., Any]:
    """Binds to one event, or to any of several."""
    return partial(gr.on, list(events)) if isinstance(events, Sequence) else events


def _questions_js(parts: Sequence[Part], inputs: Sequence[Any], *, polls: bool) -> str:
    """Puts the question of each part before the inputs of an event."""
    questions = ", ".join(part.unanswered_js if polls else part.question_js(inputs) for part in parts)
    before = ", ".join(f"_{place}" for place in range(len(parts)))
    return f"({before}, ...values) => [{questions}, ...values]"


def with_questions(answered: Sequence[Any], handler: Callable[..., Any]) -> Callable[..., Any]:
    """A handler that gets the questions of some parts before its inputs, and returns them with its answer, after the
    last step of one that yields several."""
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
    """A question as the browser writes it, for a handler that says itself what it answers. Words and numbers without a
    fraction alone: others are written otherwise there."""
    return json.dumps(values, ensure_ascii=False, separators=(",", ":"))
