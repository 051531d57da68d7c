"""A data set of two machines with one landmark that strays."""

from __future__ import annotations

import csv

import cv2
import numpy as np
import pytest

from backend.config import Settings
from ui.data.summary import DataView, read_view

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
