"""The Monitor tab without a browser: what a tick sends, and that it sends nothing twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.config import Choice, RunConfig, Settings
from backend.geometry import scaling
from backend.run.folder import RunFolder, create_run
from backend.run.removal import delete_run
from backend.run.rows import MARK_BYTES
from ui.monitor import previews as previews_module
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
    folder.previews.write_images(
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
    folder.previews.write(
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


def test_a_tick_reads_only_what_was_appended_and_draws_only_what_changed(
    tab: MonitorTab, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_run(tab.runs_dir, "run")
    folder.append_event("note", "first")
    folder.log_path.write_text("a line\n", encoding="utf-8")
    read = count_bytes_read(monkeypatch, folder)
    built = count_calls(
        monkeypatch,
        {
            monitor_tab: (
                "plot_curves", "curves_table", "landmark_table", "event_list", "log_text", "run_card"
            ),
            previews_module: ("preview_figures",),
        },
    )  # fmt: skip
    session, other_browser = Session(), Session()
    monitor_tab.on_tick(tab, session, *OPTIONS)
    assert read == {path: path.stat().st_size for path in read} and built == dict.fromkeys(built, 1)

    for _ in range(3):
        monitor_tab.on_tick(tab, session, *OPTIONS)
        folder.write_status({})  # a heartbeat is no news
    assert built == dict.fromkeys(built, 1)

    monitor_tab.on_tick(tab, other_browser, *OPTIONS)
    assert read == {path: path.stat().st_size for path in read}  # what one browser made it read serves all

    finish_epoch(folder, 2)
    monitor_tab.on_tick(tab, session, *OPTIONS)
    appended = {path: path.stat().st_size - num for path, num in read.items()}
    assert appended[folder.events_path] == 0
    assert abs(appended[folder.metrics_path]) <= MARK_BYTES  # the end of what was read is looked at again
    assert (built["plot_curves"], built["event_list"], built["log_text"]) == (3, 2, 2)


def count_bytes_read(monkeypatch: pytest.MonkeyPatch, folder: RunFolder) -> dict[Path, int]:
    """Count by file, from now on, how much of a run's rows is read."""
    read = {folder.metrics_path: 0, folder.events_path: 0}
    plain_open = Path.open

    class Counting(FileIO):
        def read(self, size: int | None = -1, /) -> bytes:
            content = super().read(-1 if size is None else size) or b""
            read[Path(str(self.name))] += len(content)
            return content

    def counting_open(path: Path, mode: str = "r", *more: Any, **named: Any) -> Any:
        return (
            Counting(path, "r") if path in read and mode == "rb" else plain_open(path, mode, *more, **named)
        )

    monkeypatch.setattr(Path, "open", counting_open)
    return read


def count_calls(monkeypatch: pytest.MonkeyPatch, names: Mapping[Any, Sequence[str]]) -> dict[str, int]:
    """Count from now on how often functions are called; `names` by module."""
    called = {name: 0 for of_module in names.values() for name in of_module}

    def counting(name: str, function: Any) -> Any:
        def call(*values: Any, **named: Any) -> Any:
            called[name] += 1
            return function(*values, **named)

        return call

    for module, of_module in names.items():
        for name in of_module:
            monkeypatch.setattr(module, name, counting(name, getattr(module, name)))
    return called
