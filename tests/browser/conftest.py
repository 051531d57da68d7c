"""A dashboard of its own for each test, and a browser that notes every host it is asked to speak to."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlparse

import psutil
import pytest
from playwright.sync_api import Page, expect, sync_playwright

from backend.run.folder import RunFolder, list_runs

REPOSITORY = Path(__file__).resolve().parents[2]
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SMALL_RUN = [
    "--image_size",
    "64",
    "64",
    "--epochs",
    "2",
    "--batch_size",
    "4",
    "--no-refine",
    "--device",
    "cpu",
]
PATIENCE_MS = 90_000  # two cores that also train may be slow to answer; no test asserts a time

expect.set_options(timeout=PATIENCE_MS)


class Dashboard:
    """`python app.py` in a process that a test can kill and start again on the same port."""

    def __init__(self, folder: Path) -> None:
        self.runs_dir, self.data_root = folder / "runs", folder / "data"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._log = folder / "app.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "app.py", "--port", str(self.port)]
        command += ["--runs_dir", str(self.runs_dir), "--data_root", str(self.data_root)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, cwd=REPOSITORY, stdout=log, stderr=log)
        for _ in range(600):
            try:
                urllib.request.urlopen(self.url, timeout=5).close()
                return
            except OSError:
                assert self._process.poll() is None, self._log.read_text()
                time.sleep(0.2)
        pytest.fail("the dashboard does not answer: " + self._log.read_text())

    def train(self, *flags: str) -> RunFolder:
        """A small run on the tiny data set, trained from a terminal while the dashboard is there."""
        command = [sys.executable, "train.py", *SMALL_RUN, "--runs_dir", str(self.runs_dir)]
        command += ["--dataset_path", str(self.data_root / "blobs"), *flags]
        subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
        return list_runs(self.runs_dir)[0]

    def kill(self) -> None:
        """As a power cut would: no handler runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def kill_workers(self) -> None:
        """Leave no training behind a failed test."""
        for process in psutil.process_iter(["cmdline"]):
            command = process.info["cmdline"] or []
            if "backend.worker" in command and any(str(self.runs_dir) in part for part in command):
                process.kill()


@pytest.fixture
def dashboard(tmp_path: Path, tiny_dataset: Path) -> Iterator[Dashboard]:
    """A dashboard over the tiny data set and no runs."""
    served = Dashboard(tmp_path)
    shutil.copytree(tiny_dataset, served.data_root / "blobs")
    served.start()
    yield served
    served.kill()
    served.kill_workers()


@pytest.fixture
def page() -> Iterator[Page]:
    """A Chromium page; the test fails where the page asked anything of another host."""
    chromium = os.environ.get("FIDUCIAL_CHROMIUM", "/usr/bin/chromium")
    if not Path(chromium).exists():
        missing = f"no Chromium at {chromium}; install it or set FIDUCIAL_CHROMIUM"
        if os.environ.get("FIDUCIAL_REQUIRE_BROWSER"):
            pytest.fail(missing)
        pytest.skip(missing)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        context = browser.new_context(viewport={"width": 1400, "height": 1000}, accept_downloads=True)
        opened = context.new_page()
        opened.set_default_timeout(PATIENCE_MS)
        strangers: set[str] = set()

        def note(url: str) -> None:
            host = urlparse(url).hostname
            if host not in (None, "127.0.0.1"):
                strangers.add(url)

        opened.on("request", lambda request: note(request.url))
        yield opened
        browser.close()
    assert not strangers
