"""Where a message goes: plainly to the screen, with its time to the log, and nowhere twice."""

from __future__ import annotations

import io
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend import logs
from backend.logs import configure_logging, logged_to

log = logging.getLogger("backend.tests")
TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d "


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    handlers = list(logs._program.handlers)
    yield
    logs._program.handlers[:] = handlers


def test_the_screen_has_the_words_and_the_log_their_times(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "log.txt"
    configure_logging()
    configure_logging()  # a second time adds nothing
    with logged_to(path):
        log.info("epoch %d", 1)
        log.error("error: no film")
        # straight to the file: pytest would keep the record, and pytest-xdist cannot send a lone surrogate
        logs._program.handlers[-1].handle(log.makeRecord(log.name, 20, "", 1, "film\udce9.png", (), None))
    log.info("after")
    captured = capsys.readouterr()
    assert captured.out.startswith("epoch 1\n") and captured.out.endswith("after\n")
    assert captured.err == "error: no film\n"
    first, second, third = path.read_text(encoding="utf-8").splitlines()
    assert re.fullmatch(TIME + "epoch 1", first) and re.fullmatch(TIME + "error: no film", second)
    assert re.fullmatch(TIME + r"film\\udce9\.png", third)


def test_a_screen_that_is_a_log_has_the_times(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(with_times=True)
    log.info("epoch 1")
    assert re.fullmatch(TIME + "epoch 1\n", capsys.readouterr().out)


class Closed(io.StringIO):
    """A terminal that is gone."""

    def write(self, text: str) -> int:
        raise OSError(5, "Input/output error")

    def flush(self) -> None:
        raise OSError(5, "Input/output error")


def test_a_closed_terminal_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Closed())
    configure_logging()
    with logged_to(tmp_path / "log.txt"):
        log.info("epoch 1")
    assert "epoch 1" in (tmp_path / "log.txt").read_text(encoding="utf-8")
