"""What a resume may change, that it is checked first, and that it holds for every later launch."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from backend.config import Choice, RunConfig, Settings
from backend.data.provenance import record_data
from backend.data.restored_splits import read_whole_data
from backend.data.samples import load_splits
from backend.device.machine import Device, Machine
from backend.errors import UserError
from backend.overrides import ended_by_patience, read_run_config, resolve_overrides
from backend.run import supervisor
from backend.run.folder import RunFolder, create_run

ALONE = Machine((), 4, "2.13.0", cpu_bfloat16=False)
WITH_GPU = Machine((Device("cuda:0", "a GPU", 8 << 30),), 4, "2.13.0", cpu_bfloat16=True)
SLEEPS = [sys.executable, "-c", "import time; time.sleep(600)"]


@pytest.fixture
def data(tiny_dataset: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    shutil.copytree(tiny_dataset, folder)
    return folder


def make_run(tmp_path: Path, data: Path, device: str = "cuda:0", **settings: Any) -> RunFolder:
    """A run that learned from the data, stopped, with a last.pt to go on from."""
    chosen = {
        "dataset_path": Choice(str(data), "as asked"),
        "device": Choice(device, "the first GPU that torch sees"),
        "mixed_precision": Choice("float16", "on a GPU"),
        "num_workers": Choice(3, "of 4 CPU cores, one stays free"),
    }
    config = RunConfig(Settings(**settings), chosen)
    folder = create_run(tmp_path / "runs", config.to_dict(), "run")
    splits = load_splits(data, dataset_format="auto", annotation_type="mean", val_fraction=0.1, seed=0)
    folder.write_data(record_data(splits, "mean", {}).to_dict())
    folder.checkpoint_path("last").parent.mkdir()
    folder.checkpoint_path("last").touch()
    folder.write_outcome("stopped", "by hand")
    return folder


@pytest.fixture
def launched() -> Iterator[list[RunFolder]]:
    """Runs whose sleeping processes are ended after the test."""
    folders: list[RunFolder] = []
    yield folders
    for folder in folders:
        end_process(folder)


def end_process(folder: RunFolder) -> None:
    process = psutil.Process((folder.read_launched() or {})["pid"])
    process.kill()
    process.wait()
    supervisor.reap()


def test_missing_gpu_is_refused_and_another_device_resolved_again(tmp_path: Path, data: Path) -> None:
    folder = make_run(tmp_path, data)
    with pytest.raises(UserError, match="torch sees no cuda:0 here") as caught:
        resolve_overrides(folder, {}, ALONE)
    assert caught.value.field == "device" and "cpu" in caught.value.cure
    overrides = resolve_overrides(folder, {"device": "cpu"}, ALONE)
    assert {name: choice["value"] for name, choice in overrides.items()} == {
        "device": "cpu",
        "num_workers": 0,
        "mixed_precision": False,
    }
    assert (
        resolve_overrides(folder, {}, WITH_GPU)
        == {}
        == resolve_overrides(folder, {"device": "cuda"}, WITH_GPU)
    )


def test_overrides_are_kept_for_later_launches(tmp_path: Path, data: Path, launched: list[RunFolder]) -> None:
    folder = make_run(tmp_path, data)
    made = folder.config_path.read_bytes()
    launched.append(folder)
    supervisor.resume(folder, resolve_overrides(folder, {"device": "cpu"}, ALONE), argv_prefix=SLEEPS)
    assert read_run_config(folder).value("device") == "cpu"
    end_process(folder)
    moved = tmp_path / "moved"
    data.rename(moved)
    overrides = resolve_overrides(folder, {"dataset_path": str(moved), "patience": "7"}, ALONE)
    supervisor.resume(folder, overrides, argv_prefix=SLEEPS)
    end_process(folder)
    supervisor.launch(folder, argv_prefix=SLEEPS)
    config = read_run_config(folder)
    assert [config.value(name) for name in ("device", "dataset_path", "patience", "num_workers")] == [
        "cpu", str(moved), 7, 0,
    ]  # fmt: skip
    assert config.chosen["device"].reason == "as asked at a resume"
    assert folder.config_path.read_bytes() == made
    assert len(read_whole_data(config).train) == 12


def test_changed_num_workers_is_kept_on_another_device(
    tmp_path: Path, data: Path, launched: list[RunFolder]
) -> None:
    folder = make_run(tmp_path, data)
    launched.append(folder)
    overrides = resolve_overrides(folder, {"num_workers": "1"}, WITH_GPU)
    assert overrides == {"num_workers": {"value": 1, "reason": "as asked at a resume"}}
    supervisor.resume(folder, overrides, argv_prefix=SLEEPS)
    assert read_run_config(folder).value("num_workers") == 1
    moved = resolve_overrides(folder, {"device": "cpu"}, ALONE)
    assert moved["num_workers"]["value"] == 1
    back = resolve_overrides(folder, {"device": "cpu", "num_workers": "auto"}, ALONE)
    assert back["num_workers"]["value"] == 0


def test_folder_without_the_runs_data_is_refused(tmp_path: Path, data: Path) -> None:
    folder = make_run(tmp_path, data, device="cpu")
    other = tmp_path / "other"
    shutil.copytree(data, other)
    for path in other.glob("*.png"):
        shutil.copyfile(data / "00.png", path)
    for path, words in (
        (other, "is not the data that this run learned from"),
        (tmp_path / "no", "does not exist"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            resolve_overrides(folder, {"dataset_path": str(path)}, ALONE)
        assert caught.value.field == "dataset_path"
    assert folder.read_launched() is None


def test_missing_data_is_refused_with_a_cure(tmp_path: Path, data: Path) -> None:
    folder = make_run(tmp_path, data, device="cpu")
    data.rename(tmp_path / "moved")
    with pytest.raises(UserError, match="does not exist any more") as caught:
        resolve_overrides(folder, {}, ALONE)
    assert caught.value.field == "dataset_path" and "--dataset_path" in caught.value.cure


def test_no_other_setting_changes_at_a_resume(tmp_path: Path, data: Path) -> None:
    folder = make_run(tmp_path, data, device="cpu")
    with pytest.raises(UserError, match="its own settings, not with --lr --epochs") as caught:
        resolve_overrides(folder, {"lr": 1e-4, "epochs": 3}, ALONE)
    assert "--patience" in caught.value.cure
    with pytest.raises(UserError, match="patience"):
        resolve_overrides(folder, {"patience": -1}, ALONE)


def test_run_ended_by_patience_needs_a_larger_one(tmp_path: Path, data: Path) -> None:
    folder = make_run(tmp_path, data, device="cpu", patience=3)
    folder.archive_outcome()
    folder.write_outcome("finished_early", "no better validation error for 3 epochs")
    folder.append_metrics({"phase": "train", "epoch": 9})
    assert not ended_by_patience(folder)  # somebody asked it to finish
    folder.append_event("early_stop", "patience", phase="train", epoch=9)
    assert ended_by_patience(folder)
    for asked in ({}, {"patience": 3}, {"patience": 2}):
        with pytest.raises(UserError, match="would end again at once") as caught:
            resolve_overrides(folder, asked, ALONE)
        assert caught.value.field == "patience"
    for patience in (4, 0):
        overrides = resolve_overrides(folder, {"patience": patience}, ALONE)
        assert overrides["patience"]["value"] == patience
    folder.append_event("resumed", "resumed", phase="train", epoch=9)
    assert not ended_by_patience(folder)


def test_a_run_without_overrides_reads_as_it_was_made(tmp_path: Path, data: Path) -> None:
    folder = make_run(tmp_path, data)
    assert read_run_config(folder) == RunConfig.from_dict(json.loads(folder.config_path.read_text()))
