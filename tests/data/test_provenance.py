"""What a run learned from is found again in a data set of today, or missed with a word."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from backend.config import Choice
from backend.data.provenance import DataRecord, record_data
from backend.data.restored_splits import restore_splits
from backend.data.samples import SampleSplits, load_splits
from backend.data.trained_on import as_learned, ids_in_training, trained_on_digests, trained_on_record
from backend.errors import UserError

Rows = list[dict[str, str]]
NAMES = ("nose", "chin", "ear")


def write_rows(folder: Path, rows: Rows) -> None:
    with (folder / "annotations.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def read_rows(folder: Path) -> Rows:
    with (folder / "annotations.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def data(tiny_dataset: Path, tmp_path: Path) -> Path:
    """Twelve images: nine in train, two in valid, one in test."""
    folder = tmp_path / "data"
    shutil.copytree(tiny_dataset, folder)
    splits = ["train"] * 9 + ["valid"] * 2 + ["test"]
    rows = [{**row, "split": split} for row, split in zip(read_rows(folder), splits, strict=True)]
    write_rows(folder, rows)
    return folder


def whole(folder: Path) -> SampleSplits:
    return load_splits(
        folder,
        dataset_format="auto",
        annotation_type="mean",
        val_fraction=0,
        seed=0,
        for_training=False,
    )


@pytest.fixture
def record(data: Path) -> DataRecord:
    chosen = {"crop_share": Choice(0.1, "as wide as theirs")}
    return record_data(whole(data), "mean", chosen)


def ids(splits: SampleSplits, split: str) -> list[str]:
    return [str(image_id) for image_id in splits.by_split[split].images["image_id"]]


def test_a_record_survives_json_and_names_every_image_once(record: DataRecord, data: Path) -> None:
    raw = json.loads(json.dumps(record.to_dict()))
    assert DataRecord.from_dict(raw) == record
    assert raw["source_folder"] == str(data) and raw["landmark_names"] == list(NAMES)
    assert [image["path"] for image in raw["splits"]["train"]] == [f"{n:02d}.png" for n in range(9)]
    assert [image["image_id"] for image in raw["splits"]["valid"]] == ["09.png", "10.png"]
    every = [image for images in raw["splits"].values() for image in images]
    assert (
        len({image["fingerprint"] for image in every}) == len({image["annotations"] for image in every}) == 11
    )


@pytest.mark.parametrize("damage", ["format_version", "splits", "landmark_names"])
def test_a_damaged_record_is_a_mistake_with_a_cure(record: DataRecord, damage: str) -> None:
    raw = record.to_dict()
    raw.pop(damage)
    with pytest.raises(UserError, match=r"data\.json") as caught:
        DataRecord.from_dict(raw)
    assert caught.value.cure


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


# What was trained on, asked later


def test_rows_that_changed_split_after_the_training_are_still_known(record: DataRecord, data: Path) -> None:
    rows = read_rows(data)
    write_rows(data, [{**row, "split": "test" if n < 6 else "train"} for n, row in enumerate(rows)])
    today = whole(data)
    for trained in (trained_on_record(record, []), trained_on_digests(record.digests_by_split())):
        found = ids_in_training(today.by_split["test"], today, trained, is_own=True)
        assert found == tuple(f"{n:02d}.png" for n in range(6))


def test_restored_valid_split_ignores_added_images(record: DataRecord, data: Path) -> None:
    rows = [{name: value for name, value in row.items() if name != "split"} for row in read_rows(data)]
    extra: list[Any] = []
    for number in range(10):
        name = f"extra{number}.png"
        cv2.imwrite(str(data / name), np.random.default_rng(number).integers(0, 255, (96, 80), np.uint8))
        extra.append({**rows[0], "image": name})
    write_rows(data, [*rows, *extra])
    today = whole(data)
    for trained in (trained_on_record(record, []), trained_on_digests(record.digests_by_split())):
        own = as_learned(today, trained)
        assert own is not None
        assert ids(own, "valid") == ["09.png", "10.png"] and ids(own, "train") == [
            f"{n:02d}.png" for n in range(9)
        ]
        assert ids_in_training(own.by_split["valid"], own, trained, is_own=True) == ()


def test_recompressed_copy_is_found_only_while_the_original_exists(
    record: DataRecord, data: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    pixels = cv2.imread(str(data / "03.png"), cv2.IMREAD_GRAYSCALE)
    cv2.imwrite(str(other / "copy.png"), pixels, [cv2.IMWRITE_PNG_COMPRESSION, 0])
    shutil.copyfile(data / "04.png", other / "same.png")
    rows = read_rows(data)
    write_rows(other, [{**rows[3], "image": "copy.png"}, {**rows[4], "image": "same.png"}])
    measured = whole(other)
    seen = trained_on_record(record, [])
    assert as_learned(measured, seen) is None
    assert ids_in_training(measured.train, measured, seen, is_own=False) == ("copy.png", "same.png")
    assert seen.num_unseen == 0
    moved = tmp_path / "moved"
    data.rename(moved)
    gone, found = trained_on_record(record, []), trained_on_record(record, [moved])
    assert ids_in_training(measured.train, measured, gone, is_own=False) == ("same.png",)
    assert ids_in_training(measured.train, measured, found, is_own=False) == ("copy.png", "same.png")
    assert gone.num_unseen == 11 and found.num_unseen == 0
