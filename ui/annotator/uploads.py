"""The images of one browser page's Predict tab: their pixels, pixel sizes and landmarks.

An uploaded file is read once and deleted; only its name, its pixels (as PNG) and its pixel size are kept, in
a folder that is deleted with the page's session and with the program.
"""

from __future__ import annotations

import atexit
import csv
import functools
import io
import math
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil

from backend.data.annotations.writers import MarkedImage, find_corrected, unused_name
from backend.data.image_facts import ReadingRemark
from backend.data.image_store import reduce_image
from backend.data.images import read_image, read_image_facts
from backend.errors import UserError
from backend.geometry import FloatArray, Size
from backend.overlays import encode_jpeg, encode_png
from ui.text.say import say

SHOWN_SIDE_PX = 2600  # an image of 1935 x 2400 is shown as it is
THUMBNAIL_SIDE_PX = 160
# from 0 to 1; decoders differ in what they mean: mass around the peak, or its height
LOW_CONFIDENCE, FAIR_CONFIDENCE = 0.5, 0.8
LIST_NAME = "images.csv"
Predictions = Mapping[str, tuple[FloatArray, FloatArray]]  # by file name: points (K, 2), confidence (K,)


@dataclass
class Upload:
    """An image of the page. `key` names its files; points are None before they are predicted."""

    key: str
    name: str  # the file's name for the user, unique
    size_hw: Size
    mm_per_px_xy: tuple[float, float]  # as the file states it; NaN if it does not
    spacing_field: str  # the field of DICOM that states it
    remarks: tuple[ReadingRemark, ...] = ()  # on how the file was read
    predicted_xy_image: FloatArray | None = None
    points_xy_image: FloatArray | None = None
    confidence: FloatArray | None = None
    heard: int = 0  # the number of the last move that the browser reported

    @property
    def num_low(self) -> int:
        """Landmarks of low confidence that were not corrected."""
        if self.confidence is None:
            return 0
        return int(((self.confidence < LOW_CONFIDENCE) & ~self.corrected).sum())

    @property
    def corrected(self) -> npt.NDArray[np.bool_]:
        """(K,) whether each landmark was moved, removed or put back in; empty before a prediction."""
        now, then = self.points_xy_image, self.predicted_xy_image
        if now is None or then is None:
            return np.zeros(0, np.bool_)
        return find_corrected(now, then)

    @property
    def is_corrected(self) -> bool:
        return bool(self.corrected.any())


def confidence_level(value: float) -> str:
    """Return low, fair or high."""
    if value < LOW_CONFIDENCE:
        return "low"
    return "fair" if value < FAIR_CONFIDENCE else "high"


@dataclass
class Uploads:
    """The images of one page, their folder and landmarks.

    The folder is there once there is an image; the landmarks are those of the last prediction.
    """

    folder: Path | None = None
    images: list[Upload] = field(default_factory=list)
    landmark_names: list[str] = field(default_factory=list)
    shown: str = ""  # key of the image that is shown
    typed_mm_per_px: float | None = None  # for images whose file states none
    num_taken: int = 0

    def find(self, key: str) -> Upload | None:
        return next((image for image in self.images if image.key == key), None)

    def mm_per_px_xy(self, image: Upload) -> tuple[float, float]:
        """Return the pixel size that the file states, else the one that the user typed, else NaN."""
        if math.isnan(image.mm_per_px_xy[0]) and self.typed_mm_per_px:
            return (self.typed_mm_per_px, self.typed_mm_per_px)
        return image.mm_per_px_xy

    def spacing_source(self, image: Upload) -> str:
        """Say where the pixel size comes from; empty if it is unknown."""
        if image.spacing_field:
            return say("predict_spacing_dicom", field=image.spacing_field)
        return say("predict_spacing_typed") if self.typed_mm_per_px else ""

    def marked(self) -> list[MarkedImage]:
        """Return the predicted images, as they are exported."""
        assert self.folder is not None
        return [
            MarkedImage(
                name=image.name,
                path=pixels_path(self.folder, image.key),
                size_hw=image.size_hw,
                points_xy_image=image.points_xy_image,
                predicted_xy_image=image.predicted_xy_image,
                confidence=image.confidence,
                mm_per_px_xy=self.mm_per_px_xy(image),
                spacing_source=self.spacing_source(image),
                remarks=tuple(map(str, image.remarks)),
            )
            for image in self.images
            if image.points_xy_image is not None
            and image.predicted_xy_image is not None
            and image.confidence is not None
        ]


@functools.cache
def uploads_root() -> Path:
    """Return the folder for all pages of this program, deleted when it ends.

    Folders left by a killed program are deleted first.
    """
    for folder in Path(tempfile.gettempdir()).glob("fiducial-*-*"):
        pid = folder.name.split("-")[1]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)
    root = Path(tempfile.mkdtemp(prefix=f"fiducial-{os.getpid()}-")).resolve()
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return root


def take_in(uploads: Uploads, path: Path) -> Upload:
    """Store an uploaded image's pixels and pixel size, and delete the file.

    Raises UserError, naming the file as the user does, if it is not an image.
    """
    try:
        pixels = read_image(path)
        facts = read_image_facts(path)
    except UserError as error:
        raise UserError(error.what.replace(str(path), path.name), cure=error.cure) from error
    finally:
        path.unlink(missing_ok=True)
    if uploads.folder is None:
        uploads.folder = Path(tempfile.mkdtemp(dir=uploads_root()))
    key = f"{uploads.num_taken:04d}"
    uploads.num_taken += 1
    size_hw = (pixels.shape[0], pixels.shape[1])
    pixels_path(uploads.folder, key).write_bytes(encode_png(pixels))
    for small_path, side_px in ((_shown_path, SHOWN_SIDE_PX), (_thumbnail_path, THUMBNAIL_SIDE_PX)):
        reduced = reduce_image(pixels, side_px / max(size_hw)).pixels
        small_path(uploads.folder, key).write_bytes(encode_jpeg(reduced))
    name = path.with_stem(unused_name(path.stem, {Path(image.name).stem.lower() for image in uploads.images}))
    image = Upload(
        key=key,
        name=name.name,
        size_hw=size_hw,
        mm_per_px_xy=facts.mm_per_px_xy,
        spacing_field=facts.spacing_field,
        remarks=facts.remarks,
    )
    uploads.images.append(image)
    return image


def list_for_prediction(uploads: Uploads) -> Path:
    """Write the list of images and pixel sizes that `backend.predict` reads."""
    assert uploads.folder is not None
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "mm_per_px_x", "mm_per_px_y"])
    for image in uploads.images:
        spacing = uploads.mm_per_px_xy(image)
        cells = ["", ""] if math.isnan(spacing[0]) else [repr(value) for value in spacing]
        writer.writerow([pixels_path(uploads.folder, image.key).name, *cells])
    path = uploads.folder / LIST_NAME
    path.write_text(text.getvalue(), encoding="utf-8")
    return path


def adopt(uploads: Uploads, landmark_names: Sequence[str], predictions: Predictions) -> None:
    """Store predictions; corrected landmarks keep their positions.

    Raises UserError if corrections would be lost because the run has other landmarks.
    """
    names = list(landmark_names)
    if names != uploads.landmark_names and any(image.is_corrected for image in uploads.images):
        raise UserError(say("predict_other_landmarks"))
    for image in uploads.images:
        predicted, confidence = predictions.get(f"{image.key}.png", (None, None))
        if predicted is None:
            continue
        points = predicted.copy()
        if image.is_corrected:
            assert image.points_xy_image is not None
            points[image.corrected] = image.points_xy_image[image.corrected]
        image.predicted_xy_image, image.points_xy_image, image.confidence = predicted, points, confidence
    uploads.landmark_names = names


def correct(
    uploads: Uploads, key: str, points: Sequence[Sequence[float] | None], number: int
) -> Upload | None:
    """Store an image's points as the browser sends them: (x, y) in image pixels, None for a missing landmark.

    `number`: that of the move, counted by the browser.
    Moved points stay inside the image; a point that a network put outside stays there. Anything else is
    ignored, and None is returned.
    """
    image = uploads.find(key)
    if image is not None:
        image.heard = number
    if image is None or image.points_xy_image is None or len(points) != len(image.points_xy_image):
        return None
    height, width = image.size_hw
    if any(point is not None and len(point) != 2 for point in points):
        return None
    moved = np.array([(math.nan, math.nan) if point is None else point for point in points], np.float64)
    is_moved = find_corrected(moved, image.points_xy_image)
    moved[is_moved] = np.clip(moved[is_moved], -0.5, [width - 0.5, height - 0.5])
    image.points_xy_image = moved
    return image


def forget(uploads: Uploads) -> None:
    """Delete everything that is kept of a page."""
    if uploads.folder is not None:
        shutil.rmtree(uploads.folder, ignore_errors=True)
    vars(uploads).update(vars(Uploads(typed_mm_per_px=uploads.typed_mm_per_px)))


def pixels_path(folder: Path, key: str) -> Path:
    """Return the path of the image's pixels as every network sees them."""
    return folder / f"{key}.png"


def maps_path(folder: Path, key: str) -> Path:
    """Return the path of the heatmaps of the last prediction."""
    return folder / "maps" / f"{key}.npz"


def _shown_path(folder: Path, key: str) -> Path:
    return folder / f"{key}-shown.jpg"


def _thumbnail_path(folder: Path, key: str) -> Path:
    return folder / f"{key}-small.jpg"


def shown_path(uploads: Uploads, image: Upload) -> Path:
    """Return the path of the picture to correct points on."""
    assert uploads.folder is not None
    return _shown_path(uploads.folder, image.key)


def thumbnail_path(uploads: Uploads, image: Upload) -> Path:
    """Return the path of the picture for the list."""
    assert uploads.folder is not None
    return _thumbnail_path(uploads.folder, image.key)
