from __future__ import annotations

import asyncio
from dataclasses import fields
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from backend.config import Choice, RunConfig, Settings
from backend.run.folder import RunFolder, create_run
from ui.runs import compare_panel
from ui.runs.compare_panel import ComparePanel
from ui.runs.paired_panel import PairedPanel
from ui.session import Session


@pytest.fixture
def panel(tmp_path: Path) -> ComparePanel:
    paired: dict[str, Any] = {field.name: field.name for field in fields(PairedPanel)}
    parts: dict[str, Any] = {field.name: field.name for field in fields(ComparePanel)}
    return ComparePanel(**{**parts, "runs_dir": tmp_path, "paired": PairedPanel(**paired)})


@pytest.fixture
def folders(tmp_path: Path) -> list[RunFolder]:
    made = []
    for lr in (1e-3, 5e-4):
        config = RunConfig(Settings(lr=lr), {"dataset_path": Choice("/data/films", "as asked")})
        made.append(create_run(tmp_path, config.to_dict(), "run"))
        made[-1].append_metrics({"phase": "train", "epoch": 1, "val/mre_px": 1000 * lr})
    return made


def test_the_last_of_two_quick_choices_is_not_lost(tmp_path: Path) -> None:
    async def build() -> tuple[ComparePanel, gr.Blocks]:
        with gr.Blocks() as page:
            return compare_panel.create_compare_panel(gr.State(), tmp_path), page

    # without a running loop, Gradio makes one and leaves it open
    built, page = asyncio.run(build())
    for chosen in (built.chosen, built.paired.first, built.paired.second, built.paired.evaluation):
        (asked,) = (fn for fn in page.fns.values() if (chosen._id, "input") in fn.targets)
        assert asked.trigger_mode == "always_last"


def test_two_chosen_runs_are_drawn_once_and_again_when_one_learns(
    panel: ComparePanel, folders: list[RunFolder]
) -> None:
    session, chosen = Session(), [folder.run_id for folder in folders]
    updates = compare_panel.on_choose(panel, session, chosen, "mre", False)
    assert updates[panel.results]["visible"] is True and updates[panel.empty]["visible"] is False
    assert [trace.name for trace in updates[panel.plot].data if trace.showlegend is not False] == chosen
    assert "Learning rate" in updates[panel.settings] and updates[panel.settings].count("<tr>") == 2
    assert updates[panel.paired.first]["value"] == chosen[0]
    assert compare_panel.on_tick(panel, session, chosen, "mre", False) == {panel.session: session}
    folders[0].append_metrics({"phase": "train", "epoch": 2, "val/mre_px": 0.5})
    assert panel.plot in compare_panel.on_tick(panel, session, chosen, "mre", False)


@pytest.mark.parametrize("more", [[], ["deleted or mistyped"]])
def test_fewer_than_two_runs_say_what_to_do(
    panel: ComparePanel, folders: list[RunFolder], more: list[str]
) -> None:
    updates = compare_panel.on_tick(panel, Session(), [folders[0].run_id, *more], "mre", False)
    assert updates[panel.results]["visible"] is False and updates[panel.empty]["visible"] is True
    assert updates[panel.chosen]["value"] == [folders[0].run_id]
    assert panel.plot not in updates


def test_a_run_keeps_its_color_when_another_is_taken_out_of_the_choice(
    panel: ComparePanel, folders: list[RunFolder]
) -> None:
    config = folders[0].read_config()
    folders.append(create_run(panel.runs_dir, config, "run"))
    folders[-1].append_metrics({"phase": "train", "epoch": 1, "val/mre_px": 3.0})
    first, second, third = (folder.run_id for folder in folders)

    def colors(*chosen: str) -> dict[str, str]:
        figure = compare_panel.on_tick(panel, Session(), chosen, "mre", False)[panel.plot]
        return {trace.name: trace.line.color for trace in figure.data if trace.showlegend is not False}

    before = colors(first, second, third)
    assert len(set(before.values())) == 3
    assert colors(second, third) == {run_id: before[run_id] for run_id in (second, third)}
    assert colors(third, first) == {run_id: before[run_id] for run_id in (third, first)}
