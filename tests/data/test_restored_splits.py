"""A run's splits are restored from its data set as it is today, and changes are reported."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from backend.data.provenance import DataRecord
from backend.data.restored_splits import restore_splits
from backend.errors import UserError
from tests.data.recorded_data import NAMES, Rows, ids, read_rows, whole, write_rows


def test_unchanged_data_is_restored_in_its_order(record: DataRecord, data: Path) -> None:
    rows = read_rows(data)
    write_rows(data, rows[::-1])
    splits, changes = restore_splits(record, whole(data))
    assert not changes
    assert ids(splits, "train") == [f"{n:02d}.png" for n in range(9)]
    assert ids(splits, "valid") == ["09.png", "10.png"] and ids(splits, "test") == ["11.png"]
    expected = [[float(rows[4][f"{name}_{axis}"]) for axis in "xy"] for name in NAMES]
    np.testing.assert_allclose(splits.train.points_xy_image[4], expected, rtol=1e-6)


def test_changes_name_gone_changed_reannotated_and_new_images(record: DataRecord, data: Path) -> None:
    rows = read_rows(data)
    new = {**rows[0], "image": "new.png", "split": "train"}
    rows[3]["nose_x"] = "21.5"
    rows[4]["mm_per_px"] = "0.25"
    rows[5]["split"], rows[9]["split"] = "test", "train"  # the run's splits stay its own
    cv2.imwrite(str(data / "new.png"), np.eye(90, dtype=np.uint8) * 200)
    pixels = cv2.imread(str(data / "02.png"), cv2.IMREAD_GRAYSCALE)
    cv2.imwrite(str(data / "02.png"), pixels, [cv2.IMWRITE_PNG_COMPRESSION, 0])
    write_rows(data, [row for row in rows if row["image"] != "01.png"] + [new])
    splits, changes = restore_splits(record, whole(data))
    assert changes.gone == ("01.png",) and changes.changed == ("02.png",)
    assert changes.annotated_anew == ("03.png", "04.png") and changes.new == ("new.png",)
    assert ids(splits, "train") == [f"{n:02d}.png" for n in range(9) if n != 1]
    assert ids(splits, "valid") == ["09.png", "10.png"]
    assert "1 gone: 01.png" in str(changes) and "new and in neither split: new.png" in str(changes)


def test_a_renamed_image_is_known_by_its_file(record: DataRecord, data: Path) -> None:
    (data / "00.png").rename(data / "renamed.png")
    rows = read_rows(data)
    rows[0]["image"] = "renamed.png"
    write_rows(data, rows)
    splits, changes = restore_splits(record, whole(data))
    assert not changes and ids(splits, "train")[0] == "renamed.png"


def drop_column(rows: Rows) -> Rows:
    return [{name: value for name, value in row.items() if not name.startswith("ear_")} for row in rows]


def add_landmark(rows: Rows) -> Rows:
    return [{**row, "brow_x": "3", "brow_y": "4"} for row in rows]


def reorder(rows: Rows) -> Rows:
    ear_first = ("image", "mm_per_px", "split", "ear_x", "ear_y", "nose_x", "nose_y", "chin_x", "chin_y")
    return [{name: row[name] for name in ear_first} for row in rows]


@pytest.mark.parametrize(
    ("change", "words"),
    [(drop_column, "lacks ear"), (add_landmark, "adds brow"), (reorder, "in another order")],
)
def test_other_landmarks_are_a_mistake_in_one_line(
    record: DataRecord, data: Path, change: Callable[[Rows], Rows], words: str
) -> None:
    write_rows(data, change(read_rows(data)))
    with pytest.raises(UserError, match=words) as caught:
        restore_splits(record, whole(data))
    assert "\n" not in str(caught.value) and caught.value.field == "dataset_path" and caught.value.cure


def test_moved_data_is_accepted_but_other_files_of_same_names_are_not(
    record: DataRecord, data: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "elsewhere" / "moved"
    shutil.copytree(data, moved)
    shutil.rmtree(data)
    splits, changes = restore_splits(record, whole(moved))
    assert not changes and all(path.parent == moved for path in splits.train.paths)
    (moved / "08.png").unlink()  # what was lost on the way is told
    write_rows(moved, [row for row in read_rows(moved) if row["image"] != "08.png"])
    assert restore_splits(record, whole(moved))[1].gone == ("08.png",)
    for path in moved.glob("*.png"):
        pixels = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        cv2.imwrite(str(path), 255 - pixels)
    with pytest.raises(UserError, match="is not the data that this run learned from"):
        restore_splits(record, whole(moved))


def test_restoring_needs_a_training_image(record: DataRecord, data: Path) -> None:
    write_rows(data, read_rows(data)[9:])
    with pytest.raises(UserError, match="none of the 9 training images"):
        restore_splits(record, whole(data))
