from __future__ import annotations

import csv
import re
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from backend.config import Settings
from backend.data.leaks import Leak
from ui.data import shown_image, training_view
from ui.data import tab as data_tab
from ui.data.parts import DataTab
from ui.data.summary import (
    ALL_SPLITS,
    DataView,
    caption,
    groups_table,
    landmarks_table,
    problem_rows,
    read_view,
    splits_table,
    suspects_note,
    suspects_table,
)
from ui.data.training_view import TrainingPanel
from ui.session import Session
from ui.text.language import speaking
from ui.text.say import quote

NAMES = ("a", "b", "c", "d", "e")
MEAN = np.array([[20, 20], [60, 22], [40, 40], [25, 70], [58, 66]], np.float64)


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> DataView:
    """20 images of two machines, 15 to train on; d of image 04 strays, e of image 06 lies outside."""
    folder = tmp_path_factory.mktemp("machines")
    rng = np.random.default_rng(0)
    with (folder / "a.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["image", "split", "group", "mm_per_px", *(f"{n}_{axis}" for n in NAMES for axis in "xy")]
        )
        for number in range(20):
            points = MEAN + rng.normal(0, 1, MEAN.shape)
            if number == 4:
                points[3] += (0, -30)
            if number == 6:
                points[4] = (500, 10)
            cv2.imwrite(str(folder / f"{number:02d}.png"), np.zeros((90, 80), np.uint8))
            machine, split = ("old", "train") if number < 15 else ("new", "test")
            writer.writerow([f"{number:02d}.png", split, machine, 0.5, *points.ravel().round(3)])
    return read_view(Settings(dataset_path=str(folder), val_fraction=0.2))


@pytest.fixture
def tab() -> Any:
    # a component is only what an update is addressed to, so its name serves as well
    parts = {field.name: field.name for field in fields(DataTab)}
    training = TrainingPanel(**{field.name: f"training-{field.name}" for field in fields(TrainingPanel)})
    return DataTab(**{**parts, "training": training})


def test_leaks_and_floor_are_told_though_a_run_was_started_meanwhile(
    view: DataView, tab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session()

    def answer_late(*_asked: Any) -> Any:
        session.watch("a-run")
        return (Leak(("00.png", "15.png"), ("train", "test"), "picture", 0.01),)

    monkeypatch.setattr(data_tab, "read_leaks", answer_late)
    updates = data_tab.on_leaks(tab, session, view)
    assert len(updates[tab.leaks]) == 1

    def floor_late(_settings: Settings) -> Any:
        session.watch("another")
        return {"floor": {"mre_px": 0.5, "mre_mm": None, "num_images": 3}, "crop_floor": None}

    monkeypatch.setattr(training_view, "ask_floor", floor_late)
    monkeypatch.setattr(training_view, "settings_for_data", lambda values: Settings())
    assert "0.50 px" in str([*training_view.on_floor(tab.training, session, view)][-1])


def test_an_image_without_a_landmark_to_learn_has_no_sigma_to_show(view: DataView, tab: Any) -> None:
    points = view.samples.points_xy_image.copy()
    points[3] = np.nan
    bare = replace(view, samples=replace(view.samples, points_xy_image=points))
    updates = training_view.draw_sigma(tab.training, Settings(), bare, 3, "a")
    assert updates[tab.training.sigma] is None and updates[tab.training.landmark]["choices"] == []


def test_every_image_stands_in_the_split_that_it_is_used_in(view: DataView) -> None:
    assert {name: len(view.rows_of(name)) for name in ("train", "valid", "test")} == {
        "train": 12, "valid": 3, "test": 5,
    }  # fmt: skip
    assert view.rows_of(ALL_SPLITS) == list(range(20))
    row = view.row_of_id("17.png")
    assert row is not None and view.image_id(row) == "17.png"
    assert view.row_of_path(view.samples.paths[row]) == row
    assert view.row_of_path(Path("/nowhere.png")) is None and view.row_of_id("nobody") is None


def test_counts_are_told_by_split_and_by_group(view: DataView) -> None:
    splits = re.sub(' data-sort="[^"]*"', "", splits_table(view))
    groups = re.sub(' data-sort="[^"]*"', "", groups_table(view))
    assert (
        "<td><bdi>train</bdi></td><td><bdi>12</bdi></td>" in splits
        and "80\u00a0x\u00a090" in splits
        and "0.5 mm" in splits
    )
    assert (
        "<tr><td><bdi>new</bdi></td><td><bdi>0</bdi></td><td><bdi>0</bdi></td><td><bdi>5</bdi></td></tr>"
        in groups
    )
    assert (
        "<tr><td><bdi>old</bdi></td><td><bdi>12</bdi></td><td><bdi>3</bdi></td><td><bdi>0</bdi></td></tr>"
        in groups
    )


def test_the_stray_landmark_is_the_first_to_check(view: DataView) -> None:
    table = suspects_table(view)
    assert 'data-key="0"' in table and "04.png" in table and "<bdi>d</bdi>" in table
    assert "mm from where the other landmarks predict it" in table
    (score,) = re.findall('data-sort="([0-9.]+)"><bdi>[0-9.]+ x</bdi>', table)
    assert float(score) > 4
    assert len(view.suspects.found) == 1 and suspects_note(view).startswith("1 landmark stands out")
    assert "*Times usual*: how many times the usual deviation" in suspects_note(view)


def test_problems_come_with_their_cure_and_leaks_after_them(view: DataView) -> None:
    leaks = [
        Leak(("15.png", "16.png"), ("test", "test"), "same bytes", 0.0),
        Leak(("00.png", "17.png"), ("train", "test"), "same picture", 0.01),
    ]
    rows = problem_rows(view.splits.annotations.problems, leaks)
    assert "outside the image" in rows[0][1] and rows[0][2].startswith("correct the coordinates")
    assert [row[0] for row in rows[-2:]] == ["00.png", "15.png"]  # across splits first
    assert "leave 17.png out" in rows[-2][2] and "leave 16.png out" in rows[-1][2]


def test_a_row_of_a_pair_shows_its_image_and_names_the_other_one(
    view: DataView, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = Leak(("00.png", "17.png"), ("train", "test"), "same picture", 0.01)
    tab: Any = SimpleNamespace(browser=SimpleNamespace(caption="caption"))
    monkeypatch.setattr(
        shown_image, "_show_and_draw", lambda tab, view, shown, *rest: {"caption": view.image_id(shown.row)}
    )
    rows = problem_rows(view.splits.annotations.problems, [pair])
    updates = shown_image.on_problem(tab, view, (pair,), len(rows) - 1)
    assert updates["caption"] == "00.png · the same picture as **17.png** (test)"
    assert shown_image.on_problem(tab, view, (pair,), 0)["caption"] == "06.png"


def test_an_image_is_told_in_words_and_in_a_table(view: DataView) -> None:
    row = view.row_of_id("04.png")
    assert row is not None
    assert "80 x 90 px" in caption(view, row) and "old" in caption(view, row)
    table = landmarks_table(view, row, 3)
    assert "<td><bdi>➤ d</bdi></td>" in table and "<td><bdi>a</bdi></td>" in table
    outside = view.row_of_id("06.png")
    assert outside is not None and "<td><bdi>not annotated</bdi></td>" in landmarks_table(view, outside, None)


def test_each_part_of_a_caption_keeps_its_order_on_a_page_from_right_to_left(view: DataView) -> None:
    plain = caption(view, 0)
    with speaking("fa"):
        parts = caption(view, 0).split(" · ")
        assert parts[0] == f"**{quote(view.image_id(0))}**"
        assert parts[1:] == [quote(part) for part in plain.split(" · ")[1:]]
