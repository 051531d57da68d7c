"""`python app.py` as a process of its own, for tests that look at it from outside."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

from backend.run.folder import RunFolder, list_runs

REPOSITORY = Path(__file__).resolve().parents[1]
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
