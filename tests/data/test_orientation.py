"""Landmarks that were marked on pixels which EXIF turns before they are shown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from backend.data.annotations import Annotations, read_annotations, select_reader
from backend.data.annotations.orientation import turn_points
from backend.data.images import ImageFrame, read_image, read_image_frame

HEIGHT, WIDTH = 48, 80  # of the stored pixels
DOTS = np.array(
    [[5.0, 7.0], [70.0, 9.0], [66.0, 41.0]]
)  # on the stored pixels, the last two beyond a turned width
MIDDLE = np.array([[5.0, 7.0], [40.0, 30.0], [20.0, 41.0]])  # inside before and after a turn


def write_image(
    path: Path, orientation: int, dots: np.ndarray[Any, Any] = DOTS, suffix: str = ".png"
) -> Path:
    """A dark picture, stored with a bright dot at each landmark."""
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8)
    for x, y in DOTS.astype(int):
        pixels[y, x] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif)


def turned(points_xy: np.ndarray[Any, Any], orientation: int) -> np.ndarray[Any, Any]:
    stored = (HEIGHT, WIDTH)
    return turn_points(points_xy, ImageFrame(stored[::-1] if orientation >= 5 else stored, orientation))


def write_csv(folder: Path, marks: Sequence[tuple[int, np.ndarray[Any, Any]]], more: str = "") -> Path:
    """A data set of one picture for each (orientation, landmarks as written)."""
    lines = ["image,a_x,a_y,b_x,b_y,c_x,c_y" + (",mm_per_px_x,mm_per_px_y" if more else "")]
    for number, (orientation, points) in enumerate(marks):
        write_image(folder / f"{number}.png", orientation)
        values = ",".join(f"{value:g}" for value in points.ravel())
        lines.append(f"{number}.png,{values}{more}")
    (folder / "annotations.csv").write_text("\n".join(lines), encoding="utf-8")
    return folder


def told(annotations: Annotations) -> list[str]:
    return [one.what for one in annotations.problems if "no pixel size" not in one.what]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
def test_a_point_is_turned_as_the_picture_is(tmp_path: Path, orientation: int, suffix: str) -> None:
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8)
    pixels[8:16, 56:64] = 255  # a block of JPEG's: its middle is exact
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a{suffix}"
    Image.fromarray(pixels).save(path, exif=exif)
    frame = read_image_frame(path)
    assert (frame.orientation, frame.stored_hw) == (orientation, (HEIGHT, WIDTH))
    y, x = np.argwhere(read_image(path) > 128).mean(axis=0)
    np.testing.assert_allclose(turn_points(np.array([59.5, 11.5]), frame), [x, y], atol=0.6)
    assert np.isnan(turn_points(np.array([np.nan, np.nan]), frame)).all()


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_landmarks_that_fit_only_the_stored_pixels_are_turned_with_them(
    tmp_path: Path, orientation: int
) -> None:
    """One upside down or mirrored, which fits either way, follows the others; an upright one stays."""
    marks = [(orientation, DOTS), (3, DOTS), (2, DOTS), (1, DOTS + 1)]
    annotations = read_annotations(write_csv(tmp_path, marks))
    points = select_reader(annotations, "mean")
    for path, found in zip(annotations.images["path"][:3], points[:3], strict=True):
        image = read_image(Path(path))
        assert [image[int(y), int(x)] for x, y in found] == [255, 255, 255]
    np.testing.assert_array_equal(points[3], DOTS + 1)
    (what,) = told(annotations)
    assert "EXIF turns 3 of 4 images" in what and "fit only the stored pixels" in what


def test_landmarks_that_fit_only_the_turned_pixels_stay_without_a_word(tmp_path: Path) -> None:
    annotations = read_annotations(write_csv(tmp_path, [(6, turned(DOTS, 6)), (3, turned(DOTS, 3))]))
    np.testing.assert_array_equal(select_reader(annotations, "mean"), [turned(DOTS, 6), turned(DOTS, 3)])
    assert told(annotations) == []


@pytest.mark.parametrize("orientations", [[3], [6, 8], [2, 4, 3]])
def test_where_both_fit_it_is_told_which_was_assumed(tmp_path: Path, orientations: list[int]) -> None:
    marks = [(one, MIDDLE + number) for number, one in enumerate(orientations)]
    annotations = read_annotations(write_csv(tmp_path, marks))
    np.testing.assert_array_equal(select_reader(annotations, "mean"), [points for _, points in marks])
    (what,) = told(annotations)
    assert "fit the stored and the turned pixels; they are taken as made on the turned ones" in what


def test_majority_decides_orientation_and_is_reported(tmp_path: Path) -> None:
    marks = [(6, DOTS), (6, DOTS + 1), (8, turned(DOTS, 8))]
    annotations = read_annotations(write_csv(tmp_path, marks))
    np.testing.assert_array_equal(select_reader(annotations, "mean")[0], turned(DOTS, 6))
    what, *masked = told(annotations)
    assert "only the stored pixels in 2 of them, only the turned ones in 1" in what
    assert any("outside the image" in one for one in masked)


def test_the_sides_of_a_pixel_turn_with_the_landmarks(tmp_path: Path) -> None:
    images = read_annotations(write_csv(tmp_path, [(6, DOTS), (3, DOTS)], ",0.1,0.3")).images
    assert images[["mm_per_px_x", "mm_per_px_y"]].to_numpy().tolist() == [[0.3, 0.1], [0.1, 0.3]]


def test_point_half_a_pixel_outside_decides_nothing(tmp_path: Path) -> None:
    edge = np.array([[float(HEIGHT), 7.0], [4.0, 5.0], [6.0, 7.0]])  # at the right edge of the turned image
    annotations = read_annotations(write_csv(tmp_path, [(6, edge)]))
    assert not any("stored pixels, not" in what for what in told(annotations))


def write_coco(folder: Path, points: np.ndarray[Any, Any], written_hw: tuple[int, int]) -> Path:
    write_image(folder / "a.png", 6)
    keypoints = [value for x, y in points.tolist() for value in (x, y, 2)]
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": written_hw[0], "width": written_hw[1]}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "keypoints": keypoints}],
        "categories": [{"id": 1, "name": "head", "keypoints": ["a", "b", "c"]}],
    }
    (folder / "a.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


@pytest.mark.parametrize("written_hw", [(HEIGHT, WIDTH), (WIDTH, HEIGHT)])
@pytest.mark.parametrize("points", [DOTS, MIDDLE, turned(DOTS, 6)], ids=["stored", "both", "turned"])
def test_written_size_decides_orientation_if_landmarks_do_not(
    tmp_path: Path, points: np.ndarray[Any, Any], written_hw: tuple[int, int]
) -> None:
    annotations = read_annotations(write_coco(tmp_path, points, written_hw))
    on_stored = points is DOTS or (points is MIDDLE and written_hw == (HEIGHT, WIDTH))
    expected = turned(points, 6) if on_stored else points
    np.testing.assert_array_equal(select_reader(annotations, "mean"), [expected])
    is_plain = written_hw == (WIDTH, HEIGHT) and points is not DOTS and points is not MIDDLE
    assert len(told(annotations)) == (0 if is_plain else 1)


def test_a_size_of_neither_frame_still_leaves_the_image_out(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="but by its annotation of 40 x 24; it is left out"):
        read_annotations(write_coco(tmp_path, DOTS, (HEIGHT // 2, WIDTH // 2)))


def test_landmarks_of_the_shared_case_lie_on_their_discs(shared_cases: Path) -> None:
    annotations = read_annotations(shared_cases / "exif" / "d5")
    assert len(annotations.images) == 5
    for path, points in zip(annotations.images["path"], select_reader(annotations, "mean"), strict=True):
        image = read_image(Path(path)).astype(int)
        for number, (x, y) in enumerate(points.round().astype(int)):
            assert abs(image[y - 1 : y + 2, x - 1 : x + 2].mean() - (120 + 40 * number)) < 15
    assert any("EXIF turns 2 of 5 images" in what for what in told(annotations))
