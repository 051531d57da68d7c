"""The Data tab's handlers: what they send, and that an answer that comes late is not lost."""

from __future__ import annotations

from dataclasses import fields, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from backend.config import Settings
from backend.data.leaks import Leak
from ui.data import shown_image, training_view
from ui.data import tab as data_tab
from ui.data.parts import DataTab
from ui.data.summary import ALL_SPLITS, DataView, problem_rows
from ui.data.training_view import TrainingPanel
from ui.session import Session
from ui.train.form import FORM_KEYS


@pytest.fixture
def tab() -> Any:
    # a component is only what an update is addressed to, so its name serves as well
    parts = {field.name: field.name for field in fields(DataTab)}
    training = TrainingPanel(**{field.name: f"training-{field.name}" for field in fields(TrainingPanel)})
    return DataTab(**{**parts, "training": training})


def test_leaks_and_decoding_error_are_shown_though_a_run_was_started_meanwhile(
    view: DataView, tab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session()

    def answer_late(*_asked: Any) -> Any:
        session.watch("a-run")
        return (Leak(("00.png", "15.png"), ("train", "test"), "picture", 0.01),)

    monkeypatch.setattr(data_tab, "read_leaks", answer_late)
    monkeypatch.setattr(data_tab, "_is_of_form", lambda view, form: True)
    updates = data_tab.on_leaks(tab, session, view, {})
    assert len(updates[tab.leaks]) == 1

    def query_late(_settings: Settings) -> Any:
        session.watch("another")
        return {"floor": {"mre_px": 0.5, "mre_mm": None, "num_images": 3}, "crop_floor": None}

    monkeypatch.setattr(training_view, "query_decoding_error", query_late)
    monkeypatch.setattr(training_view, "settings_for_data", lambda form: Settings())
    assert "0.50 px" in str([*training_view.on_decoding_error(tab.training, session, view, {})][-1])


def test_an_import_is_read_while_the_form_still_names_another_data_set(
    tab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def note(_tab: Any, _session: Session, form: Any) -> dict[str, Any]:
        return dict(form)

    monkeypatch.setattr(data_tab, "on_read", note)
    read = data_tab.on_read_imported(tab, Session(), "/data/new", dict.fromkeys(FORM_KEYS, "before"))
    assert read.pop("dataset_path") == "/data/new"
    assert set(read.values()) == {"before"}


def test_an_image_without_a_landmark_to_learn_has_no_sigma_to_show(view: DataView, tab: Any) -> None:
    points = view.samples.points_xy_image.copy()
    points[3] = np.nan
    bare = replace(view, samples=replace(view.samples, points_xy_image=points))
    updates = training_view.draw_sigma(tab.training, Settings(), bare, 3, "a")
    assert updates[tab.training.sigma] is None and updates[tab.training.landmark]["choices"] == []


def test_a_row_of_a_pair_shows_its_image_and_names_the_other_one(
    view: DataView, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = Leak(("00.png", "17.png"), ("train", "test"), "same picture", 0.01)
    tab: Any = SimpleNamespace(browser=SimpleNamespace(caption="caption"))
    monkeypatch.setattr(
        shown_image, "_show_and_draw", lambda tab, view, shown, *rest: {"caption": view.image_id(shown.row)}
    )
    rows = problem_rows(view.splits.annotations.problems, [pair])
    updates = shown_image.on_problem(tab, view, (pair,), len(rows) - 1, {})
    assert updates["caption"] == "00.png · the same picture as **17.png** (test)"
    assert shown_image.on_problem(tab, view, (pair,), 0, {})["caption"] == "06.png"


def test_the_image_before_the_first_is_the_last(
    view: DataView, tab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shown_image, "_show_and_draw", lambda tab, view, shown, *rest: {"row": shown.row})
    assert shown_image.on_step(tab, -1, view, ALL_SPLITS, 1, None, {}) == {"row": 19}
    assert shown_image.on_step(tab, 1, view, "test", 5, None, {}) == {"row": view.rows_in_split("test")[0]}
    assert shown_image.on_split(tab, view, "test", 1, None, {}) == {"row": view.rows_in_split("test")[0]}
