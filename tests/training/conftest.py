"""Runs that several files of tests look at, each trained once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from backend.config import RunConfig
from backend.files import Row
from backend.run.folder import RunFolder
from backend.training import build
from backend.training.run_data import RunData, load_run_data
from backend.worker import train_run
from tests.tiny_network import TinyNetwork
from tests.training.tiny_runs import LONG, new_run


def use_tiny_network(patch: pytest.MonkeyPatch) -> None:
    """In place of the first network: quick, and with dropout, which an inexact resume would betray."""
    patch.setattr(build, "build_model", lambda name, num, output_stride: TinyNetwork(num, 0.1))


@pytest.fixture(scope="module")
def tiny_network() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        use_tiny_network(patch)
        yield


@pytest.fixture(scope="session")
def statuses() -> list[Row]:
    """Every status that the completed run wrote, filled by it."""
    return []


@pytest.fixture(scope="session")
def completed(tmp_path_factory: pytest.TempPathFactory, tiny_dataset: Path, statuses: list[Row]) -> RunFolder:
    """A run with both phases."""
    folder = new_run(tmp_path_factory.mktemp("runs"), tiny_dataset)
    write = RunFolder.write_status

    def write_and_note(run: RunFolder, status: Row) -> None:
        statuses.append(dict(status))
        write(run, status)

    with pytest.MonkeyPatch.context() as patch:
        use_tiny_network(patch)
        patch.setattr(RunFolder, "write_status", write_and_note)
        assert train_run(folder) == 0
    return folder


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, tiny_dataset: Path) -> RunFolder:
    """A longer run with both phases."""
    folder = new_run(tmp_path_factory.mktemp("runs"), tiny_dataset, **LONG)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        use_tiny_network(patch)
        assert train_run(folder) == 0
    torch.set_num_threads(before)
    return folder


@pytest.fixture(scope="session")
def run_data(tmp_path_factory: pytest.TempPathFactory, tiny_dataset: Path) -> RunData:
    """The data of a new run: six validation images of three landmarks, so 36 errors."""
    folder = new_run(tmp_path_factory.mktemp("runs"), tiny_dataset, val_fraction=0.5)
    return load_run_data(folder, RunConfig.from_dict(folder.read_config()), threading.Event())
