from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from backend.config import RunConfig, Settings
from backend.data.samples import read_splits
from backend.device.machine import Machine
from backend.errors import UserError
from backend.run.folder import list_runs
from ui.data.summary import problems_table, read_view
from ui.number_field import MISTAKE
from ui.runs import reuse
from ui.train import start
from ui.train.form import ACCEPT, form_values
from ui.train.implausible_panel import ImplausiblePanel, show_implausible


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "query_machine", lambda: Machine((), 2, "2.13.0", cpu_bfloat16=False))


def test_the_tick_stands_beside_the_problem_and_only_there(
    dataset_in_shares: Path, tiny_dataset: Path
) -> None:
    parts: Any = ("box", "words", "tick")
    panel = ImplausiblePanel(*parts)
    shown = show_implausible(panel, read_splits(Settings(dataset_path=str(dataset_in_shares))))
    assert shown["box"]["visible"] is True
    assert "all coordinates lie within 0 to 1" in shown["words"]
    assert shown["tick"] == gr.skip()
    shown = show_implausible(panel, read_splits(Settings(dataset_path=str(tiny_dataset))))
    assert shown["box"]["visible"] is False and shown["words"] == ""
    assert shown["tick"] is False  # what is not shown accepts nothing
    assert show_implausible(panel, None)["box"]["visible"] is False


def test_a_start_without_the_tick_makes_no_run_and_marks_it(
    dataset_in_shares: Path, tmp_path: Path, popups: list[str]
) -> None:
    runs_dir = tmp_path / "runs"
    settings = Settings(dataset_path=str(dataset_in_shares), device="cpu")
    for begin in (start.start_run, start.queue_run):  # the API calls these too
        with pytest.raises(UserError, match="shares of the image") as error:
            begin(settings, runs_dir)
        assert error.value.field == ACCEPT and "\n" not in str(error.value)
    tab: Any = SimpleNamespace(runs_dir=runs_dir, blocked="blocked", fields={ACCEPT: ACCEPT})

    def pressed(settings: Settings) -> dict[Any, Any]:
        return reuse.on_queue(tab, form_values(RunConfig(settings, {})))

    updates = pressed(settings)
    assert updates[ACCEPT]["elem_classes"] == [MISTAKE] and "shares" in updates[ACCEPT]["info"]
    assert "shares" in updates["blocked"]["value"] and list_runs(runs_dir) == []
    assert ACCEPT not in pressed(settings.model_copy(update={ACCEPT: True}))
    assert len(list_runs(runs_dir)) == 1


def test_the_data_tab_still_shows_such_a_data_set_with_its_problem(dataset_in_shares: Path) -> None:
    view = read_view(Settings(dataset_path=str(dataset_in_shares)))
    assert len(view.samples) == 12
    assert "shares of the image" in problems_table(view.splits.annotations.problems, ())
