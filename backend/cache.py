"""Per-user cache directory (override with FIDUCIAL_CACHE_DIR)."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any


def cache_folder() -> Path:
    """Return the user's cache directory: FIDUCIAL_CACHE_DIR, else the system's usual place."""
    if chosen := os.environ.get("FIDUCIAL_CACHE_DIR"):
        return Path(chosen)
    home = Path.home()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "fiducial"
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "fiducial"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "fiducial"


def cache_file(room: str, key: Any) -> Path:
    """Return the JSON file of an answer, named by a hash of `key`, which holds all that changes it."""
    name = hashlib.blake2b(json.dumps(key, sort_keys=True).encode(), digest_size=16).hexdigest()
    return cache_folder() / room / f"{name}.json"
