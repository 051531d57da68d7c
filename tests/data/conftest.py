"""A data set with the record of a run that learned from it, for the tests of what a run learned from."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.data.provenance import DataRecord
from tests.data.recorded_data import copy_data, record_of


@pytest.fixture
def data(tiny_dataset: Path, tmp_path: Path) -> Path:
    return copy_data(tiny_dataset, tmp_path / "data")


@pytest.fixture
def record(data: Path) -> DataRecord:
    return record_of(data)
