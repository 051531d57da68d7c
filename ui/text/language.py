"""The languages of the page, and which of them is spoken now.

Each language has an address of its own, at which the page is laid out in it; every handler of that page answers in it.
So two browsers in two languages never mix, and no handler hands its language on.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Language:
    """`path`: of its page, below the address of the dashboard; `direction`: of its lines, as HTML names it."""

    code: str
    name: str
    path: str
    direction: Literal["ltr", "rtl"]


LANGUAGES: dict[str, Language] = {
    "en": Language("en", "English", "", "ltr"),
    "fa": Language("fa", "فارسی", "fa", "rtl"),
}

_spoken: ContextVar[str] = ContextVar("language", default="en")


def spoken() -> Language:
    """The language of the page that is laid out or answered now."""
    return LANGUAGES[_spoken.get()]


@contextmanager
def speaking(code: str) -> Iterator[None]:
    """Everything said inside is said in this language; other threads keep theirs."""
    before = _spoken.set(code)
    try:
        yield
    finally:
        _spoken.reset(before)


def answering_in(code: str, handler: Callable[..., Any]) -> Callable[..., Any]:
    """A handler, which may yield several answers, that answers in this language. Raises TypeError for a coroutine."""
    if inspect.iscoroutinefunction(handler) or inspect.isasyncgenfunction(handler):
        raise TypeError(f"{handler} would leave its language before it has answered")

    @functools.wraps(handler)  # Gradio reads the signature to know what to hand over
    def answer(*values: Any, **named: Any) -> Any:
        with speaking(code):
            return handler(*values, **named)

    @functools.wraps(handler)
    def answer_in_steps(*values: Any, **named: Any) -> Iterator[Any]:
        with closing(handler(*values, **named)) as answers:
            while True:
                with speaking(code):  # anew at each step: Gradio may take the next one in another thread
                    step = next(answers, _END)
                if step is _END:
                    return
                yield step

    return answer_in_steps if inspect.isgeneratorfunction(handler) else answer


_END = object()

# a run of Latin words, numbers and places, which must keep its order among words that go from right to left
_PIECE = r"(?:\{[^{}]*\}|[A-Za-z0-9%])"
_JOINT = r"(?:[-+=±/._:]+| [=±/+-] | °| |, )?"
_LEFT_TO_RIGHT = re.compile(f"{_PIECE}(?:{_JOINT}{_PIECE})*")
FIRST_STRONG_ISOLATE, POP_ISOLATE = "\u2068", "\u2069"
LEFT_TO_RIGHT_MARK = "\u200e"


def isolate(words: str) -> str:
    """Words that keep their own direction wherever they are put (Unicode's bidirectional algorithm, UAX 9)."""
    return f"{FIRST_STRONG_ISOLATE}{words}{POP_ISOLATE}"


def isolate_latin(text: str) -> str:
    """A text from right to left with each run of Latin words, numbers and places isolated."""
    return _LEFT_TO_RIGHT.sub(lambda found: isolate(found[0]), text)
