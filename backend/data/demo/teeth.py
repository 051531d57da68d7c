"""The teeth of the synthetic cephalograms: rigid outlines set at the cusps, tips and apices of the patient.

Unlike bones they are not warped: a tooth keeps its shape whatever the jaw does.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from backend.data.demo.film import Film
from backend.data.demo.shape import Points, smooth_curve

# Outlines in (distal to mesial, cusp to root) mm with the landmark's cusp at the origin.
# fmt: off
_MOLAR = (
    (-8.8, 3.4), (-8, 0.9), (-6.4, 0.4), (-3.4, 1.7), (-1.2, 0.7), (0, 0), (1.2, 1.4), (1.9, 3.6), (0.9, 7.6),
    (0.7, 14), (-1.1, 19.5), (-2.7, 15), (-3.6, 10.6), (-4.8, 15), (-6.9, 19.0), (-7.6, 14), (-7.8, 7.6),
)
_MOLAR_CROWN = _MOLAR[:9] + _MOLAR[-1:]
_PREMOLAR = (
    (-3.3, 3.2), (-1.6, 1.1), (0, 0), (1.6, 1.1), (3.3, 3.2), (2.5, 7.6), (1.9, 14), (0.2, 20.5), (-1.6, 15),
    (-2.5, 7.6),
)
_PREMOLAR_CROWN = (*_PREMOLAR[:6], _PREMOLAR[-1])
# (lingual to labial, as a share of the tooth's length from the tip to the apex)
_INCISOR = (
    (0, 0), (0.9, 0.03), (1.9, 0.16), (2.7, 0.33), (3.0, 0.45), (2.5, 0.68), (1.4, 0.9), (0, 1.0),
    (-1.4, 0.9), (-2.6, 0.68), (-3.1, 0.45), (-2.9, 0.32), (-1.3, 0.16), (-0.8, 0.03),
)
_INCISOR_CROWN = (*_INCISOR[:5], *_INCISOR[-4:])
# fmt: on


def draw_teeth(film: Film, named: Mapping[str, Points]) -> None:
    draw_row(film, named["UMT"], named["UPM"], named["UIT"], up=-1.0)
    draw_row(film, named["LMT"], named["LPM"], named["LIT"], up=1.0)
    draw_incisor(film, named["UIT"], named["UIA"], width=1.0)
    draw_incisor(film, named["LIT"], named["LIA"], width=0.82)


def draw_row(film: Film, molar: Points, premolar: Points, incisor: Points, *, up: float) -> None:
    """Draw the side teeth of one jaw; `up` is the sign of y from cusps to roots (-1 in the upper jaw)."""
    forwards = (incisor - molar) / np.linalg.norm(incisor - molar)
    frame = np.array([forwards, up * np.array([-forwards[1], forwards[0]])])
    _draw_tooth(film, molar, frame, _MOLAR, _MOLAR_CROWN, 1.0)
    _draw_tooth(film, molar - 10.6 * forwards, frame, _MOLAR, _MOLAR_CROWN, 0.9)
    _draw_tooth(film, premolar, frame, _PREMOLAR, _PREMOLAR_CROWN, 1.0)
    for share, scale in ((0.31, 1.0), (0.62, 1.12)):
        place = premolar + share * (incisor - premolar)
        _draw_tooth(film, place, frame, _PREMOLAR, _PREMOLAR_CROWN, 0.55 * scale, scale)


def _draw_tooth(
    film: Film,
    cusp: Points,
    frame: Points,
    tooth: tuple[tuple[float, float], ...],
    crown: tuple[tuple[float, float], ...],
    strength: float,
    scale: float = 1.0,
) -> None:
    outline = smooth_curve(cusp + scale * np.array(tooth) @ frame, closed=True, num_between=5)
    film.fill(outline, 0.26 * strength, blur_mm=0.25)
    film.stroke(outline, 0.08 * strength, width_mm=0.6, blur_mm=0.2, closed=True)
    film.fill(
        smooth_curve(cusp + scale * np.array(crown) @ frame, closed=True, num_between=5), 0.34 * strength
    )
    pulp = scale * np.array([(-0.5, 5.0), (0.5, 5.0), (0.2, 13.0), (-0.4, 13.0)])
    film.fill(cusp + pulp @ frame, -0.10 * strength)


def draw_incisor(film: Film, tip: Points, apex: Points, *, width: float) -> None:
    axis = apex - tip
    length = float(np.linalg.norm(axis))
    # Labial is forwards whichever way the root points.
    labial = np.array([axis[1], -axis[0]]) / length
    labial = labial * np.sign(labial[0])
    frame = np.array([width * labial, axis])
    film.fill(smooth_curve(tip + np.array(_INCISOR) @ frame, closed=True, num_between=6), 0.42, blur_mm=0.2)
    film.stroke(smooth_curve(tip + np.array(_INCISOR) @ frame, closed=True), 0.14, width_mm=0.6, closed=True)
    film.fill(
        smooth_curve(tip + np.array(_INCISOR_CROWN) @ frame, closed=True, num_between=6), 0.42, blur_mm=0.2
    )
    pulp = np.array([(-0.5, 0.3), (0.5, 0.3), (0.25, 0.85), (-0.25, 0.85)])
    film.fill(tip + pulp @ frame, -0.14)
