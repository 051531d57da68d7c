from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from backend.config import RunConfig, Settings
from backend.device.machine import Machine
from backend.run.folder import RunFolder, create_run, list_runs
from backend.run.queue import read_queue
from backend.run.state import RunState, derive_state
from ui.runs import reuse
from ui.train import start
from ui.train.form import FORM_KEYS, form_values


@pytest.fixture
def tab(tmp_path: Path, popups: list[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(start, "query_machine", lambda: Machine((), 2, "2.13.0", cpu_bfloat16=False))
    return SimpleNamespace(
        runs_dir=tmp_path / "runs", blocked="blocked", fields={key: key for key in FORM_KEYS}
    )


def values_of(settings: Settings) -> dict[str, Any]:
    return form_values(RunConfig(settings, {}))


def test_a_queued_run_has_its_folder_and_its_frozen_config_at_once(
    tab: Any, tiny_dataset: Path, popups: list[str]
) -> None:
    settings = Settings(dataset_path=str(tiny_dataset), seed=5, device="cpu")
    updates = reuse.on_queue(tab, values_of(settings))
    (folder,) = list_runs(tab.runs_dir)
    assert read_queue(tab.runs_dir) == [folder.run_id]
    assert derive_state(folder) is RunState.QUEUED
    assert RunConfig.from_dict(folder.read_config()).settings == settings
    assert updates[tab.blocked]["visible"] is False and "place 1" in popups[0]


def test_a_mistake_makes_no_folder(tab: Any, tmp_path: Path, tiny_dataset: Path) -> None:
    for path in (tmp_path / "nowhere", tiny_dataset / "00.png"):
        updates = reuse.on_queue(tab, values_of(Settings(dataset_path=str(path), device="cpu")))
        assert "Cannot start" in updates[tab.blocked]["value"]
    tab.runs_dir.mkdir()
    (tab.runs_dir / "queue.json").write_text("{")
    updates = reuse.on_queue(tab, values_of(Settings(dataset_path=str(tiny_dataset), device="cpu")))
    assert "damaged" in updates[tab.blocked]["value"]
    assert list_runs(tab.runs_dir) == []


def test_a_duplicated_run_fills_the_form_and_turns_to_it(tab: Any, popups: list[str]) -> None:
    folder = create_run(tab.runs_dir, RunConfig(Settings(seed=9, lr=0.01), {}).to_dict(), "run")
    updates = reuse.on_duplicated(tab, "duplicated", "tabs", folder.run_id)  # type: ignore[arg-type]
    assert (updates["seed"], updates["lr"], updates["image_height"]) == ("9", "0.01", "256")
    assert set(updates) == {"tabs", "duplicated", *FORM_KEYS} and updates["duplicated"] is None
    assert folder.run_id in popups[0]


@pytest.mark.parametrize("run_id", [None, "gone"])
def test_nothing_is_filled_for_no_run(tab: Any, run_id: str | None) -> None:
    updates = reuse.on_duplicated(tab, "duplicated", "tabs", run_id)  # type: ignore[arg-type]
    assert updates == {"duplicated": None}
    assert not RunFolder(tab.runs_dir).path.exists()
