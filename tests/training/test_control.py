"""Requests of the control folder and of a signal."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from backend.run.folder import RunFolder, create_run
from backend.training.control import raise_if_stopped, read_requests
from backend.training.loop_state import Request, StopAskedError


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return create_run(tmp_path, {}, "run")


def test_requests_are_files_of_the_control_folder(folder: RunFolder) -> None:
    stop = threading.Event()
    assert read_requests(folder, stop) == set()
    folder.request("finish")
    folder.request("save_now")
    assert read_requests(folder, stop) == {Request.FINISH, Request.SAVE_NOW}
    raise_if_stopped(folder, stop)


@pytest.mark.parametrize("by_signal", [False, True])
def test_a_file_or_a_signal_stops(folder: RunFolder, by_signal: bool) -> None:
    stop = threading.Event()
    if by_signal:
        stop.set()
    else:
        folder.request("stop")
    assert read_requests(folder, stop) == {Request.STOP}
    with pytest.raises(StopAskedError):
        raise_if_stopped(folder, stop)
