"""Page, API and train.py start, queue and resume a run in one way, and refuse the same mistakes."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from backend.config import Choice, RunConfig, Settings
from backend.device.machine import Machine
from backend.errors import UserError
from backend.memory.batch_size import choose_batch
from backend.memory.reasons import reason
from backend.placement import DeviceBusyError, device_of, require_free
from backend.presets import with_preset
from backend.run.folder import RunFolder, create_run, list_runs
from backend.run.process import identify
from backend.run.queue import read_queue
from backend.start_run import TorchAnswers, configure_run, queue_run, resume_run, start_run

ALONE = Machine((), 2, "2.13.0", cpu_bfloat16=False)


def four(settings: Settings, device: str) -> Choice:
    return Choice(4, "as recommended")


def accept(config: RunConfig, landmark_names: Sequence[str]) -> None:
    pass


ANSWERS = TorchAnswers(ALONE, four, accept)


def launch(folder: RunFolder, overrides: Mapping[str, Any] | None = None) -> None:
    """By this process, which lives."""
    folder.write_launched(identify(os.getpid()), [])


def make_run(runs_dir: Path, label: str, device: str = "cpu") -> RunFolder:
    chosen = {"device": Choice(device, "as asked"), "dataset_path": Choice(str(runs_dir), "as asked")}
    return create_run(runs_dir, RunConfig(Settings(device=device), chosen).to_dict(), label)


def test_a_run_is_refused_where_another_trains_unless_it_may_share(
    tmp_path: Path, tiny_dataset: Path
) -> None:
    runs_dir = tmp_path / "runs"
    settings = Settings(dataset_path=str(tiny_dataset), device="cpu", batch_size="auto")
    first, configured = start_run(settings, runs_dir, ANSWERS, launch)
    assert configured.config.value("batch_size") == 4 and device_of(first) == "cpu"
    with pytest.raises(DeviceBusyError, match=f"run {first.run_id} trains on cpu now; wait for it"):
        start_run(settings, runs_dir, ANSWERS, launch)
    assert list_runs(runs_dir) == [first]
    waiting, place = queue_run(settings, runs_dir, ANSWERS)
    assert (read_queue(runs_dir), place) == ([waiting.run_id], 1)
    shares, _ = start_run(settings, runs_dir, ANSWERS, launch, may_share=True)
    assert shares.read_launched() is not None
    require_free(runs_dir, "cuda:0")


def test_a_resume_is_refused_where_another_run_trains_unless_it_may_share(tmp_path: Path) -> None:
    folder, other = make_run(tmp_path, "stopped"), make_run(tmp_path, "trains")
    with pytest.raises(UserError, match=r"last\.pt"):
        resume_run(folder, {}, ALONE, launch)
    folder.checkpoint_path("last").parent.mkdir()
    folder.checkpoint_path("last").touch()
    launch(other)
    with pytest.raises(DeviceBusyError, match=other.run_id):
        resume_run(folder, {}, ALONE, launch)
    assert folder.read_launched() is None
    assert resume_run(folder, {"num_workers": 1}, ALONE, launch, may_share=True)["num_workers"]["value"] == 1
    assert folder.read_launched() is not None


def test_of_several_that_start_at_once_one_does(tmp_path: Path, tiny_dataset: Path) -> None:
    settings, told = Settings(dataset_path=str(tiny_dataset), device="cpu"), []

    def start() -> None:
        try:
            start_run(settings, tmp_path, ANSWERS, launch)
            told.append("started")
        except DeviceBusyError as error:
            told.append(str(error))

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told.count("started") == 1 and len(told) == 4 and len(list_runs(tmp_path)) == 1


@pytest.mark.parametrize("begin", ["start", "queue"])
@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"patience": 5, "val_fraction": 0.0}, "patience"),  # the page let this through to the worker
        ({"flip_pairs": "nose=tail"}, "flip_pairs"),
        ({"device": "cuda:7"}, "device"),
        ({"dataset_path": "/nowhere"}, "dataset_path"),
    ],
)
def test_what_a_run_could_not_start_with_leaves_no_folder(
    tmp_path: Path, tiny_dataset: Path, begin: str, changed: dict[str, Any], field: str
) -> None:
    settings = Settings(**{"dataset_path": str(tiny_dataset), "device": "cpu", **changed})
    runs_dir = tmp_path / "runs"
    with pytest.raises(UserError) as caught:
        if begin == "start":
            start_run(settings, runs_dir, ANSWERS, launch)
        else:
            queue_run(settings, runs_dir, ANSWERS)
    assert caught.value.field == field and caught.value.cure
    assert not runs_dir.exists()


def test_no_batch_that_fits_is_a_mistake_with_its_cure() -> None:
    fits = reason("fits", batch=4, need="1.0", free="2.0")
    assert choose_batch(4, [fits]) == Choice(4, "4: 1.0 of 2.0 GiB free")
    too_few = reason("too_few_fit", least=2, need="9.0", free="1.0", reserve="0.6")
    with pytest.raises(UserError) as caught:
        choose_batch(None, [too_few, reason("model_fits", model="unet", model_need="0.3")])
    assert caught.value.what.startswith("not even 2 images fit")
    assert caught.value.cure == "the model unet (0.3 GiB) would fit" and caught.value.field == "batch_size"
    with pytest.raises(UserError, match="give a number"):
        choose_batch(None, [reason("unknown", device="cuda:0")])


def test_settings_that_equal_a_preset_are_recorded_as_it(tmp_path: Path, tiny_dataset: Path) -> None:
    """Whoever starts: train.py recorded only a preset that was asked for by its name."""
    fast = Settings(**with_preset("fast", {"dataset_path": str(tiny_dataset), "device": "cpu"}))
    assert configure_run(fast, ANSWERS).config.value("preset") == "fast"
    other = configure_run(fast.model_copy(update={"lr": 0.5}), ANSWERS, preset="fast").config
    assert other.chosen["preset"].reason == "as asked, but lr 0.5"
    assert "preset" not in configure_run(fast.model_copy(update={"lr": 0.5}), ANSWERS).config.chosen


def test_the_device_of_an_unreadable_run_is_not_known(tmp_path: Path) -> None:
    assert device_of(create_run(tmp_path, {"format_version": 99}, "later")) is None
