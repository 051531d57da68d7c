"""Start one of the backend's commands in a process of its own, and read its progress and its mistake from its log."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from backend.files import REPOSITORY

LOG_BYTES = 8_000
_BAR = re.compile(r"(\d+)/(\d+) \[")  # of tqdm


@dataclass(frozen=True)
class Progress:
    """How far it is: images predicted, of how many (0: not known yet), or why it failed."""

    num_done: int = 0
    num_images: int = 0
    failure: str = ""


def start_command(module: str, *arguments: str, log_path: Path) -> subprocess.Popen[bytes]:
    """Start `python -m MODULE ARGUMENTS`; what it writes to stderr goes to the log, its answer is in its files."""
    with log_path.open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"},
        )


def bar_of(words: str) -> tuple[int, int]:
    """Done and total of the last progress bar in a log; zeros where there is none yet."""
    done, total = (_BAR.findall(words) or [(0, 0)])[-1]
    return int(done), int(total)


def mistake_of(words: str, code: int) -> str:
    """The mistake that a process of ours named before it ended with `code`, with its cure; else empty."""
    _, found, mistake = words.rpartition("error: ")
    return " ".join(line.strip() for line in mistake.splitlines()) if found and code == 2 else ""
