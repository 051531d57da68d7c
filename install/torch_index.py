"""Ask whether one of PyTorch's indexes answers and has the pinned torch."""

from __future__ import annotations

import queue
import re
import sys
import threading
import urllib.parse
import urllib.request

ANSWER_S = 8
PAGE_BYTES = 4_000_000


def explain_absence(index: str, torch: str) -> str:
    """Say why this version of torch cannot be had from an index; empty if it can."""
    answers: queue.Queue[str | Exception] = queue.Queue()
    threading.Thread(target=_read_page, args=(f"{index}/torch/", answers), daemon=True).start()
    try:
        answer = answers.get(timeout=ANSWER_S)
    except queue.Empty:
        return f"{index} does not answer within {ANSWER_S} s"
    if isinstance(answer, Exception):
        return f"{index} does not answer ({getattr(answer, 'reason', answer)})"
    if not has_wheel(answer, torch, "cp{}{}".format(*sys.version_info[:2])):
        return f"{index} has no torch {torch} for this Python"
    return ""


def _read_page(address: str, answers: queue.Queue[str | Exception]) -> None:
    """Put the page or the error. In a thread, since nothing limits how long a name is looked up."""
    try:
        with urllib.request.urlopen(address, timeout=ANSWER_S) as answer:
            answers.put(answer.read(PAGE_BYTES).decode("utf-8", "replace"))
    except (OSError, ValueError) as error:  # a timeout and a refused certificate are OSErrors too
        answers.put(error)


def has_wheel(page: str, torch: str, python_tag: str) -> bool:
    """Whether an index's page lists a wheel of this version for this Python ("cp311")."""
    pattern = rf"torch-{re.escape(torch)}(?:\+\w+)?-{python_tag}-{python_tag}-"
    return re.search(pattern, urllib.parse.unquote(page)) is not None
