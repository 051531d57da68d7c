"""Where the program's messages go: to the screen, and with their times to the log of a run.

Modules report with `logging.getLogger(__name__)`; only a command's answer is printed.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

WITH_TIMES = logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S")
PLAIN = logging.Formatter("%(message)s")

_program = logging.getLogger("backend")


class _Screen(logging.StreamHandler):  # type: ignore[type-arg]
    """Messages on stdout or stderr as they are now, without what is redirected later."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's own name)
        """A closed terminal or a full disk: training goes on."""


def configure_logging(*, with_times: bool = False) -> None:
    """Send messages to stdout, and warnings and errors to stderr. `with_times`: where these are a log."""
    _program.setLevel(logging.INFO)
    for known in [handler for handler in _program.handlers if isinstance(handler, _Screen)]:
        _program.removeHandler(known)
    for stream, is_for_errors in ((sys.stdout, False), (sys.stderr, True)):
        handler = _Screen(stream)
        handler.setFormatter(WITH_TIMES if with_times else PLAIN)
        handler.addFilter(_only(is_for_errors))
        _program.addHandler(handler)


def _only(is_for_errors: bool) -> Callable[[logging.LogRecord], bool]:
    return lambda record: (record.levelno >= logging.WARNING) is is_for_errors


@contextmanager
def logged_to(log_path: Path) -> Iterator[None]:
    """Append messages, with their times, to a file too."""
    handler = logging.FileHandler(log_path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(WITH_TIMES)
    _program.addHandler(handler)
    try:
        yield
    finally:
        _program.removeHandler(handler)
        handler.close()
