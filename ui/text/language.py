"""The languages of the page, and the one that is in use.

Each language has its own address, where the page is laid out in it and every handler answers in it. So two
browsers in two languages never mix, and no handler passes its language on.
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
    """A language, the `path` of its page below the dashboard's address, and the `direction` of its lines."""

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
    """Return the language of the page that is being laid out or answered."""
    return LANGUAGES[_spoken.get()]


@contextmanager
def speaking(code: str) -> Iterator[None]:
    """Use this language for everything said inside; other threads keep theirs."""
    token = _spoken.set(code)
    try:
        yield
    finally:
        _spoken.reset(token)


def answering_in(code: str, handler: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a handler so that it answers in this language, also one that yields several answers.

    Raises TypeError for a coroutine.
    """
    if inspect.iscoroutinefunction(handler) or inspect.isasyncgenfunction(handler):
        raise TypeError(f"{handler} would leave its language before it has answered")

    @functools.wraps(handler)  # Gradio reads the signature to know what to pass
    def answer(*values: Any, **named: Any) -> Any:
        with speaking(code):
            return handler(*values, **named)

    @functools.wraps(handler)
    def answer_in_steps(*values: Any, **named: Any) -> Iterator[Any]:
        with closing(handler(*values, **named)) as answers:
            while True:
                with speaking(code):  # set at each step, since Gradio may run the next one in another thread
                    step = next(answers, _END)
                if step is _END:
                    return
                yield step

    return answer_in_steps if inspect.isgeneratorfunction(handler) else answer


_END = object()

# a run of Latin words, numbers and placeholders, which keeps its order among words from right to left
_PIECE = r"(?:\{[^{}]*\}|[A-Za-z0-9%])"
_JOINT = r"(?:[-+=±/._:]+| [=±/+-] | °| |, )?"
_LEFT_TO_RIGHT = re.compile(f"{_PIECE}(?:{_JOINT}{_PIECE})*")
FIRST_STRONG_ISOLATE, POP_ISOLATE = "\u2068", "\u2069"
LEFT_TO_RIGHT_MARK = "\u200e"


def isolate(text: str) -> str:
    """Return a text that keeps its own direction wherever it appears.

    The isolates are those of Unicode's bidirectional algorithm (UAX 9).
    """
    return f"{FIRST_STRONG_ISOLATE}{text}{POP_ISOLATE}"


def isolate_latin(text: str) -> str:
    """Isolate each run of Latin words, numbers and placeholders in a text from right to left."""
    return _LEFT_TO_RIGHT.sub(lambda match: isolate(match[0]), text)
