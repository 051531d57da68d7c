"""Waiting for what another process or thread does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import pytest

# Only ends a test that would hang: no test depends on how long anything takes, since a machine may be busy.
LIMIT_S = 600.0

Answer = TypeVar("Answer")


def wait_for(
    answer: Callable[[], Answer | None],
    never: Callable[[], object] = lambda: "it never came true",
    pause: Callable[[], object] = lambda: time.sleep(0.05),
) -> Answer:
    """The first answer that is true. `never` says what to tell where none comes; it is asked only then."""
    deadline = time.monotonic() + LIMIT_S
    while not (found := answer()):
        if time.monotonic() >= deadline:
            pytest.fail(f"after {LIMIT_S:.0f} s: {never()}")
        pause()
    return found
