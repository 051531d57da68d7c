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

import psutil
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from backend.run.folder import RunFolder, list_runs
from tests.browser.view import DESK, PATIENCE_MS, PHONE, View, opened_page, opened_view
from ui.language import LANGUAGES

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


@pytest.fixture(scope="session")
def shared_dashboard(tmp_path_factory: pytest.TempPathFactory, tiny_dataset: Path) -> Iterator[Dashboard]:
    """A dashboard that tests share and leave as it is: the tiny data set, two runs, both evaluated on `train`."""
    shared = Dashboard(tmp_path_factory.mktemp("shared_dashboard"))
    shutil.copytree(tiny_dataset, shared.data_root / "blobs")
    shared.start()
    for lr in ("0.001", "0.002"):
        evaluate(shared.train("--lr", lr), shared.data_root / "blobs", "train")
    yield shared
    shared.kill()
    shared.kill_workers()


@pytest.fixture(scope="session")
def evaluated_runs(shared_dashboard: Dashboard) -> tuple[str, str]:
    """The ids of the two runs that the shared dashboard began with, the older one first."""
    newer, older = (folder.run_id for folder in list_runs(shared_dashboard.runs_dir) if folder.evaluations())
    return older, newer


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One browser a module: tests after it may want an event loop of their own."""
    path = os.environ.get("FIDUCIAL_CHROMIUM", "/usr/bin/chromium")
    if not Path(path).exists():
        missing = f"no Chromium at {path}; install it or set FIDUCIAL_CHROMIUM"
        if os.environ.get("FIDUCIAL_REQUIRE_BROWSER"):
            pytest.fail(missing)
        pytest.skip(missing)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    """A page of a usual width."""
    with opened_page(chromium, 1400) as page:
        yield page


@pytest.fixture(params=[(language, width) for language in LANGUAGES for width in (PHONE, DESK)], ids=str)
def view(request: pytest.FixtureRequest, chromium: Browser, shared_dashboard: Dashboard) -> Iterator[View]:
    """The shared dashboard in each language, on a phone and on a desk."""
    with opened_view(chromium, shared_dashboard.url, *request.param) as view:
        yield view


def evaluate(folder: RunFolder, dataset: Path, split: str) -> None:
    """Measure a run's best weights as the page does."""
    command = [sys.executable, "-m", "backend.evaluate", "--checkpoint", folder.checkpoint_path("best")]
    command += ["--dataset_path", dataset, "--split", split]
    record, report = (folder.evaluation_path(f"{dataset.name}-{split}", kind) for kind in ("json", "html"))
    command += ["--json", record, "--report", report]
    subprocess.run([*map(str, command)], cwd=REPOSITORY, check=True, capture_output=True)
