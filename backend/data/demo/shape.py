"""The head behind the synthetic cephalograms: a template in mm, its modes of variation, and the warp.

Frame `_mm`: millimeters from the center of the sella turcica, x forwards (the face looks right), y down, the
Frankfort plane level.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]  # (P, 2), x and y

# Steiner's and Ricketts' norms of an adult, roughly: SN 70 mm, SNA 82, SNB 80, mandibular plane 25 degrees to
# the Frankfort plane, upper incisor 110 to it, overjet 2.5 mm, overbite 2 mm.
LANDMARKS_MM: dict[str, tuple[float, float]] = {
    "A": (68.2, 48.0),
    "ANS": (72.6, 41.5),
    "B": (63.8, 86.5),
    "Me": (57.0, 107.3),
    "N": (69.5, -8.0),
    "Or": (57.0, 20.5),
    "Pog": (66.2, 97.5),
    "PNS": (19.0, 41.0),
    "Pn": (98.0, 36.5),
    "R": (-10.0, 54.0),  # deepest place of the posterior border of the ramus
    "S": (0.0, 0.0),
    "Ar": (-16.0, 31.0),
    "Co": (-12.2, 23.0),
    "Gn": (63.4, 104.0),
    "Go": (-8.5, 77.0),
    "Po": (-25.0, 20.5),
    "LPM": (50.5, 67.6),
    "LIT": (71.0, 69.2),
    "LMT": (43.5, 66.6),
    "UPM": (47.5, 69.3),
    "UIA": (65.3, 50.0),
    "UIT": (73.6, 71.2),
    "UMT": (40.5, 68.2),
    "LIA": (60.3, 87.0),
    "Li": (84.6, 77.0),
    "Ls": (87.0, 63.5),
    "N`": (75.8, -7.0),
    "Pog`": (77.5, 98.5),
    "Sn": (82.6, 48.5),
}

# Places that no reader marks but that must move with the modes: vault, neck, chin and lips.
AUXILIARY_MM: dict[str, tuple[float, float]] = {
    "forehead": (76.5, -36.0),
    "vertex": (-10.0, -101.0),
    "occiput": (-95.0, -12.0),
    "inion": (-72.0, 36.0),
    "basion": (-27.0, 36.0),
    "axis": (-20.0, 72.0),
    "spine": (-34.0, 125.0),
    "throat": (30.0, 119.0),
    "submental": (60.0, 116.5),
    "upper_crest": (71.3, 58.0),
    "lower_crest": (68.2, 78.5),
}

CONTROL_NAMES: tuple[str, ...] = (*LANDMARKS_MM, *AUXILIARY_MM)
CONTROL_MM: Points = np.array([*LANDMARKS_MM.values(), *AUXILIARY_MM.values()])

_CHIN = ("Pog", "Gn", "Me", "Pog`", "submental")
_LOWER_TEETH = ("LIT", "LIA", "LPM", "LMT", "lower_crest")
_UPPER_TEETH = ("UIT", "UIA", "UPM", "UMT", "upper_crest")


def _mode(*parts: tuple[Sequence[str], float, float]) -> dict[str, tuple[float, float]]:
    """Return the displacement (mm) of the named points at one standard deviation; later parts override."""
    return {name: (dx, dy) for names, dx, dy in parts for name in names}


# One entry per mode: what moves, in mm, at one standard deviation. Size is a mode of its own in
# `sample_head`.
_MODES: dict[str, dict[str, tuple[float, float]]] = {
    "lower face height": _mode(
        ((*_CHIN, "B", "LIA"), -0.4, 3.4),
        (("LIT", "LPM", "LMT", "lower_crest", "Li"), 0.0, 2.2),
        (("UIT", "UPM", "UMT", "Ls"), 0.0, 1.9),
        (("UIA", "upper_crest", "Go", "throat"), 0.0, 1.2),
    ),
    "mandibular plane": _mode(
        (("Go",), 0.4, -2.6),
        (("R",), 0.3, -1.0),
        (_CHIN, -2.0, 1.6),
        (("B", "LIA"), -1.4, 1.2),
        (("Li",), -0.7, 0.6),
    ),
    "class II to III": _mode(
        ((*_CHIN, "B"), 3.6, 0.3),
        (("LIA",), 3.0, 0.2),
        (("LIT", "LPM", "LMT", "lower_crest"), 1.9, 0.0),
        (("Li", "throat"), 2.3, 0.0),
        (("Go", "R", "Ar", "Co"), 0.7, 0.0),
    ),
    "maxillary depth": _mode(
        (("A", "ANS", "upper_crest"), 2.2, 0.0),
        (("UIA", "UIT", "Sn", "Ls"), 2.0, 0.0),
        (("UPM", "UMT", "PNS"), 1.2, 0.0),
        (("LIT", "LPM", "LMT", "Li", "Pn"), 1.0, 0.0),
        (("Or",), 0.8, 0.0),
    ),
    "upper incisor inclination": _mode(
        (("UIT",), 1.7, -0.4), (("UIA",), -0.9, 0.0), (("upper_crest", "Ls"), 0.9, 0.0)
    ),
    "lower incisor inclination": _mode(
        (("LIT",), 1.2, 0.3), (("LIA",), -0.7, 0.0), (("lower_crest", "Li"), 0.7, 0.0)
    ),
    "overbite": _mode((("LIT",), 0.0, -1.2), (("UIT",), 0.0, 0.5)),
    "occlusal plane": _mode((("UMT", "LMT"), 0.0, 1.3), (("UPM", "LPM"), 0.0, 0.7)),
    "nose length": _mode((("Pn",), 3.2, 0.8), (("Sn",), 0.5, 0.4), (("N`",), 0.4, 0.0)),
    "nose height": _mode((("Pn",), 0.3, -2.2), (("Sn",), 0.2, -0.9)),
    "lip fullness": _mode((("Ls",), 1.8, 0.3), (("Li",), 1.9, -0.1), (("Sn",), 0.4, 0.0)),
    "chin": _mode(
        (("Pog",), 1.3, -0.4), (("Pog`",), 1.9, -0.3), (("Gn",), 0.5, 0.3), (("submental",), 0.8, 1)
    ),
    "anterior cranial base": _mode((("N", "N`", "forehead"), 2.4, -0.5), (("Or",), 0.8, 0.2)),
    "cranial base flexure": _mode(
        (("Ar", "Co", "Po"), -2.2, 1.3),
        (("Go", "R", "basion"), -1.8, 1.2),
        (("axis", "spine"), -1.5, 0.8),
    ),
    "ramus height": _mode((("Go",), 0.3, 3.0), (("R",), 0.2, 1.7), (("throat",), 0.0, 1.0)),
    "upper face height": _mode(
        (("A", "ANS", "PNS", "Sn", "Pn"), 0.0, 1.7),
        ((*_UPPER_TEETH, *_LOWER_TEETH, "Ls", "Li"), 0.0, 1.6),
        ((*_CHIN, "B"), 0.0, 1.6),
        (("Or",), 0.0, 0.8),
    ),
    "vault height": _mode((("vertex",), 0.0, -4.0), (("forehead",), 0.8, -1.0)),
    "vault length": _mode((("occiput", "inion"), -4.0, 0.0)),
    "forehead": _mode((("forehead",), 2.2, 0.0)),
    "neck": _mode((("spine",), 6.0, 0.0), (("axis",), 1.5, 0.0)),
}
# (M, P, 2)
_MODE_ARRAY = np.array(
    [[mode.get(name, (0.0, 0.0)) for name in CONTROL_NAMES] for mode in _MODES.values()], dtype=float
)

_MAX_SCORE_SD = 2.2  # beyond, outlines would cross
_SIZE_SD = 0.045
_LOCAL_SD_MM = 0.55
_TILT_SD_DEGREES = 4.5


@dataclass(frozen=True)
class Head:
    """One patient: the template's control points as they are before the head is posed in the picture.

    `control_mm` is (P, 2) in the order of CONTROL_NAMES, `tilt_degrees` turns the nose down, `cvm_stage` runs
    from 1 to 6 and sets the shape of the cervical vertebrae.
    """

    control_mm: Points
    tilt_degrees: float
    cvm_stage: int

    @property
    def landmarks_mm(self) -> Points:
        """The landmarks (29, 2) in the order of LANDMARKS_MM."""
        return self.control_mm[: len(LANDMARKS_MM)]


def sample_head(rng: np.random.Generator) -> Head:
    """Sample a patient: independent modes, a size, a little local noise, a tilt of the head."""
    scores = np.clip(rng.standard_normal(len(_MODE_ARRAY)), -_MAX_SCORE_SD, _MAX_SCORE_SD)
    local_mm = _LOCAL_SD_MM * np.clip(rng.standard_normal(CONTROL_MM.shape), -2.0, 2.0)
    local_mm[CONTROL_NAMES.index("S")] = 0.0
    cvm_stage = int(rng.integers(1, 7))
    # Young vertebrae come with small heads.
    size = 1.0 + 0.012 * (cvm_stage - 4) + _SIZE_SD * float(np.clip(rng.standard_normal(), -2.0, 2.0))
    control_mm = size * (CONTROL_MM + np.tensordot(scores, _MODE_ARRAY, axes=1) + local_mm)
    tilt_degrees = _TILT_SD_DEGREES * float(np.clip(rng.standard_normal(), -2.0, 2.0))
    return Head(control_mm, tilt_degrees, cvm_stage)


class Warp:
    """A smooth map from the template to the patient, exact at the control points.

    A polyharmonic spline with the kernel r plus an affine part: it does not overshoot between neighbouring
    control points as the thin-plate kernel does.
    """

    def __init__(self, target_mm: Points) -> None:
        num_points = len(CONTROL_MM)
        affine = np.column_stack([np.ones(num_points), CONTROL_MM])
        system = np.zeros((num_points + 3, num_points + 3))
        system[:num_points, :num_points] = _distances(CONTROL_MM, CONTROL_MM)
        system[:num_points, num_points:] = affine
        system[num_points:, :num_points] = affine.T
        self._weights = np.linalg.solve(system, np.vstack([target_mm, np.zeros((3, 2))]))

    def __call__(self, template_mm: npt.ArrayLike) -> Points:
        """Map (P, 2) in the template's mm to (P, 2) in the patient's mm."""
        points = np.asarray(template_mm, dtype=float)
        basis = np.column_stack([_distances(points, CONTROL_MM), np.ones(len(points)), points])
        warped: Points = basis @ self._weights
        return warped


def _distances(first: Points, second: Points) -> Points:
    distances: Points = np.linalg.norm(first[:, None] - second[None], axis=2)
    return distances


def smooth_curve(points: npt.ArrayLike, *, closed: bool = False, num_between: int = 8) -> Points:
    """Sample a cubic Hermite spline through every point of (P, 2), `num_between` times per span."""
    knots = np.asarray(points, dtype=float)
    if closed:
        padded = np.vstack([knots[-1:], knots, knots[:2]])
    else:
        padded = np.vstack([2 * knots[:1] - knots[1:2], knots, 2 * knots[-1:] - knots[-2:-1]])
    before, start, end, after = padded[:-3], padded[1:-2], padded[2:-1], padded[3:]
    # Tangents scaled by the shorter neighbouring span: long spans beside short ones would overshoot.
    span = np.linalg.norm(end - start, axis=1, keepdims=True)
    start_tangent = _tangent(before, start, end) * span
    end_tangent = _tangent(start, end, after) * span
    t = np.linspace(0.0, 1.0, num_between, endpoint=False)[None, :, None]
    start, end, start_tangent, end_tangent = (
        part[:, None] for part in (start, end, start_tangent, end_tangent)
    )
    curve = (
        (2 * t**3 - 3 * t**2 + 1) * start
        + (t**3 - 2 * t**2 + t) * start_tangent
        + (3 * t**2 - 2 * t**3) * end
        + (t**3 - t**2) * end_tangent
    ).reshape(-1, 2)
    return curve if closed else np.vstack([curve, knots[-1:]])


def _tangent(before: Points, here: Points, after: Points) -> Points:
    """Return the direction of the curve at `here`, of length about one: the nearer neighbor counts more."""
    to_here, to_after = here - before, after - here
    first = np.maximum(np.linalg.norm(to_here, axis=1, keepdims=True), 1e-9)
    second = np.maximum(np.linalg.norm(to_after, axis=1, keepdims=True), 1e-9)
    tangent: Points = (to_here / first * second + to_after / second * first) / (first + second)
    return tangent


def named_points(control_mm: Points) -> Mapping[str, Points]:
    """Map names to the rows (2,) of `control_mm`."""
    return dict(zip(CONTROL_NAMES, control_mm, strict=True))
