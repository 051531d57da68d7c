"""`python app.py` as a process of its own, for tests that look at it from outside."""

from __future__ import annotations

import contextlib
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
DIRECTLY = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever proxy the variables name
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

    def __init__(self, folder: Path, dataset: Path | None = None) -> None:
        self.runs_dir, self.data_root = folder / "runs", folder / "data"
        self._dataset = dataset
        self._trained_dir = folder / "trained"
        self._trained: dict[tuple[str, ...], str] = {}  # flags -> the run that was trained with them
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._log = folder / "app.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._training: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, *flags: str) -> None:
        command = [sys.executable, "app.py", "--port", str(self.port), *flags]
        command += ["--runs_dir", str(self.runs_dir), "--data_root", str(self.data_root)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, cwd=REPOSITORY, stdout=log, stderr=log)
        process = self._process

        def answers() -> bool:
            try:
                DIRECTLY.open(self.url, timeout=LIMIT_S).close()
            except OSError:
                assert process.poll() is None, self.words()
                return False
            return True

        wait_for(answers, lambda: f"the dashboard does not answer: {self.words()}")

    def end(self) -> tuple[int, str]:
        """Ask it to end, as a service or a container is. Return its exit code and what it has printed."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(LIMIT_S), self.words()

    def words(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def begin_anew(self) -> None:
        """Serve no runs and nothing but the data set, named blobs; what was being trained or asked ends."""
        self.kill_workers()
        self.lay()
        if self._process is None or self._process.poll() is not None:
            self.start()

    def lay(self) -> None:
        """Leave no runs, and of data nothing but the data set, named blobs."""
        for folder in (self.runs_dir, self.data_root):
            folder.mkdir(parents=True, exist_ok=True)
            for path in folder.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        if self._dataset is not None:
            shutil.copytree(self._dataset, self.data_root / "blobs")

    def train(self, *flags: str) -> RunFolder:
        """Make a small run on the tiny data set: trained the first time, and copied from then on."""
        if flags not in self._trained:
            command = self._train_command(self._trained_dir, *flags)
            subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
            self._trained[flags] = list_runs(self._trained_dir)[0].run_id
        run_id = self._trained[flags]
        shutil.copytree(self._trained_dir / run_id, self.runs_dir / run_id)
        return RunFolder(self.runs_dir / run_id)

    def begin_training(self) -> RunFolder:
        """Start a run that stays alive until `kill_workers`, suspended after its first epoch."""
        command, silent = self._train_command(self.runs_dir, "--epochs", "100000"), subprocess.DEVNULL
        self._training = subprocess.Popen(command, cwd=REPOSITORY, stdout=silent, stderr=silent)
        training = self._training

        def begun() -> RunFolder | None:
            runs = list_runs(self.runs_dir)
            if runs and runs[0].read_metrics()[0]:
                return runs[0]
            assert training.poll() is None, "the training has ended"
            return None

        folder = wait_for(begun, lambda: "the training does not begin")
        psutil.Process(training.pid).suspend()
        return folder

    def _train_command(self, runs_dir: Path, *flags: str) -> list[str]:
        command = [sys.executable, "train.py", *SMALL_RUN, "--runs_dir", str(runs_dir)]
        return [*command, "--dataset_path", str(self.data_root / "blobs"), *flags]

    def kill(self) -> None:
        """As a power cut would: no handler runs."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def kill_workers(self) -> None:
        """Leave no process behind that trains, or works on the runs or the data. A memory prediction or a
        benchmark goes on: its answer is cached, and the next page asks for it."""
        if self._training is not None:
            self._training.kill()
            self._training.wait()
            self._training = None
        left = [process for process in psutil.process_iter(["pid", "cmdline"]) if self._is_worker(process)]
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=LIMIT_S)

    def _is_worker(self, process: psutil.Process) -> bool:
        if self._process is not None and process.info["pid"] == self._process.pid:
            return False
        command = process.info["cmdline"] or []
        return any(str(folder) in part for part in command for folder in (self.runs_dir, self.data_root))


@contextmanager
def served_over(folder: Path, dataset: Path) -> Iterator[Dashboard]:
    """A dashboard over a copy of a data set, named blobs, and no runs."""
    dashboard = Dashboard(folder, dataset)
    try:
        dashboard.begin_anew()
        yield dashboard
    finally:
        dashboard.kill()
        dashboard.kill_workers()
