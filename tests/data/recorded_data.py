"""A data set of twelve images with its record, for the tests of what a run learned from."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

from backend.config import Choice
from backend.data.provenance import DataRecord, record_data
from backend.data.samples import SampleSplits, load_splits

Rows = list[dict[str, str]]
NAMES = ("nose", "chin", "ear")


def copy_data(tiny_dataset: Path, folder: Path) -> Path:
    """Copy the data set into a new folder, with nine images in train, two in valid, one in test."""
    shutil.copytree(tiny_dataset, folder)
    splits = ["train"] * 9 + ["valid"] * 2 + ["test"]
    rows = [{**row, "split": split} for row, split in zip(read_rows(folder), splits, strict=True)]
    write_rows(folder, rows)
    return folder


def record_of(folder: Path) -> DataRecord:
    return record_data(whole(folder), "mean", {"crop_share": Choice(0.1, "as wide as theirs")})


def whole(folder: Path) -> SampleSplits:
    """Read all images and landmarks of the data set as it is now."""
    return load_splits(
        folder,
        dataset_format="auto",
        annotation_type="mean",
        val_fraction=0,
        seed=0,
        for_training=False,
    )


def ids(splits: SampleSplits, split: str) -> list[str]:
    return [str(image_id) for image_id in splits.by_split[split].images["image_id"]]


def read_rows(folder: Path) -> Rows:
    with (folder / "annotations.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_rows(folder: Path, rows: Rows) -> None:
    with (folder / "annotations.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
