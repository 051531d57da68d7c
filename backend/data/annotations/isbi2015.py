"""ISBI 2015 cephalograms: 19 landmarks, two readers, 0.1 mm per pixel.

`RawImage/{TrainingData,Test1Data,Test2Data}/NNN.bmp` (or any other image) and
`AnnotationsByMD/400_{senior,junior}/NNN.txt`, whose first 19 lines are `x,y` in pixels (what follows, in the
original files, are diagnoses).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from backend.data.annotations.builder import AnnotationsBuilder, pair_files, present_readers
from backend.data.annotations.image_names import stem_of
from backend.data.annotations.table import Annotations

LANDMARK_NAMES = (
    "Sella",
    "Nasion",
    "Orbitale",
    "Porion",
    "A",
    "B",
    "Pogonion",
    "Menton",
    "Gnathion",
    "Gonion",
    "Lower incisor",
    "Upper incisor",
    "Upper lip",
    "Lower lip",
    "Subnasale",
    "Soft pogonion",
    "PNS",
    "ANS",
    "Articulare",
)
MM_PER_PX = 0.1
# split -> folder, and the numbers of its images
SPLITS = {
    "train": ("TrainingData", range(1, 151)),
    "test1": ("Test1Data", range(151, 301)),
    "test2": ("Test2Data", range(301, 401)),
}
READER_FOLDERS = {"Senior Orthodontists": "400_senior", "Junior Orthodontists": "400_junior"}


def matches(path: Path) -> bool:
    has_images = any((path / "RawImage" / folder).is_dir() for folder, _ in SPLITS.values())
    return has_images and (path / "AnnotationsByMD").is_dir()


def read(path: Path) -> Annotations:
    builder = AnnotationsBuilder("isbi2015", path, LANDMARK_NAMES)
    folders = {name: builder.root / "AnnotationsByMD" / folder for name, folder in READER_FOLDERS.items()}
    builder.reader_names = present_readers(builder, {name: [folder] for name, folder in folders.items()})
    folders = {name: folders[name] for name in builder.reader_names}
    for split, (folder_name, numbers) in SPLITS.items():
        image_folder = builder.root / "RawImage" / folder_name
        if not image_folder.is_dir():
            continue

        def belongs(stem: str, numbers: range = numbers) -> bool:
            return stem.isdecimal() and int(stem) in numbers

        for image, files in pair_files(builder, image_folder, folders, ".txt", belongs):
            points = builder.empty_points()
            for reader, name in enumerate(builder.reader_names):
                if name in files:
                    points[reader] = _read_points(builder, files[name])
            builder.add_image(
                stem_of(image.name), image, points, split=split, mm_per_px_xy=(MM_PER_PX, MM_PER_PX)
            )
    return builder.finish("none is needed")


def _read_points(builder: AnnotationsBuilder, path: Path) -> npt.NDArray[np.float64]:
    """Read one reader's points (K, 2) of one image; all NaN if lines are missing or too many."""
    points = np.full((len(LANDMARK_NAMES), 2), np.nan)
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    num_points = next((i for i, line in enumerate(lines) if line.count(",") != 1), len(lines))
    if num_points != len(LANDMARK_NAMES):
        # the order does not tell which landmark is missing, so none of them can be trusted.
        builder.report(
            path,
            f"{num_points} lines of x,y instead of {len(LANDMARK_NAMES)}; the reader is left out here",
            "write one landmark per line, in the order of the data set",
        )
        return points
    for index, line in enumerate(lines[:num_points]):
        x_text, y_text = line.split(",")
        where = f"{builder.relative(path)} line {index + 1}"
        points[index] = builder.parse_point(x_text, y_text, f"{where} column 1", f"{where} column 2")
    return points
