"""Small data sets of COCO keypoints for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from backend.data.annotations import Annotations

HEIGHT, WIDTH = 60, 80
NAMES = ["nose", "left ear", "tail"]
POINTS = [10, 20, 2, 30.5, 40, 1, 50, 5, 2]  # all three are there, one of them hidden
MISSING = [0, 0, 0]


def write_image(path: Path, size_hw: tuple[int, int] = (HEIGHT, WIDTH)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, np.zeros(size_hw, np.uint8))[1].tobytes())


def category(id: Any = 1, names: Any = NAMES, **more: Any) -> dict[str, Any]:
    return {"id": id, "name": f"category {id}", "keypoints": names, **more}


def image(id: Any, file_name: Any = None, **more: Any) -> dict[str, Any]:
    return {"id": id, "file_name": file_name or f"{id}.png", **more}


def instance(image_id: Any, keypoints: Any = POINTS, **more: Any) -> dict[str, Any]:
    return {"id": 100, "image_id": image_id, "category_id": 1, "keypoints": keypoints, **more}


def coco(images: Any, annotations: Any, *categories: Any) -> dict[str, Any]:
    return {"images": images, "annotations": annotations, "categories": list(categories) or [category()]}


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def build(folder: Path, images: list[Any], annotations: list[Any], *categories: Any) -> Path:
    """A folder with one JSON file and all images that it names."""
    for entry in images:
        if isinstance(entry, dict) and isinstance(entry.get("file_name"), str):
            write_image(folder / entry["file_name"])
    write_json(folder / "result.json", coco(images, annotations, *categories))
    return folder


def problems(annotations: Annotations) -> list[str]:
    """Select the problems that a test is about.

    Every data set of this format has no pixel size, and many tests mark every image alike.
    """
    assert "no pixel size: errors are in pixels" in annotations.problems[-1].what
    return [
        str(problem) for problem in annotations.problems[:-1] if "the same coordinates" not in problem.what
    ]


def splits(annotations: Annotations) -> dict[str, str]:
    return dict(zip(annotations.images["image_id"], annotations.images["split"], strict=True))
