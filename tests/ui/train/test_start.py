"""Starting from the page: its text about a busy device, and the cure of a batch that does not fit."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from backend.config import Settings
from backend.device.machine import Machine
from backend.errors import UserError
from backend.run.folder import RunFolder, list_runs
from backend.run.process import identify
from ui import run_actions
from ui.train import start

ALONE = Machine((), 2, "2.13.0", cpu_bfloat16=False)


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a GPU, about which no process is asked; what is launched is this process."""
    for module in (start, run_actions):
        monkeypatch.setattr(module, "query_machine", lambda: ALONE)
    monkeypatch.setattr(start, "launch", lambda folder: folder.write_launched(identify(os.getpid()), []))


def test_a_busy_device_is_reported_in_the_words_that_were_asked_for(
    tmp_path: Path, tiny_dataset: Path
) -> None:
    settings = Settings(dataset_path=str(tiny_dataset), device="cpu")
    run_id = start.start_run(settings, tmp_path)
    with pytest.raises(UserError, match=f"{run_id} is training on cpu; press Add to queue"):
        start.start_run(settings, tmp_path)
    with pytest.raises(UserError, match=f"{run_id} is training on cpu; call with queue=True"):
        start.start_run(settings, tmp_path, busy_key="api_busy")
    waiting, place = start.queue_run(settings, tmp_path)
    assert place == 1 and len(list_runs(tmp_path)) == 2
    folder = RunFolder(tmp_path / waiting)
    folder.checkpoint_path("last").parent.mkdir()
    folder.checkpoint_path("last").touch()
    with pytest.raises(UserError, match=f"{run_id} is training on cpu; wait for it"):
        run_actions.resume_run(folder)


def test_patience_needs_validation_images_before_a_run_is_made(tmp_path: Path, tiny_dataset: Path) -> None:
    settings = Settings(dataset_path=str(tiny_dataset), device="cpu", patience=5, val_fraction=0.0)
    for begin in (start.start_run, start.queue_run):
        with pytest.raises(UserError, match="no validation images") as caught:
            begin(settings, tmp_path / "runs")
        assert caught.value.field == "patience" and "--val_fraction" in caught.value.cure
    assert not (tmp_path / "runs").exists()


def test_an_automatic_batch_that_does_not_fit_names_its_cure(
    tmp_path: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values: dict[str, Any] = {"least": 2, "need": "9.0", "free": "1.0", "reserve": "0.6"}
    remarks = [
        {"key": "too_few_fit", "values": values},
        {"key": "model_fits", "values": {"model": "unet", "model_need": "0.3"}},
    ]
    answer = {"recommended_batch_size": None, "reason": "none fits", "remarks": remarks}
    monkeypatch.setattr(start, "query_memory", lambda subject, anew: answer)
    monkeypatch.setattr(start, "subject_of", lambda settings, splits: None)
    settings = Settings(dataset_path=str(tiny_dataset), device="cpu", batch_size="auto")
    with pytest.raises(UserError, match="not even 2 images fit") as caught:
        start.start_run(settings, tmp_path / "runs")
    assert caught.value.field == "batch_size" and caught.value.cure == "the model unet (0.3 GiB) would fit"
