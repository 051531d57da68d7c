"""Requests to a training: files in the run's control folder, and a signal."""

from __future__ import annotations

import threading

from backend.run.folder import RunFolder
from backend.training.loop_state import Request, StopAskedError


def read_requests(folder: RunFolder, stop: threading.Event) -> set[Request]:
    """Return what the control folder requests, and a stop if a signal handler has set the event."""
    requests = {request for request in Request if folder.requested(request.value)}
    return requests | ({Request.STOP} if stop.is_set() else set())


def raise_if_stopped(folder: RunFolder, stop: threading.Event) -> None:
    """Raise StopAskedError if a stop is requested."""
    if Request.STOP in read_requests(folder, stop):
        raise StopAskedError
