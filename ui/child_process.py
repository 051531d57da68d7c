"""Run one of the backend's commands in another process, and read progress and mistakes from its log."""

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
    """The number of images predicted and in total (0: not known yet), or why the process failed."""

    num_done: int = 0
    num_images: int = 0
    failure: str = ""


def start_command(module: str, *arguments: str, log_path: Path) -> subprocess.Popen[bytes]:
    """Start `python -m MODULE ARGUMENTS`; its stderr goes to the log, its answer is in its files."""
    with log_path.open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"},
        )


def read_bar(log: str) -> tuple[int, int]:
    """Return done and total of the last progress bar in a log; zeros if there is none yet."""
    done, total = (_BAR.findall(log) or [(0, 0)])[-1]
    return int(done), int(total)


def find_mistake(log: str, code: int) -> str:
    """Return the mistake, with its cure, that a process of ours logged before it ended with `code`.

    Empty if it logged none.
    """
    _, separator, mistake = log.rpartition("error: ")
    return " ".join(line.strip() for line in mistake.splitlines()) if separator and code == 2 else ""
