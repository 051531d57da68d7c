"""Notice the signals that ask a program to end: Ctrl-C, SIGTERM, Ctrl-Break."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType

ENDING = tuple(name for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name))


def on_first_signal(act: Callable[[], None]) -> Callable[[], None]:
    """Call `act` at the first of these signals; a second one does what it did before this call.

    Returns what restores the handlers. A process 1, as in a container, gets only signals that it handles:
    the kernel keeps all others from it.
    """
    before = {name: signal.getsignal(getattr(signal, name)) for name in ENDING}

    def restore() -> None:
        for name, handler in before.items():
            signal.signal(getattr(signal, name), handler)

    def on_signal(number: int, frame: FrameType | None) -> None:
        restore()
        act()

    for name in ENDING:
        signal.signal(getattr(signal, name), on_signal)
    return restore
