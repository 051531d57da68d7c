"""The Monitor tab without a browser: what a tick sends, and that it sends nothing twice."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.config import Choice, RunConfig, Settings
from backend.geometry import scaling
from backend.run.folder import RunFolder, create_run
from backend.run.removal import delete_run
from ui.monitor import tab as monitor_tab
from ui.monitor.buttons import RunButtons
from ui.monitor.previews import Previews
from ui.monitor.tab import MonitorTab
from ui.session import Session
from ui.text.say import say

OPTIONS = (0, False, True, "all")


def named(kind: type, prefix: str = "", **values: Any) -> Any:
    """Components that are only what an update is addressed to: their names serve as well."""
    return kind(**{**{field.name: prefix + field.name for field in fields(kind)}, **values})


@pytest.fixture
def tab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MonitorTab:
    monkeypatch.setattr(monitor_tab, "device_lines", lambda: "a device")
    own: dict[str, Any] = {"runs_dir": tmp_path, "session": "session"}
    buttons = named(RunButtons, "button ", **own)
    previews = named(Previews, "preview ", **own, plots=("plot 0",))
    tab: MonitorTab = named(MonitorTab, **own, buttons=buttons, previews=previews)
    return tab


def make_run(runs_dir: Path, name: str) -> RunFolder:
    config = RunConfig(Settings(), {"device": Choice("cpu", "as asked"), "dataset_path": Choice("/d", "")})
    folder = create_run(runs_dir, config.to_dict(), name)
    truth = np.array([[[10.0, 10.0]]], np.float32)
    folder.write_preview_images(
        {
            "image_ids": np.array(["007"]),
            "landmark_names": np.array([f"S of {name}"]),
            "truth_xy_image": truth,
            "mm_per_px_xy": np.array([[np.nan, np.nan]]),
            "display_0": np.zeros((20, 20), np.uint8),
            "affine_image_to_display_0": scaling(1, 1),
        }
    )
    finish_epoch(folder, 1)
    return folder


def finish_epoch(folder: RunFolder, epoch: int) -> None:
    folder.write_preview(
        "train",
        epoch,
        {
            "points_xy_image": np.array([[[11.0, 10.0]]], np.float32),
            "confidence": np.ones((1, 1)),
            "heatmaps": np.zeros((1, 1, 5, 5), np.uint8),
            "affine_heatmap_to_image": scaling(4, 4)[None, None],
        },
    )
    row = {"phase": "train", "epoch": epoch, "train/loss": 1.0, "val/mre_px": 2.0, "memory_bytes": 2**30}
    folder.append_metrics({**row, f"val/mre_px/S of {folder.run_id}": 2.0})


def test_a_tick_sends_what_changed_and_nothing_else(tab: MonitorTab) -> None:
    folder = make_run(tab.runs_dir, "run")
    session = Session()
    first = monitor_tab.on_tick(tab, session, *OPTIONS)
    assert {tab.card, tab.curves, tab.values, tab.landmarks, tab.previews.note, tab.devices} <= set(first)
    assert first[tab.curves]["visible"] and "process memory" in first[tab.values]
    assert monitor_tab.on_tick(tab, session, *OPTIONS) == {tab.session: session}

    finish_epoch(folder, 2)
    second = monitor_tab.on_tick(tab, session, *OPTIONS)
    assert {tab.curves, tab.landmarks, tab.previews.note} <= set(second)
    assert not {tab.run, tab.devices, tab.events} & set(second)

    smoothed = monitor_tab.on_tick(tab, session, 3, False, True, "all")
    assert set(smoothed) == {tab.session, tab.curves, tab.curves_note}  # the tables do not follow from that


def test_another_run_is_drawn_whole_at_its_newest_preview(tab: MonitorTab) -> None:
    older, newer = make_run(tab.runs_dir, "a"), make_run(tab.runs_dir, "b")
    finish_epoch(older, 2)
    session = Session(older.run_id, preview=("train", 1))
    monitor_tab.on_tick(tab, session, *OPTIONS)
    updates = monitor_tab.on_choose(tab, newer.run_id, session, *OPTIONS)
    assert session.run_id == newer.run_id and session.preview is None
    assert updates[tab.buttons.acts_on]["value"] == newer.run_id
    assert {tab.card, tab.curves, tab.landmarks} <= set(updates)
    monitor_tab.on_choose(tab, "no such run", session, *OPTIONS)
    assert session.run_id == newer.run_id


def test_the_buttons_go_with_the_page_where_its_run_was_deleted(tab: MonitorTab) -> None:
    older, newer = make_run(tab.runs_dir, "a"), make_run(tab.runs_dir, "b")
    session = Session(newer.run_id)
    monitor_tab.on_tick(tab, session, *OPTIONS)
    delete_run(newer)
    updates = monitor_tab.on_tick(tab, session, *OPTIONS)
    assert updates[tab.buttons.acts_on]["value"] == session.run_id == older.run_id
    delete_run(older)
    updates = monitor_tab.on_tick(tab, session, *OPTIONS)
    assert updates[tab.card] == say("no_runs") and updates[tab.curves]["visible"] is False
    assert updates[tab.buttons.acts_on]["visible"] is False and updates["plot 0"]["visible"] is False
    assert monitor_tab.on_tick(tab, session, *OPTIONS) == {tab.session: session}
