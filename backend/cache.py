"""Where what can be made anew is kept between runs of the program. Must not know what that is."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any


def cache_folder() -> Path:
    """The user's folder for what can be made anew: FIDUCIAL_CACHE_DIR, else where the system has it."""
    if chosen := os.environ.get("FIDUCIAL_CACHE_DIR"):
        return Path(chosen)
    home = Path.home()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "fiducial"
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "fiducial"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "fiducial"


def cache_file(room: str, key: Any) -> Path:
    """Where the answer to a question is kept: a JSON file named by a hash of `key`, all that changes the answer."""
    name = hashlib.blake2b(json.dumps(key, sort_keys=True).encode(), digest_size=16).hexdigest()
    return cache_folder() / room / f"{name}.json"
