"""Where what can be made anew is kept between runs of the program. Must not know what that is."""

from __future__ import annotations

import os
import sys
from pathlib import Path


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
