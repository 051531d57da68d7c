"""With several GPUs, a run with an automatic device takes a free one at its start, and records it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import train
from backend import scheduler, start_run
from backend.config import Choice, RunConfig, Settings
from backend.device import machine_query
from backend.device.free import choose_free
from backend.device.gpu import GpuReading
from backend.device.machine import Device, Machine
from backend.overrides import read_run_config, resolve_overrides
from backend.placement import Placed, busy_devices, candidates, device_of, place
from backend.resolve import choose_device
from backend.run.folder import RunFolder, create_run
from backend.run.process import ProcessIdentity, identify
from backend.run.queue import add_to_queue, read_queue
from backend.run.state import live_runs
from backend.scheduler import start_waiting
from ui import torch_queries
from ui.runs import queue_panel
from ui.train import start

GIB = 2**30
SMALL, LARGE, OTHER = (
    Device("cuda:0", "Small", 8 * GIB, "aaa"),
    Device("cuda:1", "Large", 24 * GIB, "bbb"),
    Device("cuda:2", "Other", 8 * GIB, "ccc"),
)
MACHINE = Machine((SMALL, LARGE, OTHER), 8, "2.13.0", cpu_bfloat16=False)


def reading(index: int, uuid: str | None, free: int | None, total: int = 8) -> GpuReading:
    num_bytes = None if free is None else free * GIB
    return GpuReading(index, uuid, "card", total * GIB, None, num_bytes, None, None, None)


ALL_FREE = (reading(0, "GPU-aaa", 8), reading(1, "GPU-bbb", 24, 24), reading(2, "GPU-ccc", 8))


@pytest.mark.parametrize(
    ("busy", "readings", "name", "words"),
    [
        (set(), ALL_FREE, "cuda:0", "a free GPU, of 3: Small"),
        ({"cuda:0"}, ALL_FREE, "cuda:1", "a free GPU, of 3: Large"),
        ({"cuda:1", "cpu", None}, (), "cuda:0", "a free GPU"),  # the driver tells nothing
        # another program holds most of the first one, which the driver lists at another place
        (set(), (reading(0, "GPU-bbb", 24, 24), reading(1, "GPU-aaa", 1)), "cuda:1", "a free GPU"),
        # unknown: nothing against it
        (set(), (reading(0, None, 1), reading(1, None, None)), "cuda:1", "a free GPU"),
        ({"cuda:2"}, (reading(0, "GPU-aaa", 2), reading(1, "GPU-bbb", 3, 24)), "cuda:1",
        "other programs hold"),
        ({"cuda:0", "cuda:1", "cuda:2"}, ALL_FREE, "cuda:1", "a run trains on each"),
    ],
)  # fmt: skip
def test_the_first_idle_gpu_is_taken_else_the_one_with_the_most_free_memory(
    busy: set[str | None], readings: Sequence[GpuReading], name: str, words: str
) -> None:
    gpu, reason = choose_free(MACHINE.gpus, busy, readings)
    assert gpu.name == name and words in reason
    choice = choose_device(Settings(), MACHINE, busy, readings)
    assert (choice.value, choice.reason) == (name, reason)
    assert choose_device(Settings(device="cuda:2"), MACHINE, {"cuda:2"}, readings).value == "cuda:2"


def make_run(
    runs_dir: Path, label: str, asked: str = "auto", device: str = "cuda:0", **chosen: Any
) -> RunFolder:
    choices = {name: Choice(value, "chosen") for name, value in {"device": device, **chosen}.items()}
    return create_run(runs_dir, RunConfig(Settings(device=asked), choices).to_dict(), label)


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        ({}, ("cuda:0", "cuda:1", "cuda:2")),
        ({"device": "cuda:1"}, ("cuda:1", "cuda:0", "cuda:2")),
        ({"batch_size": 16}, ("cuda:0", "cuda:1", "cuda:2")),  # as much memory as what it was chosen for
        ({"batch_size": 16, "device": "cuda:1"}, ("cuda:1",)),
        ({"asked": "cuda:0"}, ("cuda:0",)),
        ({"asked": "cuda"}, ("cuda:0",)),
        ({"asked": "cpu", "device": "cpu"}, ("cpu",)),
        ({"device": "cpu"}, ("cpu",)),  # its precision was decided for a CPU
    ],
)
def test_a_run_that_leaves_its_device_open_may_start_on_any_gpu_that_serves_it(
    tmp_path: Path, run: dict[str, Any], expected: tuple[str, ...]
) -> None:
    folder = make_run(tmp_path, "run", **run)
    assert candidates(folder, MACHINE) == expected
    assert candidates(folder, None) == expected[:1]


def test_what_it_takes_is_recorded_only_where_it_is_not_what_its_config_says(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "run")
    assert place(folder, (), MACHINE, ALL_FREE) == Placed("cuda:0", {})
    placed = place(folder, {"cuda:0"}, MACHINE, ALL_FREE)
    assert placed is not None and placed.device == "cuda:1"
    assert placed.overrides["device"]["value"] == "cuda:1" and "Large" in placed.overrides["device"]["reason"]
    assert place(folder, {"cuda:0", "cuda:1", "cuda:2"}, MACHINE, ALL_FREE) is None
    fixed = make_run(tmp_path, "fixed", asked="cuda:0")
    assert place(fixed, {"cuda:0"}, MACHINE, ALL_FREE) is None
    unreadable = create_run(tmp_path, {"format_version": 99}, "later")
    assert place(unreadable, {"cuda:0"}, MACHINE, ALL_FREE) == Placed(None, {})
    gone = Machine((), 8, "2.13.0", cpu_bfloat16=False)
    assert place(folder, (), gone, ()) == Placed("cuda:0", {})  # its worker says that it is gone


@pytest.fixture
def launch() -> Callable[..., None]:
    """Records a launch by this process, as the supervisor does."""

    def record(folder: RunFolder, overrides: Any = None) -> None:
        process = identify(os.getpid()) or ProcessIdentity(1, 2.0)
        folder.write_launched(process, [], **({"overrides": overrides} if overrides else {}))

    return record


def test_waiting_runs_spread_over_the_free_gpus_and_keep_what_they_took(
    tmp_path: Path, launch: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "read_gpus", lambda: ALL_FREE)
    folders = [make_run(tmp_path, f"run{number}") for number in range(4)]
    fixed = make_run(tmp_path, "fixed", asked="cuda:1")
    made = [folder.config_path.read_bytes() for folder in folders]
    for folder in (*folders, fixed):
        add_to_queue(folder)

    def look() -> list[str]:
        started = start_waiting(tmp_path, query_machine=lambda: MACHINE, launch=launch)
        return [folder.run_id for folder in started]

    assert look() == [folder.run_id for folder in folders[:3]]
    assert [device_of(folder) for folder in folders[:3]] == ["cuda:0", "cuda:1", "cuda:2"]
    assert "when the run started" in read_run_config(folders[1]).chosen["device"].reason
    assert [folder.config_path.read_bytes() for folder in folders] == made
    assert look() == [] and read_queue(tmp_path) == [folders[3].run_id, fixed.run_id]
    assert busy_devices(tmp_path) == {"cuda:0", "cuda:1", "cuda:2"}
    folders[2].write_launched(ProcessIdentity(2**22 + 1, 1.0), [], overrides={})  # its process is gone
    folders[2].write_outcome("completed", "done")
    assert look() == [folders[3].run_id] and device_of(folders[3]) == "cuda:2"
    assert len(live_runs(tmp_path)) == 3


def test_the_queue_shows_what_a_run_may_take_and_what_is_in_the_way(
    tmp_path: Path, launch: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine_query, "_machines", [MACHINE])
    devices = [candidates(make_run(tmp_path, "waits"), MACHINE)]
    assert queue_panel._name_devices(devices[0]) == "cuda:0 / cuda:1 / cuda:2"
    first = make_run(tmp_path, "first")
    launch(first)
    assert "about to start" in queue_panel._explain_wait(tmp_path, devices)
    for device in ("cuda:1", "cuda:2"):
        launch(make_run(tmp_path, f"on-{device[-1]}", device=device))
    assert first.run_id in queue_panel._explain_wait(tmp_path, devices)


def test_a_run_of_the_page_goes_to_the_free_card(
    tmp_path: Path, tiny_dataset: Path, launch: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "query_machine", lambda: MACHINE)
    monkeypatch.setattr(start_run, "read_gpus", lambda: ALL_FREE)
    monkeypatch.setattr(start, "launch", launch)
    settings = Settings(dataset_path=str(tiny_dataset))
    run_ids = [start.start_run(settings, tmp_path) for _ in range(2)]
    assert [device_of(RunFolder(tmp_path / run_id)) for run_id in run_ids] == ["cuda:0", "cuda:1"]


def test_the_form_asks_for_the_memory_of_the_card_that_a_run_would_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine_query, "_machines", [MACHINE])
    monkeypatch.setattr(torch_queries, "read_gpus", lambda: (reading(0, "GPU-aaa", 1), *ALL_FREE[1:]))
    assert torch_queries.planned_subject(Settings(), 5, 100).device == "cuda:1"
    assert torch_queries.planned_subject(Settings(device="cuda:0"), 5, 100).device == "cuda:0"


def test_of_two_that_train_py_starts_at_once_the_second_takes_the_other_card(
    tmp_path: Path, tiny_dataset: Path, launch: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "describe_machine", lambda: MACHINE)
    monkeypatch.setattr(start_run, "read_gpus", lambda: ALL_FREE)
    resolve, first = start_run.resolve_settings, []

    def resolve_slowly(*given: Any) -> RunConfig:
        config: RunConfig = resolve(*given)
        if not first:  # another one is faster
            first.append(make_run(tmp_path, "faster", device=config.value("device")))
            launch(first[0])
        return config

    monkeypatch.setattr(start_run, "resolve_settings", resolve_slowly)
    monkeypatch.setattr(train, "record_launch", launch)
    folder, lines = train._start({"dataset_path": str(tiny_dataset)}, None, tmp_path)
    assert (device_of(first[0]), device_of(folder)) == ("cuda:0", "cuda:1")
    assert any(line.startswith("device: cuda:1 (a free GPU") for line in lines)


def test_a_resume_on_auto_takes_a_free_card(
    tmp_path: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_run(tmp_path, "run", dataset_path=str(tiny_dataset))
    taken = resolve_overrides(folder, {"device": "auto"}, MACHINE, {"cuda:0"})
    assert taken["device"]["value"] == "cuda:1"
    assert resolve_overrides(folder, {}, MACHINE, {"cuda:0"}) == {}  # its own, as it was
    held = (
        reading(0, "GPU-aaa", 8),
        reading(1, "GPU-bbb", 1, 24),
        ALL_FREE[2],
    )  # the second, by another program
    assert (
        resolve_overrides(folder, {"device": "auto"}, MACHINE, {"cuda:0"}, held)["device"]["value"]
        == "cuda:2"
    )
