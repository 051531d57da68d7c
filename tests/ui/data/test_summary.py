from __future__ import annotations

import re
from pathlib import Path

from backend.data.leaks import Leak
from ui.data.summary import (
    ALL_SPLITS,
    DataView,
    groups_table,
    image_caption,
    landmarks_table,
    problem_rows,
    splits_table,
    suspects_note,
    suspects_table,
)
from ui.text.language import speaking
from ui.text.say import quote


def test_every_image_stands_in_the_split_that_it_is_used_in(view: DataView) -> None:
    assert {name: len(view.rows_in_split(name)) for name in ("train", "valid", "test")} == {
        "train": 12, "valid": 3, "test": 5,
    }  # fmt: skip
    assert view.rows_in_split(ALL_SPLITS) == list(range(20))
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
    assert len(view.suspects.outliers) == 1 and suspects_note(view).startswith("1 landmark stands out")
    assert "*Times usual*: the deviation, as a multiple" in suspects_note(view)


def test_problems_come_with_their_cure_and_leaks_after_them(view: DataView) -> None:
    leaks = [
        Leak(("15.png", "16.png"), ("test", "test"), "same bytes", 0.0),
        Leak(("00.png", "17.png"), ("train", "test"), "same picture", 0.01),
    ]
    rows = problem_rows(view.splits.annotations.problems, leaks)
    assert "outside the image" in rows[0][1] and rows[0][2].startswith("correct the coordinates")
    assert [row[0] for row in rows[-2:]] == ["00.png", "15.png"]  # across splits first
    assert "leave 17.png out" in rows[-2][2] and "leave 16.png out" in rows[-1][2]


def test_an_image_is_told_in_words_and_in_a_table(view: DataView) -> None:
    row = view.row_of_id("04.png")
    assert row is not None
    assert "80 x 90 px" in image_caption(view, row) and "old" in image_caption(view, row)
    table = landmarks_table(view, row, 3)
    assert "<td><bdi>➤ d</bdi></td>" in table and "<td><bdi>a</bdi></td>" in table
    outside = view.row_of_id("06.png")
    assert outside is not None and "<td><bdi>not annotated</bdi></td>" in landmarks_table(view, outside, None)


def test_each_part_of_a_caption_keeps_its_order_on_a_page_from_right_to_left(view: DataView) -> None:
    plain = image_caption(view, 0)
    with speaking("fa"):
        parts = image_caption(view, 0).split(" · ")
        assert parts[0] == f"**{quote(view.image_id(0))}**"
        assert parts[1:] == [quote(part) for part in plain.split(" · ")[1:]]
