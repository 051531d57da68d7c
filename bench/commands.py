"""The project's commands as a bench runs them: each in its own process, from the repository's root."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]


def train(flags: Sequence[object]) -> Path:
    """A whole run through train.py; returns its folder."""
    return Path(_output("train.py", *flags).splitlines()[0].removeprefix("run: "))


def evaluate(run_dir: Path, flags: Sequence[object]) -> dict[str, Any]:
    """The record of `backend.evaluate` for a run's best checkpoint."""
    checkpoint = run_dir / "checkpoints" / "best.pt"
    result: dict[str, Any] = json.loads(
        _output("-m", "backend.evaluate", "--checkpoint", checkpoint, *flags, "--json", "-")
    )
    return result


def vram(flags: Sequence[object]) -> dict[str, Any]:
    """The report of `backend.vram`."""
    result: dict[str, Any] = json.loads(_output("-m", "backend.vram", *flags, "--json", "-"))
    return result


def _output(*arguments: object) -> str:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, encoding="utf-8", check=True
    ).stdout
