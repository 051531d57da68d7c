"""Run one of the backend's commands in a process of its own and read the JSON that it prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from backend.files import REPOSITORY

TIMEOUT_S = 300


def run_json_command(
    module: str, *arguments: str, timeout_s: float = TIMEOUT_S, environment: Mapping[str, str] = os.environ
) -> Any:
    """The answer of `python -m MODULE ARGUMENTS`.

    A command that answers may still exit with a code, as one that has found faults. Raises
    subprocess.TimeoutExpired if it takes longer than `timeout_s` seconds, and subprocess.CalledProcessError,
    with what it wrote to stderr, if it fails without an answer.
    """
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        env={**environment, "PYTHONIOENCODING": "utf-8"},
        timeout=timeout_s,
        check=False,
    )
    if not done.stdout.strip():
        done.check_returncode()
    return json.loads(done.stdout)
