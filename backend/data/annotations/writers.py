"""Writes predictions, and what a person corrected in them, as files that can be read back.

The wide CSV, JSON, COCO keypoints, the Aariz layout, and zip archives of them with the images, which are data
sets to train on. Every point is in the original image's pixels; a missing landmark is NaN.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from backend.data.annotations import aariz
from backend.data.annotations.csv_rows import EXCEL_MARK, format_rows, guard_text
from backend.errors import UserError
from backend.geometry import FloatArray, Size

FORMAT_VERSION = 1
MAX_UNEVENNESS = 1e-3  # of the two sides of a pixel, if a format holds one length for both
AARIZ_SPLIT, AARIZ_READER = aariz.SPLITS[0], aariz.READER_NAMES[0]


def find_corrected(points_xy: FloatArray, predicted_xy: FloatArray) -> npt.NDArray[np.bool_]:
    """Return (K,) whether each landmark was moved from its prediction, removed or put back; both (K, 2)."""
    same = np.isclose(points_xy, predicted_xy, rtol=0, atol=1e-6, equal_nan=True)
    return np.logical_not(same.all(axis=-1))


@dataclass(frozen=True)
class MarkedImage:
    """One image with K landmarks: as a network predicted them, and as they are now."""

    name: str  # unique, as the user knows the image; its last part is the file's name
    path: Path  # its pixels: a PNG file, where an archive is written
    size_hw: Size
    points_xy_image: FloatArray  # (K, 2) what counts; corrected by a person, where it differs from the next
    predicted_xy_image: FloatArray  # (K, 2)
    confidence: FloatArray  # (K,) of the prediction, 0..1
    mm_per_px_xy: tuple[float, float]  # NaN if unknown
    spacing_source: str = ""  # the field or file that states it
    remarks: tuple[str, ...] = ()  # what was decided or ignored when the file was read

    @property
    def has_spacing(self) -> bool:
        return bool(np.isfinite(self.mm_per_px_xy).all())

    @property
    def corrected(self) -> list[bool]:
        """Whether each landmark was moved, removed or put back."""
        moved: list[bool] = find_corrected(self.points_xy_image, self.predicted_xy_image).tolist()
        return moved

    @property
    def confidence_that_counts(self) -> FloatArray:
        """The confidence (K,), NaN for a corrected landmark: it was about another place."""
        return np.where(self.corrected, np.nan, self.confidence)


Marked = Sequence[MarkedImage]
Names = Sequence[str]


def to_csv(images: Marked, landmark_names: Names, *, for_spreadsheets: bool = False) -> str:
    """Format the wide CSV: `image, <name>_x, <name>_y, <name>_confidence, ...`, and known pixel sizes.

    The confidence is that of the prediction, so a corrected landmark has none. For spreadsheets there is a
    byte order mark, and no text is a formula; reading it back gives the original text.
    """
    as_text: Callable[[str], str] = guard_text if for_spreadsheets else str
    has_spacings = any(image.has_spacing for image in images)
    columns = [as_text(f"{name}_{part}") for name in landmark_names for part in ("x", "y", "confidence")]
    rows = [["image", *columns, *(("mm_per_px_x", "mm_per_px_y") if has_spacings else ())]]
    for image in images:
        cells = [
            cell
            for (x, y), sure in zip(image.points_xy_image, image.confidence_that_counts, strict=True)
            for cell in (_cell(x), _cell(y), _cell(sure, 4))
        ]
        if has_spacings:
            cells += [f"{mm:.6g}" if image.has_spacing else "" for mm in image.mm_per_px_xy]
        rows.append([as_text(image.name), *cells])
    return (EXCEL_MARK if for_spreadsheets else "") + format_rows(rows)


def to_json(images: Marked, landmark_names: Names) -> dict[str, Any]:
    """Return all of each landmark, by image: position, prediction, confidence, and mm if known."""
    return {
        "format_version": FORMAT_VERSION,
        "landmark_names": list(landmark_names),
        "images": [_image_to_json(image, landmark_names) for image in images],
    }


def to_coco(images: Marked, landmark_names: Names) -> dict[str, Any]:
    """Return COCO keypoints, one instance per image, file names as `name`. Visibility is 2, 0 if missing."""
    category = {"id": 1, "name": "landmarks", "keypoints": list(landmark_names), "skeleton": []}
    entries, annotations = [], []
    for number, image in enumerate(images, start=1):
        height, width = image.size_hw
        entries.append({"id": number, "file_name": image.name, "height": height, "width": width})
        annotations.append({"id": number, "image_id": number, "category_id": 1, **_coco_points(image)})
    return {"images": entries, "annotations": annotations, "categories": [category]}


def read_json_export(
    content: Mapping[str, Any],
) -> tuple[list[str], dict[str, tuple[FloatArray, FloatArray]]]:
    """Read landmark names, and by image name the predicted points (K, 2) and confidence (K,), of `to_json`.

    The confidence is NaN if a person corrected the point.
    """
    names = [str(name) for name in content["landmark_names"]]
    found: dict[str, tuple[FloatArray, FloatArray]] = {}
    for image in content["images"]:
        landmarks = [image["landmarks"][name] for name in names]
        points = np.array([entry["predicted_xy"] or (np.nan, np.nan) for entry in landmarks], np.float64)
        found[str(image["image"])] = (
            points,
            np.array([entry["confidence"] for entry in landmarks], np.float64),
        )
    return names, found


def write_csv_zip(path: Path, images: Marked, landmark_names: Names) -> None:
    """Write `predictions.csv` and the images beside it."""
    named = _under_their_stems(images, "images/")
    _write_zip(path, named, {"predictions.csv": to_csv(named, landmark_names, for_spreadsheets=True)})


def write_coco_zip(path: Path, images: Marked, landmark_names: Names) -> None:
    """Write `annotations.json` and the folder `images`. COCO has no place for pixel sizes."""
    named = _under_their_stems(images, "images/")
    content = to_coco([_named(image, Path(image.name).name) for image in named], landmark_names)
    _write_zip(path, named, {"annotations.json": _dump(content)})


def write_aariz_zip(path: Path, images: Marked, landmark_names: Names) -> None:
    """Write the Aariz layout with all images in its first split, by its first reader.

    Raises UserError for a landmark that Aariz does not know and for pixels that are not square.
    """
    symbols = _aariz_symbols(landmark_names)
    named = _under_their_stems(images, f"{AARIZ_SPLIT}/Cephalograms/")
    machines = [["cephalogram_id", "machine", "pixel_size", "image_format", "mode"]]
    files: dict[str, str] = {}
    for original, image in zip(images, named, strict=True):
        stem = Path(image.name).stem
        folder = f"{AARIZ_SPLIT}/Annotations/Cephalometric Landmarks/{AARIZ_READER}"
        files[f"{folder}/{stem}.json"] = _dump({"ceph_id": stem, "landmarks": _aariz_entries(image, symbols)})
        if image.has_spacing:
            machines.append([guard_text(stem), "", f"{_square_pixel(original):.6g}", "png", ""])
    files[aariz.MACHINES_FILE] = EXCEL_MARK + format_rows(machines)
    _write_zip(path, named, files)


def _write_csv(path: Path, images: Marked, landmark_names: Names) -> None:
    path.write_text(to_csv(images, landmark_names, for_spreadsheets=True), encoding="utf-8", newline="")


def _write_json(path: Path, images: Marked, landmark_names: Names) -> None:
    path.write_text(_dump(to_json(images, landmark_names)), encoding="utf-8")


# what can be exported: name -> (file to write, how)
EXPORTS: dict[str, tuple[str, Callable[[Path, Marked, Names], None]]] = {
    "csv": ("predictions.csv", _write_csv),
    "json": ("predictions.json", _write_json),
    "csv_zip": ("predictions-csv.zip", write_csv_zip),
    "coco_zip": ("predictions-coco.zip", write_coco_zip),
    "aariz_zip": ("predictions-aariz.zip", write_aariz_zip),
}


def _image_to_json(image: MarkedImage, landmark_names: Names) -> dict[str, Any]:
    height, width = image.size_hw
    corrected = image.corrected
    return {
        "image": image.name,
        "width": width,
        "height": height,
        "mm_per_px_xy": list(image.mm_per_px_xy) if image.has_spacing else None,
        "spacing_source": image.spacing_source,
        "remarks": list(image.remarks),
        "landmarks": {
            name: {
                "xy": _pair(image.points_xy_image[k]),
                "xy_mm": _pair(image.points_xy_image[k] * np.array(image.mm_per_px_xy)),
                "predicted_xy": _pair(image.predicted_xy_image[k]),
                "confidence": None if corrected[k] else round(float(image.confidence[k]), 4),
                "corrected": corrected[k],
            }
            for k, name in enumerate(landmark_names)
        },
    }


def _coco_points(image: MarkedImage) -> dict[str, Any]:
    """Return the fields of an annotation that depend on its points, such as the box around them."""
    flat: list[float] = []
    for x, y in image.points_xy_image:
        flat += [round(float(x), 3), round(float(y), 3), 2] if np.isfinite(x + y) else [0, 0, 0]
    known = image.points_xy_image[np.isfinite(image.points_xy_image).all(axis=-1)]
    box = [0.0, 0.0, 0.0, 0.0]
    if len(known):
        low, high = known.min(axis=0), known.max(axis=0)
        box = [round(float(value), 3) for value in (*low, *(high - low))]
    return {
        "keypoints": flat,
        "num_keypoints": len(known),
        "bbox": box,
        "area": box[2] * box[3],
        "iscrowd": 0,
    }


def _aariz_symbols(landmark_names: Names) -> list[str]:
    symbols = {name: aariz.known_symbol(name) for name in landmark_names}
    unknown = [name for name, symbol in symbols.items() if symbol is None]
    if unknown:
        raise UserError(
            f"the Aariz layout has a fixed list of 29 landmarks, and not {', '.join(unknown)}",
            cure="export as CSV with images, or COCO",
        )
    return [symbol for symbol in symbols.values() if symbol is not None]


def _aariz_entries(image: MarkedImage, symbols: Sequence[str]) -> list[dict[str, Any]]:
    """List the landmarks that are not missing; the id is the symbol."""
    return [
        {
            "landmark_id": symbol,
            "title": symbol,
            "symbol": symbol,
            "value": {"x": round(float(x), 3), "y": round(float(y), 3)},
        }
        for symbol, (x, y) in zip(symbols, image.points_xy_image, strict=True)
        if np.isfinite(x + y)
    ]


def _square_pixel(image: MarkedImage) -> float:
    mm_x, mm_y = image.mm_per_px_xy
    if abs(mm_x - mm_y) > MAX_UNEVENNESS * mm_x:
        raise UserError(
            f"the pixels of {image.name} are {mm_x:g} x {mm_y:g} mm, and the Aariz layout holds one length "
            f"for both",
            cure="export as CSV with images",
        )
    return (mm_x + mm_y) / 2


def _under_their_stems(images: Marked, folder: str) -> list[MarkedImage]:
    """Name the images as in an archive: PNG files in one folder, no two of one name."""
    taken: set[str] = set()
    named = []
    for image in images:
        stem = unused_name(Path(image.name).stem, taken)
        named.append(_named(image, f"{folder}{stem}.png"))
    return named


def unused_name(name: str, taken: set[str]) -> str:
    """Return `name`, or with the first number that makes it differ from those taken; add it to these."""
    candidate, number = name, 1
    while candidate.lower() in taken:
        number += 1
        candidate = f"{name}-{number}"
    taken.add(candidate.lower())
    return candidate


def _named(image: MarkedImage, name: str) -> MarkedImage:
    return MarkedImage(**{**vars(image), "name": name})


def _write_zip(path: Path, images: Marked, files: Mapping[str, str]) -> None:
    """Write text files, and images under their names; these are PNG files, already compressed."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text, compress_type=zipfile.ZIP_DEFLATED)
        for image in images:
            archive.write(image.path, image.name)


def _cell(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}f}" if np.isfinite(value) else ""


def _pair(point: FloatArray) -> list[float] | None:
    return [round(float(value), 3) for value in point] if np.isfinite(point).all() else None


def _dump(content: Mapping[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False, allow_nan=False, indent=1)
