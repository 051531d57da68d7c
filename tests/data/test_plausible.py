"""Coordinates that a whole data set cannot mean are found once for the set, and good ones raise nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from backend.data.annotations import Annotations, Problem, read_annotations
from backend.data.annotations.plausible import judge, mask_zeros
from backend.data.demo.dataset import create_demo_dataset
from backend.errors import UserError

Array = np.ndarray[Any, Any]
NAMES = ("alpha", "beta", "gamma")
BASE = np.array([[0.25, 0.3], [0.9, 0.25], [0.6, 0.8]])  # shares of width and height


def shares(num_images: int, num_readers: int = 1) -> Array:
    """(N, R, K, 2), another shape in every image."""
    moves = np.random.default_rng(0).uniform(-0.08, 0.08, (num_images, num_readers, *BASE.shape))
    return BASE + moves


def pixels(num_images: int, size_hw: tuple[int, int], num_readers: int = 1) -> Array:
    return shares(num_images, num_readers) * np.array(size_hw[::-1])


def found(points: Array, size_hw: tuple[int, int], readers: tuple[str, ...] = ("ann",)) -> list[Problem]:
    sizes = np.tile(np.array(size_hw, np.int64), (len(points), 1))
    return list(judge(points, sizes, readers, "set").problems)


def write_csv(folder: Path, points: Array, size_hw: tuple[int, int]) -> Path:
    """A wide CSV of points (N, 1, K, 2), NaN being an empty cell, with a blank image for each line."""
    lines = ["image," + ",".join(f"{name}_x,{name}_y" for name in NAMES[: points.shape[2]])]
    for number, one in enumerate(points[:, 0]):
        cv2.imwrite(str(folder / f"{number}.png"), np.zeros(size_hw, np.uint8))
        lines.append(f"{number}.png," + ",".join("" if np.isnan(v) else f"{v:g}" for v in one.ravel()))
    (folder / "annotations.csv").write_text("\n".join(lines), encoding="utf-8")
    return folder


def told(annotations: Annotations) -> list[Problem]:
    return [one for one in annotations.problems if "no pixel size" not in one.what]


# Units and axes


@pytest.mark.parametrize(
    ("points", "size_hw", "what", "cure"),
    [
        (shares(5), (96, 128), "within 0 to 1, .*shares of the image", "multiply x by the width"),
        (shares(5) * 1.04, (96, 128), "shares of the image", "multiply x by the width"),
        (shares(5) * 100, (300, 240), "within 0 to 100, .*percent of the image", "divide by 100"),
        (
            pixels(5, (96, 128)) * 20,
            (96, 128),
            "15 of 15 landmarks lie outside.*another unit",
            "pixels of exactly these",
        ),
        (pixels(5, (96, 128)) - 400, (96, 128), "another unit than pixels", "pixels of exactly these"),
        (
            pixels(5, (96, 400))[..., ::-1],
            (96, 400),
            "all lie inside once x and y change",
            "exchange x and y",
        ),
        (
            pixels(5, (96, 128))[..., ::-1],
            (96, 128),
            "all lie inside once x and y change",
            "exchange x and y",
        ),
    ],
    ids=[
        "shares",
        "shares a little beyond",
        "percent",
        "larger images",
        "cropped",
        "swapped",
        "swapped, some inside",
    ],
)
def test_coordinates_in_another_unit_are_one_problem_that_stops_training(
    points: Array, size_hw: tuple[int, int], what: str, cure: str
) -> None:
    (problem,) = found(points, size_hw)
    assert problem.stops_training and not problem.fatal
    assert re.search(what, problem.what), problem.what
    assert cure in problem.cure


def test_a_unit_of_one_reader_is_said_of_that_reader_alone() -> None:
    points = pixels(5, (96, 128), num_readers=2)
    points[:, 1] /= (128, 96)
    (problem,) = found(points, (96, 128), ("senior", "junior"))
    assert problem.what.startswith("of junior: all coordinates lie within 0 to 1")
    (problem,) = found(shares(5, 2), (96, 128), ("senior", "junior"))
    assert problem.what.startswith("all coordinates")


def test_problem_of_the_set_replaces_problems_of_images(tmp_path: Path) -> None:
    points = pixels(6, (96, 128)) * 3
    points[0] = pixels(1, (96, 128))[0]
    annotations = read_annotations(write_csv(tmp_path, points, (96, 128)))
    problem, *others = told(annotations)
    assert re.search(r"masked \(in \d images none is left\)", problem.what) and problem.stops_training
    assert others == []
    assert np.isfinite(annotations.points_xy_image[0]).all()  # what lies inside is kept, to be looked at


def test_a_set_with_nothing_inside_is_refused_with_its_cause_first(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no usable image") as error:
        read_annotations(write_csv(tmp_path, pixels(6, (96, 128)) * 30, (96, 128)))
    assert "another unit than pixels" in str(error.value).splitlines()[1]


def test_a_few_landmarks_outside_are_listed_by_image_and_stop_nothing(tmp_path: Path) -> None:
    points = pixels(6, (96, 128))
    points[2, 0, 1] = (400, 5)
    (problem,) = told(read_annotations(write_csv(tmp_path, points, (96, 128))))
    assert problem.where == "annotations.csv line 4" and not problem.stops_training


# The same coordinates, and zeros


def test_the_same_coordinates_in_every_image_are_said_and_stop_nothing() -> None:
    points = np.repeat(pixels(1, (96, 128)), 4, axis=0)
    points[2, 0, 1] = np.nan
    (problem,) = found(points, (96, 128))
    assert "every landmark has the same coordinates in all 4 images" in problem.what
    assert not problem.stops_training
    points[3, 0, 0, 0] += 0.5
    assert found(points, (96, 128)) == []


def test_zeros_in_two_images_are_masked_and_reported(tmp_path: Path) -> None:
    points = pixels(5, (96, 128))
    points[1, 0, 0] = points[3, 0, 0] = points[3, 0, 2] = 0
    annotations = read_annotations(write_csv(tmp_path, points, (96, 128)))
    (problem,) = told(annotations)
    assert "at exactly (0, 0) in 2 images are taken as missing: alpha in 2, gamma in 1" in problem.what
    assert not problem.stops_training
    assert np.isnan(annotations.points_xy_image).any(axis=-1).sum() == 3


def test_a_landmark_at_zero_in_one_image_stays() -> None:
    points = pixels(5, (96, 128))
    points[1, 0, 0] = 0
    points[2, 0, 0] = (0, 7)
    kept, problem = mask_zeros(points, NAMES, "set")
    assert problem is None and np.array_equal(kept, points)


# No false alarms


@pytest.mark.parametrize(
    ("points", "size_hw"),
    [
        (pixels(5, (96, 128)), (96, 128)),
        (pixels(5, (64, 64)), (64, 64)),
        (pixels(5, (200, 200)) / 2, (200, 200)),  # within 0 to 100, in images that are not larger than 200 px
        (shares(5) * 100, (64, 300)),
        (pixels(5, (2, 2)), (2, 2)),
        (pixels(5, (1, 1)), (1, 1)),
        (np.array([[[[0.5, 0.7]]]]), (64, 64)),
        (np.array([[[[40.0, 70.0]]]]), (640, 480)),
        (np.array([[[[40.0, 700.0]]]]), (640, 480)),
        (np.repeat(pixels(1, (96, 128)), 2, axis=0), (96, 128)),
        (np.full((3, 1, 2, 2), np.nan), (96, 128)),
        (np.zeros((0, 1, 2, 2)), (96, 128)),
        (pixels(5, (96, 96))[..., ::-1], (96, 96)),
        (pixels(4, (96, 128))[..., ::-1], (96, 128)),  # four landmarks outside may be four slips
    ],
)
def test_nothing_is_said_of_what_may_well_be_pixels(points: Array, size_hw: tuple[int, int]) -> None:
    assert found(points, size_hw) == []


def test_the_demo_drawn_small_is_plausible(tmp_path: Path) -> None:
    annotations = read_annotations(
        create_demo_dataset(tmp_path / "demo", num_train=3, num_valid=1, num_test=1)
    )
    assert annotations.problems == ()
    sizes = annotations.images[["height", "width"]].to_numpy(np.int64)
    small = np.rint(sizes * 64 / sizes.max())
    points = annotations.points_xy_image.astype(np.float64) * (64 / sizes.max())
    assert judge(points, small.astype(np.int64), annotations.reader_names, "demo").problems == ()


@pytest.mark.parametrize("name", ["isbi2015", "openfield", "coco"])
def test_real_data_is_plausible(shared_data: Path, name: str) -> None:
    if not (shared_data / name).is_dir():
        pytest.skip(f"{name} is not in {shared_data}")
    annotations = read_annotations(shared_data / name)
    assert not any(one.stops_training for one in annotations.problems)
    assert not any("same coordinates" in one.what or "(0, 0)" in one.what for one in annotations.problems)


def test_the_shared_cases_of_units_and_zeros_are_said(shared_cases: Path) -> None:
    (unit,) = told(read_annotations(shared_cases / "units" / "d1"))
    assert unit.stops_training and "shares" in unit.what
    annotations = read_annotations(shared_cases / "zeros" / "d1")
    (zeros,) = told(annotations)
    assert "(0, 0) in 8 images are taken as missing: alpha in 8" in zeros.what and not zeros.stops_training
    assert np.isnan(annotations.points_xy_image[:, 0, 0, 0]).sum() == 8
