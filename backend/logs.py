"""Sends the program's messages to the screen and, with their times, to the log of a run.

Modules report with `logging.getLogger(__name__)`; only a command's answer is printed.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WITH_TIMES = logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S")
PLAIN = logging.Formatter("%(message)s")

_program = logging.getLogger("backend")


class _Screen(logging.StreamHandler):  # type: ignore[type-arg]
    """A handler for stdout or stderr; a later redirection of them does not change it."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's own name)
        """Do nothing: training goes on after a terminal was closed or a disk became full."""


def configure_logging(*, with_times: bool = False) -> None:
    """Send messages to stdout, and warnings and errors to stderr. `with_times`: they are written to a log."""
    _program.setLevel(logging.INFO)
    for earlier in [handler for handler in _program.handlers if isinstance(handler, _Screen)]:
        _program.removeHandler(earlier)
    for stream, takes_record in ((sys.stdout, _is_message), (sys.stderr, _is_warning)):
        handler = _Screen(stream)
        handler.setFormatter(WITH_TIMES if with_times else PLAIN)
        handler.addFilter(takes_record)
        _program.addHandler(handler)


def _is_warning(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING


def _is_message(record: logging.LogRecord) -> bool:
    return not _is_warning(record)


@contextmanager
def logged_to(log_path: Path) -> Iterator[None]:
    """Append messages, with their times, also to a file."""
    handler = logging.FileHandler(log_path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(WITH_TIMES)
    _program.addHandler(handler)
    try:
        yield
    finally:
        _program.removeHandler(handler)
        handler.close()
