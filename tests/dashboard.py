"""`python app.py` as a process of its own, for tests that look at it from outside."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from backend.run.folder import RunFolder, list_runs
from tests.waiting import LIMIT_S, wait_for

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
        self._training: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "app.py", "--port", str(self.port)]
        command += ["--runs_dir", str(self.runs_dir), "--data_root", str(self.data_root)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, cwd=REPOSITORY, stdout=log, stderr=log)
        process = self._process

        def answers() -> bool:
            try:
                urllib.request.urlopen(self.url, timeout=LIMIT_S).close()
            except OSError:
                assert process.poll() is None, self._words()
                return False
            return True

        wait_for(answers, lambda: f"the dashboard does not answer: {self._words()}")

    def _words(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def train(self, *flags: str) -> RunFolder:
        """A small run on the tiny data set, trained from a terminal while the dashboard is there."""
        subprocess.run(self._train_command(*flags), cwd=REPOSITORY, check=True, capture_output=True)
        return list_runs(self.runs_dir)[0]

    def begin_training(self) -> RunFolder:
        """The same, but endless: returns once its first epoch is done, and trains until `kill_workers`."""
        command, silent = self._train_command("--epochs", "100000"), subprocess.DEVNULL
        self._training = subprocess.Popen(command, cwd=REPOSITORY, stdout=silent, stderr=silent)
        training = self._training

        def begun() -> RunFolder | None:
            runs = list_runs(self.runs_dir)
            if runs and runs[0].read_metrics()[0]:
                return runs[0]
            assert training.poll() is None, "the training has ended"
            return None

        return wait_for(begun, lambda: "the training does not begin")

    def _train_command(self, *flags: str) -> list[str]:
        command = [sys.executable, "train.py", *SMALL_RUN, "--runs_dir", str(self.runs_dir)]
        return [*command, "--dataset_path", str(self.data_root / "blobs"), *flags]

    def kill(self) -> None:
        """As a power cut would: no handler runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def kill_workers(self) -> None:
        """Leave no training behind."""
        if self._training is not None:
            self._training.kill()
            self._training.wait()
        for process in psutil.process_iter(["cmdline"]):
            command = process.info["cmdline"] or []
            if "backend.worker" in command and any(str(self.runs_dir) in part for part in command):
                process.kill()


@contextmanager
def served_over(folder: Path, dataset: Path) -> Iterator[Dashboard]:
    """A dashboard over a copy of a data set, named blobs, and no runs."""
    dashboard = Dashboard(folder)
    shutil.copytree(dataset, dashboard.data_root / "blobs")
    dashboard.start()
    try:
        yield dashboard
    finally:
        dashboard.kill()
        dashboard.kill_workers()
