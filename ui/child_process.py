"""What a process that the page started says: its progress bar and its mistake, read from its log."""

from __future__ import annotations

import re
from dataclasses import dataclass

LOG_BYTES = 8_000
_BAR = re.compile(r"(\d+)/(\d+) \[")  # of tqdm


@dataclass(frozen=True)
class Progress:
    """How far an evaluation is: images predicted, of how many (0: not known yet), or why it failed."""

    num_done: int = 0
    num_images: int = 0
    failure: str = ""


def bar_of(words: str) -> tuple[int, int]:
    """Done and total of the last progress bar in a log; zeros where there is none yet."""
    done, total = (_BAR.findall(words) or [(0, 0)])[-1]
    return int(done), int(total)


def mistake_of(words: str, code: int) -> str:
    """The mistake that a process of ours named before it ended with `code`, with its cure; else empty."""
    _, found, mistake = words.rpartition("error: ")
    return " ".join(line.strip() for line in mistake.splitlines()) if found and code == 2 else ""
