"""The images that a run was trained on are found in data sets of today."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from backend.data.provenance import DataRecord
from backend.data.trained_on import as_learned, ids_in_training, trained_on_digests, trained_on_record
from tests.data.recorded_data import ids, read_rows, whole, write_rows


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
