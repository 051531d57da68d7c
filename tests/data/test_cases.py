"""Small inputs that went wrong once: each is read as its picture shows it, or the problem is named.

The pictures show a bright disc at each planted landmark, so that what was read can be held against what is
seen.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from backend.data.annotations import Annotations, read_annotations
from backend.data.images import read_image, read_image_facts
from backend.data.importing import import_zip
from backend.errors import UserError

BASE = np.array([[0.25, 0.3], [0.7, 0.25], [0.6, 0.7], [0.3, 0.75]])
WIDTH, HEIGHT = 128, 96


def planted(k: int) -> np.ndarray:
    """(4, 2), px: the landmarks of image k."""
    shift = np.random.default_rng(1000 + k).uniform(-0.08, 0.08, (4, 2))
    points: np.ndarray = np.round((BASE + shift) * [WIDTH, HEIGHT], 2)
    return points


def shows_its_landmarks(annotations: Annotations) -> None:
    """Check that every landmark is on its own disc, of grey value 120 + 40 n; nothing else is so bright.

    Aariz's 29 landmarks lie on the four discs in turn.
    """
    for row, path in enumerate(annotations.images["path"]):
        image = read_image(Path(path)).astype(float)
        for n, (x, y) in enumerate(annotations.points_xy_image[row].mean(axis=0)):
            if np.isfinite(x):
                around = image[round(y) - 1 : round(y) + 2, round(x) - 1 : round(x) + 2]
                assert abs(around.mean() - min(255, 120 + 40 * (n % 4))) < 25, (path, n)


def words_of(annotations: Annotations) -> str:
    return "\n".join(map(str, annotations.problems))


READ_AS_SHOWN = {  # case -> images, and what its problems say
    "names-nfd/d1": (3, []),
    "names-other/percent-csv": (2, ["a%20b0.png"]),
    "names-other/other-root-csv": (2, [r"im0.png"]),
    "coco-ids/d11": (3, []),
    "dlc/p2": (3, []),
    "two-annotators/d1": (8, []),
    "aariz-suffix/atif": (2, []),
    "csv/d2": (3, []),
    "csv/d3": (3, ["UTF-16"]),
    "csv/d6": (3, []),
    "exif/d5": (5, ["EXIF"]),
    "zeros/d1": (24, ["alpha", "(0, 0)"]),
    "split-moved/d": (14, []),
}


@pytest.mark.parametrize("case", READ_AS_SHOWN)
def test_a_case_is_read_as_its_pictures_show_it(shared_cases: Path, case: str) -> None:
    num_images, words = READ_AS_SHOWN[case]
    annotations = read_annotations(shared_cases / case)
    assert len(annotations.images) == num_images, words_of(annotations)
    shows_its_landmarks(annotations)
    for word in words:
        assert word in words_of(annotations)


def test_of_two_halves_all_landmarks_are_taken(shared_cases: Path) -> None:
    annotations = read_annotations(shared_cases / "two-annotators/d1")
    assert np.isfinite(annotations.points_xy_image).any(axis=1).all()


@pytest.mark.parametrize("archive", ["mac-zip/mac_noflag.zip", "zip-backslash/a.zip"])
def test_an_archive_of_a_case_is_imported(shared_cases: Path, archive: str, tmp_path: Path) -> None:
    annotations = read_annotations(import_zip(shared_cases / archive, tmp_path / "data"))
    assert len(annotations.images) == 4, words_of(annotations)
    shows_its_landmarks(annotations)
    if "mac" in archive:
        assert any("بیمار یک" in name for name in annotations.images["image_id"])


@pytest.mark.parametrize(
    ("case", "named"),
    [("coco-basename/data", ["cam1/0001.png", "cam2/0001.png"]), ("dlc/p6", ["v1", "v2"])],
)
def test_marks_of_one_camera_never_lie_on_the_picture_of_another(
    shared_cases: Path, case: str, named: list[str]
) -> None:
    with pytest.raises(UserError) as caught:  # no image is left
        read_annotations(shared_cases / case)
    for name in named:
        assert name in str(caught.value)


def test_shares_are_named_and_stop_a_training(shared_cases: Path) -> None:
    annotations = read_annotations(shared_cases / "units/d1")
    assert any("shares" in problem.what and problem.stops_training for problem in annotations.problems)


def test_a_tiff_reads_the_same_whichever_way_its_greys_run(shared_cases: Path) -> None:
    of_8_bits, of_16_bits = (
        read_image(shared_cases / "images" / name) for name in ("c_tiff8_white0.tif", "e_tiff16_white0.tif")
    )
    # deeper greys are stretched to their own darkest and lightest
    assert np.corrcoef(of_8_bits.ravel(), of_16_bits.ravel())[0, 1] > 0.99


def test_pages_of_a_tiff_beyond_the_first_are_told(shared_cases: Path) -> None:
    path = shared_cases / "images" / "f_multipage.tif"
    assert read_image(path).ndim == 2
    assert any("3 pages" in remark.what for remark in read_image_facts(path).remarks)


@pytest.mark.parametrize(
    ("name", "told"), [("a_good", ""), ("b_comma", "comma"), ("f_contradict", "ImagerPixelSpacing")]
)
def test_a_dicom_is_shown_whatever_its_fields_say(shared_cases: Path, name: str, told: str) -> None:
    path = shared_cases / "dicom" / f"{name}.dcm"
    assert read_image(path).shape == (HEIGHT, WIDTH)
    facts = read_image_facts(path)
    assert np.isfinite(facts.mm_per_px_xy).all()
    assert any(told in remark.what for remark in facts.remarks) if told else not facts.remarks
