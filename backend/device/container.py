"""Whether this process runs in a container, which ends every process in it when the first one ends."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

VARIABLE = "FIDUCIAL_CONTAINER"  # set in our Dockerfile: not every engine leaves one of the files
MARKS = (".dockerenv", "run/.containerenv")  # of Docker and of Podman


def is_container(root: Path = Path("/"), environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the variable or one of the files says so."""
    return bool(environment.get(VARIABLE)) or any((root / mark).exists() for mark in MARKS)
