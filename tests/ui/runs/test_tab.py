"""The Runs tab's handlers: what they send, and that they send nothing twice."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from backend.config import Choice, RunConfig, Settings
from backend.run.folder import create_run
from ui.runs import tab as runs_tab
from ui.runs.tab import RunsTab
from ui.session import Session
from ui.text.say import say


@pytest.fixture
def tab(tmp_path: Path) -> RunsTab:
    # a component is only what an update is addressed to, so its name serves as well
    parts: dict[str, Any] = {field.name: field.name for field in fields(RunsTab)}
    return RunsTab(**{**parts, "runs_dir": tmp_path})


def make_run(runs_dir: Path, name: str) -> str:
    chosen = {"device": Choice("cpu", "as asked"), "dataset_path": Choice("/d", "")}
    return create_run(runs_dir, RunConfig(Settings(), chosen).to_dict(), name).run_id


def test_without_a_run_the_tab_says_what_to_do(tab: RunsTab) -> None:
    updates = runs_tab.on_load(tab, Session())
    assert updates[tab.empty]["value"] == say("runs_none") and updates[tab.empty]["visible"]
    assert updates[tab.table]["visible"] is False


def test_a_tick_sends_the_table_only_where_it_changed(tab: RunsTab) -> None:
    session, first = Session(), make_run(tab.runs_dir, "first")
    assert first in runs_tab.on_tick(tab, session, None, "", "", "newest")[tab.table]["value"]
    assert runs_tab.on_tick(tab, session, None, "", "", "newest") == {tab.session: session}
    second = make_run(tab.runs_dir, "second")
    assert second in runs_tab.on_tick(tab, session, None, "", "", "newest")[tab.table]["value"]


def test_a_search_without_a_match_says_how_to_widen_it(tab: RunsTab) -> None:
    session, run_id = Session(), make_run(tab.runs_dir, "first")
    updates = runs_tab.on_options(tab, session, "nothing like it", "", "newest")
    assert updates[tab.empty]["value"] == say("runs_no_match") and updates[tab.table]["visible"] is False
    assert run_id in runs_tab.on_options(tab, session, "first", "", "newest")[tab.table]["value"]
    assert run_id in runs_tab.on_load(tab, session)[tab.table]["value"]  # a reopened page has no search
