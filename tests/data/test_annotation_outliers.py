from __future__ import annotations

import numpy as np
import pytest

from backend.data.annotation_outliers import find_outliers
from backend.data.annotations import read_annotations
from backend.geometry import FloatArray

MEAN = np.array([[0, 0], [300, 15], [285, 240], [150, 360], [15, 270], [135, 135]], np.float64)
UNKNOWN = np.full((40, 2), np.nan)


def make_marks(num_readers: int, seed: int = 0) -> FloatArray:
    """(40, R, 6, 2) px: shapes that vary by 10, readers who tremble by 3."""
    rng = np.random.default_rng(seed)
    shapes = MEAN + 400 + 10 * rng.standard_normal((40, 1, 6, 2))
    return shapes + 3 * rng.standard_normal((40, num_readers, 6, 2))


def test_a_planted_outlier_is_found_first_with_its_distance() -> None:
    marks = make_marks(1)
    marks[9, 0, 4] += (120, 0)
    first = find_outliers(marks, np.full((40, 2), 0.5)).outliers[0]
    assert (first.row, first.landmark, first.reason, first.swapped_with) == (9, 4, "shape", None)
    assert first.distance_mm == pytest.approx(first.distance_px * 0.5)
    assert first.distance_px == pytest.approx(120, abs=40)
    assert first.expected_xy_image == pytest.approx(marks[9, 0, 4] - (120, 0), abs=40)


def test_a_swapped_pair_is_one_entry_that_names_the_other() -> None:
    marks = make_marks(1)
    marks[21, 0, [1, 4]] = marks[21, 0, [4, 1]]
    found = find_outliers(marks, UNKNOWN).outliers
    assert found[0].row == 21 and {found[0].landmark, found[0].swapped_with} == {1, 4}
    assert [one for one in found if one.row == 21] == [found[0]]
    assert np.isnan(found[0].distance_mm)


def test_disputed_landmark_names_the_farther_reader() -> None:
    marks = make_marks(2)
    marks[5, 1, 2] += (0, 45)
    found = find_outliers(marks, UNKNOWN).outliers
    assert (found[0].row, found[0].landmark, found[0].reason, found[0].reader) == (5, 2, "readers", 1)
    assert found[0].distance_px == pytest.approx(45, abs=15)
    assert len({(one.row, one.landmark) for one in found}) == len(found)


def test_a_pair_that_one_reader_swapped_is_told_as_such() -> None:
    marks = make_marks(2)
    marks[5, 1, [0, 3]] = marks[5, 1, [3, 0]]
    first = find_outliers(marks, UNKNOWN).outliers[0]
    assert (first.row, {first.landmark, first.swapped_with}) == (5, {0, 3})


def test_sound_marks_raise_no_alarm() -> None:
    assert len(find_outliers(make_marks(2), UNKNOWN).outliers) <= 2  # of 480


def test_a_displacement_too_small_to_be_seen_is_no_suspect() -> None:
    rng = np.random.default_rng(0)
    marks = MEAN[None, None] + 0.01 * rng.standard_normal((40, 2, 6, 2))
    marks[3, 0, 2] += 1.0
    assert find_outliers(marks, UNKNOWN).outliers == ()


def test_axes_of_different_spacing_are_made_alike() -> None:
    marks = make_marks(1)
    marks[9, 0, 4] += (120, 0)
    squeezed, spacing = marks.copy(), np.tile([2.0, 0.5], (40, 1))
    squeezed[..., 0] /= 4.0
    plain, other = find_outliers(marks, np.full((40, 2), 0.5)), find_outliers(squeezed, spacing)
    assert [(one.row, one.landmark) for one in other.outliers] == [
        (one.row, one.landmark) for one in plain.outliers
    ]
    assert other.outliers[0].distance_mm == pytest.approx(plain.outliers[0].distance_mm)
    assert other.outliers[0].expected_xy_image == pytest.approx(
        np.divide(plain.outliers[0].expected_xy_image, (4.0, 1.0))
    )


def test_few_images_still_tell_where_readers_disagree() -> None:
    marks = make_marks(2)[:8]
    marks[5, 1, 2] += (0, 90)
    outliers = find_outliers(marks, UNKNOWN[:8])
    assert not outliers.knows_shapes and np.isnan(outliers.expected_xy_image).all()
    first = outliers.outliers[0]
    assert (first.row, first.landmark, first.reader, first.expected_xy_image) == (5, 2, None, None)


def test_the_gross_slips_of_isbi2015_come_first(shared_data) -> None:
    folder = shared_data / "isbi2015"
    if not folder.is_dir():
        pytest.skip(f"no ISBI 2015 in {shared_data}")
    annotations = read_annotations(folder)
    spacing = annotations.images[["mm_per_px_x", "mm_per_px_y"]].to_numpy(np.float64, copy=True)
    outliers = find_outliers(annotations.points_xy_image, spacing)
    named = [
        (str(annotations.images["image_id"].iloc[one.row]), annotations.landmark_names[one.landmark])
        for one in outliers.outliers
    ]
    assert named[:2] == [("181", "Sella"), ("208", "Upper incisor")]  # 22 mm and 8 mm between the readers
    assert annotations.reader_names[outliers.outliers[0].reader or 0] == "Junior Orthodontists"
    assert len(named) < 0.05 * len(annotations.images) * len(annotations.landmark_names)


def test_a_mouse_of_openfield_whose_ears_were_swapped_comes_first(shared_data) -> None:
    folder = shared_data / "openfield"
    if not folder.is_dir():
        pytest.skip(f"no openfield in {shared_data}")
    annotations = read_annotations(folder)
    first = find_outliers(
        annotations.points_xy_image, np.full((len(annotations.images), 2), np.nan)
    ).outliers[0]
    assert str(annotations.images["image_id"].iloc[first.row]) == "m4s1/img0102"
    assert first.swapped_with is not None
    assert {annotations.landmark_names[k] for k in (first.landmark, first.swapped_with)} == {
        "leftear",
        "rightear",
    }
