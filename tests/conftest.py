"""Where the real data for tests lies, when it is there at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets: FIDUCIAL_SHARED_DATA, else ../shared/data beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("FIDUCIAL_SHARED_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"the real data is not in {folder}; set FIDUCIAL_SHARED_DATA")
    return folder
