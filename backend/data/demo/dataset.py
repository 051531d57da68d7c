"""Synthetic lateral cephalograms in the layout of the Aariz data set, for a first run without any data.

The files of the demo data set and its two readers. The head comes from `backend.data.demo.shape` and
`backend.data.demo.anatomy`, the radiograph from `backend.data.demo.film`.

    python -m backend.data.demo PATH [--num_train 16] [--num_valid 4] [--num_test 10] [--seed 0]
"""

from __future__ import annotations

import csv
import json
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from backend.data.demo.anatomy import draw_head
from backend.data.demo.film import Film, Machine, Pose, develop, draw_border
from backend.data.demo.shape import Points, Warp, sample_head
from backend.errors import UserError

FORMAT_VERSION = 1
SPEC_FILE = "demo.json"

DEMO_LANDMARKS: tuple[tuple[str, str], ...] = (
    ("A", "A-point"),
    ("ANS", "Anterior Nasal Spine"),
    ("B", "B-point"),
    ("Me", "Menton"),
    ("N", "Nasion"),
    ("Or", "Orbitale"),
    ("Pog", "Pogonion"),
    ("PNS", "Posterior Nasal Spine"),
    ("Pn", "Pronasale"),
    ("R", "Ramus"),
    ("S", "Sella"),
    ("Ar", "Articulare"),
    ("Co", "Condylion"),
    ("Gn", "Gnathion"),
    ("Go", "Gonion"),
    ("Po", "Porion"),
    ("LPM", "Lower 2nd PM Cusp Tip"),
    ("LIT", "Lower Incisor Tip"),
    ("LMT", "Lower Molar Cusp Tip"),
    ("UPM", "Upper 2nd PM Cusp Tip"),
    ("UIA", "Upper Incisor Apex"),
    ("UIT", "Upper Incisor Tip"),
    ("UMT", "Upper Molar Cusp Tip"),
    ("LIA", "Lower Incisor Apex"),
    ("Li", "Labrale inferius"),
    ("Ls", "Labrale superius"),
    ("N`", "Soft Tissue Nasion"),
    ("Pog`", "Soft Tissue Pogonion"),
    ("Sn", "Subnasale"),
)

MACHINES: tuple[Machine, ...] = (
    Machine(
        name="Demo Ceph 27",
        mode="digital",
        height_px=880,
        width_px=736,
        mm_per_px=0.27,
        gain=1.65,
        gamma=1.18,
        fog=0.02,
        blur_mm=0.28,
        grain=0.020,
    ),
    Machine(
        name="Demo Ceph 30",
        mode="film",
        height_px=808,
        width_px=672,
        mm_per_px=0.30,
        gain=2.10,
        gamma=1.35,
        fog=0.06,
        blur_mm=0.34,
        grain=0.034,
    ),
    Machine(
        name="Demo Ceph 34",
        mode="digital",
        height_px=712,
        width_px=592,
        mm_per_px=0.34,
        gain=1.30,
        gamma=0.95,
        fog=0.03,
        blur_mm=0.30,
        grain=0.026,
    ),
)

# Standard deviation, in mm, of a senior reader along and across the contour, and the contour's direction in
# degrees (0: forwards, 90: down) in the template's frame.
_READING: dict[str, tuple[float, float, float]] = {
    "A": (0.70, 0.22, 90),
    "ANS": (0.55, 0.25, 0),
    "B": (0.75, 0.22, 95),
    "Me": (0.55, 0.22, 10),
    "N": (0.45, 0.25, 70),
    "Or": (0.80, 0.35, 0),
    "Pog": (0.65, 0.18, 95),
    "PNS": (0.75, 0.30, 0),
    "Pn": (0.50, 0.18, 85),
    "R": (0.90, 0.25, 90),
    "S": (0.30, 0.30, 0),
    "Ar": (0.45, 0.25, 80),
    "Co": (0.70, 0.40, 130),
    "Gn": (0.55, 0.20, 130),
    "Go": (0.95, 0.35, 60),
    "Po": (0.80, 0.40, 0),
    "LPM": (0.45, 0.30, 0),
    "LIT": (0.28, 0.22, 90),
    "LMT": (0.50, 0.30, 0),
    "UPM": (0.45, 0.30, 0),
    "UIA": (0.70, 0.40, 70),
    "UIT": (0.25, 0.20, 90),
    "UMT": (0.50, 0.30, 0),
    "LIA": (0.75, 0.40, 115),
    "Li": (0.50, 0.20, 90),
    "Ls": (0.50, 0.20, 90),
    "N`": (0.70, 0.20, 85),
    "Pog`": (0.75, 0.20, 90),
    "Sn": (0.40, 0.25, 60),
}
_READERS = {"Senior Orthodontists": 1.0, "Junior Orthodontists": 2.0}  # factor on the table above

_SELLA_SHARE_XY = (0.405, 0.445)  # of the picture's width and height
_SELLA_SD_MM = 4.0
_MARGIN_MM = 7.0  # no landmark comes nearer to the picture's edge


@dataclass(frozen=True)
class DemoImage:
    """One synthetic cephalogram; points are (29, 2) in image px, in the order of DEMO_LANDMARKS."""

    machine: Machine
    pixels: npt.NDArray[np.uint8]
    landmarks_image: Points
    readings_image: dict[str, Points]
    cvm_stage: int


def create_demo_dataset(
    path: Path, *, num_train: int = 16, num_valid: int = 4, num_test: int = 10, seed: int = 0
) -> Path:
    """Write the demo data set to the folder `path` and return it.

    The folder appears all at once or not at all. One that already holds the same data set is left alone; an
    outdated demo is replaced; any other folder that is not empty raises UserError.
    """
    counts = {"train": num_train, "valid": num_valid, "test": num_test}
    if min(counts.values()) < 0 or not sum(counts.values()):
        raise UserError(f"{counts} is not a data set", field="demo", cure="use at least one image")
    if seed < 0:
        raise UserError(f"{seed} is not a seed", field="seed", cure="use 0 or more")
    spec = {
        "format_version": FORMAT_VERSION,
        "seed": seed,
        **{f"num_{name}": n for name, n in counts.items()},
    }
    path = Path(path).absolute()
    if _read_spec(path) == spec:
        return path
    if path.exists() and _read_spec(path) is None and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path} holds something else", field="demo", cure="give a new folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = _sibling(path)
    try:
        unfinished.mkdir()
        _write_dataset(unfinished, counts, seed)
        (unfinished / SPEC_FILE).write_text(json.dumps(spec, indent=2) + "\n", encoding="utf-8")
        _move_into_place(unfinished, path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return path


def render_demo_image(seed: int, index: int) -> DemoImage:
    """Render the `index`-th cephalogram of a data set, which depends only on the two numbers."""
    rng = np.random.default_rng([seed, index])
    machine = MACHINES[index % len(MACHINES)]
    head = sample_head(rng)
    pose = _sample_pose(rng, machine, head.landmarks_mm, head.tilt_degrees)
    film = Film((machine.height_px, machine.width_px), Warp(head.control_mm), pose)
    draw_head(film, head, rng)
    pixels = develop(film, machine, rng)
    draw_border(pixels, machine, rng)
    readings = {
        name: np.round(pose(_read_landmarks(rng, head.landmarks_mm, factor)), 1)
        for name, factor in _READERS.items()
    }
    return DemoImage(machine, pixels, pose(head.landmarks_mm), readings, head.cvm_stage)


def _sample_pose(
    rng: np.random.Generator, machine: Machine, landmarks_mm: Points, tilt_degrees: float
) -> Pose:
    size_xy = np.array([machine.width_px, machine.height_px], dtype=float)
    shift_mm = _SELLA_SD_MM * np.clip(rng.standard_normal(2), -2.0, 2.0)
    sella_image = size_xy * _SELLA_SHARE_XY + shift_mm / machine.mm_per_px
    placed = Pose(np.radians(tilt_degrees), machine.mm_per_px, sella_image)(landmarks_mm)
    # A patient is moved until the face is on the film.
    margin_px = _MARGIN_MM / machine.mm_per_px
    sella_image = sella_image - np.maximum(placed.max(axis=0) - (size_xy - 1 - margin_px), 0.0)
    return Pose(np.radians(tilt_degrees), machine.mm_per_px, sella_image)


def _read_landmarks(rng: np.random.Generator, landmarks_mm: Points, factor: float) -> Points:
    """Return a reader's marks (29, 2) in patient mm: errors are larger along the contour than across it."""
    along_sd, across_sd, degrees = np.array([_READING[symbol] for symbol, _ in DEMO_LANDMARKS]).T
    scores = factor * np.clip(rng.standard_normal((2, len(DEMO_LANDMARKS))), -2.5, 2.5)
    along, across = scores[0] * along_sd, scores[1] * across_sd
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    errors_mm = np.column_stack([along * cos - across * sin, along * sin + across * cos])
    marked: Points = landmarks_mm + errors_mm
    return marked


def _write_dataset(root: Path, counts: dict[str, int], seed: int) -> None:
    splits = [split for split, count in counts.items() for _ in range(count)]
    rows = []
    for index, split in enumerate(splits):
        image_id = f"demo{index + 1:04d}"
        image = render_demo_image(seed, index)
        _write_image(root / split, image_id, image)
        machine = image.machine
        rows.append((image_id, machine.name, f"{machine.mm_per_px:g}", "png", machine.mode))
    with (root / "cephalogram_machine_mappings.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("cephalogram_id", "machine", "pixel_size", "image_format", "mode"))
        writer.writerows(rows)


def _write_image(split_root: Path, image_id: str, image: DemoImage) -> None:
    # Encoded in memory: cv2.imwrite cannot open non-ASCII paths on Windows.
    done, png = cv2.imencode(".png", image.pixels, [cv2.IMWRITE_PNG_COMPRESSION, 3])
    assert done, "OpenCV could not encode a grey PNG"
    picture = split_root / "Cephalograms" / f"{image_id}.png"
    picture.parent.mkdir(parents=True, exist_ok=True)
    picture.write_bytes(png.tobytes())
    annotations = split_root / "Annotations"
    for reader, points in image.readings_image.items():
        content = {"ceph_id": image_id, "landmarks": _landmark_entries(points)}
        _write_json(annotations / "Cephalometric Landmarks" / reader / f"{image_id}.json", content)
    stage = {"title": f"CVM-S{image.cvm_stage}", "value": image.cvm_stage}
    _write_json(annotations / "CVM Stages" / f"{image_id}.json", {"ceph_id": image_id, "cvm_stage": stage})


def _landmark_entries(points_image: Points) -> list[dict[str, Any]]:
    return [
        {
            "landmark_id": f"demo-{number:02d}",
            "title": title,
            "symbol": symbol,
            "value": {"x": float(x), "y": float(y)},
        }
        for number, ((symbol, title), (x, y)) in enumerate(zip(DEMO_LANDMARKS, points_image, strict=True), 1)
    ]


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _read_spec(path: Path) -> Any:
    """Read `demo.json`; None if it is absent or unreadable."""
    try:
        return json.loads((path / SPEC_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _move_into_place(unfinished: Path, path: Path) -> None:
    if path.exists():
        # Renamed away first: on Windows no folder can be replaced by another, not even an empty one.
        outdated = _sibling(path)
        path.replace(outdated)
        unfinished.replace(path)
        shutil.rmtree(outdated, ignore_errors=True)
    else:
        unfinished.replace(path)


def _sibling(path: Path) -> Path:
    """Return an unused hidden path beside `path`, on the same disk, so that moving is atomic."""
    return path.with_name(f".{path.name}-{uuid.uuid4().hex[:12]}")
