"""A process that prepares images and dies is an outcome with its cure."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from backend.data import dataset
from backend.data.dataset import LandmarkDataset
from backend.run.folder import RunFolder
from backend.training import build, data_workers
from backend.training.data_workers import find_worker_failure
from backend.training.out_of_memory import free_on_shortage, is_out_of_memory
from backend.worker import train_run
from tests.test_worker import new_run, outcome_of
from tests.tiny_network import TinyNetwork

pytestmark = pytest.mark.slow  # trains

CPU = torch.device("cpu")
WORDS = [
    ("DataLoader worker (pid 7) is killed by signal: Killed. ", "killed"),
    ("DataLoader worker (pid 7) is killed by signal: Killed: 9. ", "killed"),  # macOS
    (
        "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers "
        "are out of "
        "shared memory. Please try to raise your shared memory limit.",
        "shared",
    ),
    ("Unexpected bus error encountered in worker. This might be caused by insufficient shared memory "
    "(shm).", "shared"),
    ("unable to write to file </torch_81_2>: No space left on device (28)", "shared"),
    ("unable to allocate shared memory(shm) for file </torch_81_2>: No space left on device (28)", "shared"),
    ("unable to mmap 1204 bytes from file </torch_8_1>: Cannot allocate memory (12)", "shared"),
    ("DataLoader worker (pid 7) is killed by signal: Segmentation fault. ", "crashed"),
    ("DataLoader worker (pid 7) is killed by signal: Illegal instruction. ", "crashed"),
    ("DataLoader worker (pid(s) 7, 8) exited unexpectedly", "gone"),
    ("DataLoader worker (pid 7) exited unexpectedly with exit code 1. Details are lost", "gone"),
    ("Caught RuntimeError in DataLoader worker process 0.\nCPUAllocator: can't allocate memory", "memory"),
    ("DataLoader worker could not be started: [Errno 12] Cannot allocate memory", "memory"),
    ("DataLoader worker could not be started: [Errno 11] Resource temporarily unavailable", "memory"),
    ("DataLoader worker could not be started: [Errno 24] Too many open files", "files"),
    ("received 0 items of ancdata", "files"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "kind"), WORDS, ids=[words[:60] for words, _ in WORDS])
@pytest.mark.parametrize("wrapped", [False, True])
def test_what_befell_a_process_is_recognised_also_behind_another_error(
    words: str, kind: str, wrapped: bool
) -> None:
    error = RuntimeError(words)
    if wrapped:
        try:
            try:
                raise error
            except RuntimeError as cause:
                raise RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly") from cause
        except RuntimeError as outer:
            error = outer
    failure = find_worker_failure(error)
    assert failure is not None and failure.kind == kind
    assert not is_out_of_memory(error)  # no smaller step helps
    assert "--num_workers" in failure.cure(4, is_resumable=True)
    assert len(f"{failure.what}; {failure.cure(4, is_resumable=False)}".splitlines()) == 1


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA out of memory"),
        MemoryError(),
        OSError(24, "Too many open files"),
        RuntimeError("Caught KeyError in DataLoader worker process 0.\nOriginal Traceback"),
        RuntimeError("unable to write to file </data/x>: No space left on device (28)"),
        ValueError("Killed"),
    ],
    ids=str,
)
def test_another_error_is_none(error: BaseException) -> None:
    assert find_worker_failure(error) is None


def test_the_cure_is_fewer_processes_and_what_they_lacked() -> None:
    def cure(words: str, num: int, *, is_resumable: bool = True) -> str:
        failure = find_worker_failure(RuntimeError(words))
        assert failure is not None
        return failure.cure(num, is_resumable=is_resumable)

    killed, shared, crashed = WORDS[0][0], WORDS[2][0], WORDS[7][0]
    assert "resume with --num_workers 4, or 0" in cure(killed, 8) and "free memory" in cure(killed, 8)
    assert "--shm-size 4g" in cure(shared, 8) and "resume with --num_workers 4" in cure(shared, 8)
    assert "start a new run with --num_workers 0" in cure(killed, 1, is_resumable=False)
    assert "resume with --num_workers 0" in cure(crashed, 8)


def test_a_machine_without_shared_memory_names_no_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_workers, "SHARED_MEMORY", Path("/no/such/folder"))
    failure = find_worker_failure(RuntimeError(WORDS[2][0]))
    assert failure is not None and failure.what.endswith("ran out of shared memory")


class Greedy(Dataset[int]):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        raise MemoryError


@pytest.mark.skipif(sys.platform == "win32", reason="a process is forked")
def test_memory_that_runs_out_in_such_a_process_is_no_shortage_of_a_step() -> None:
    def read() -> object:
        return next(iter(DataLoader(Greedy(), num_workers=1)))

    with pytest.raises(MemoryError) as caught:
        free_on_shortage(read, CPU)
    failure = find_worker_failure(caught.value)
    assert failure is not None and failure.is_memory


def test_a_process_that_cannot_be_started_is_told_as_that(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoRoom:
        num_workers = 2

        def __iter__(self) -> Any:
            raise OSError(12, "Cannot allocate memory")

    batches = dataset.Batches.__new__(dataset.Batches)
    monkeypatch.setattr(batches, "_loader", NoRoom(), raising=False)
    monkeypatch.setattr(batches, "_sampler", dataset.EpochBatches(4, 2), raising=False)
    with pytest.raises(RuntimeError, match="could not be started") as caught:
        batches.iterate_epoch(0)
    failure = find_worker_failure(caught.value)
    assert failure is not None and failure.is_memory


@pytest.mark.skipif(sys.platform != "linux", reason="the system's own words for its signals")
@pytest.mark.parametrize(
    ("name", "state", "code", "words"),
    [
        ("SIGKILL", "out_of_memory", 3, "was killed, as the system does when main memory runs out"),
        ("SIGBUS", "out_of_memory", 3, "--shm-size"),
        ("SIGSEGV", "failed", 1, "crashed (Segmentation fault)"),
    ],
)
def test_a_run_whose_process_is_ended_by_the_system_says_so_without_a_traceback(
    tmp_path: Path,
    tiny_dataset: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    name: str,
    state: str,
    code: int,
    words: str,
) -> None:
    monkeypatch.setattr(build, "build_model", lambda name, num, output_stride: TinyNetwork(num))
    read, training = LandmarkDataset.__getitem__, os.getpid()

    def end(self: LandmarkDataset, key: tuple[int, int]) -> Any:
        if os.getpid() != training:
            os.kill(os.getpid(), getattr(signal, name))
        return read(self, key)

    monkeypatch.setattr(LandmarkDataset, "__getitem__", end)
    folder = with_workers(new_run(tmp_path, tiny_dataset))
    caplog.set_level(logging.INFO, "backend")
    assert train_run(folder) == code
    outcome, told = outcome_of(folder), capfd.readouterr()
    assert outcome["state"] == state and words in outcome["reason"] and "--num_workers" in outcome["reason"]
    assert outcome["traceback"] == "" and "Traceback" not in told.err + told.out
    assert f"{state}: {outcome['reason']}" in caplog.text


def with_workers(folder: RunFolder) -> RunFolder:
    """The same run with two processes that prepare images."""
    config = folder.read_config()
    config["settings"]["num_workers"] = 2
    folder.config_path.write_text(json.dumps(config), encoding="utf-8")
    return folder
