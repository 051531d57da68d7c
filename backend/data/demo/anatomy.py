"""The structures of the synthetic cephalograms: each landmark is on one of them.

Coordinates are the template's millimeters (see `backend.data.demo.shape`), or the names of landmarks;
densities are relative to a soft tissue of about 0.2 and enamel of about 1.
"""

from __future__ import annotations

import numpy as np

from backend.data.demo.film import Film
from backend.data.demo.shape import Head, Points, named_points, smooth_curve
from backend.data.demo.teeth import draw_teeth

_NUM_CERVICAL_BODIES = 4  # below the axis
_FAR_SIDE_MM = np.array([-1.6, -1.1])  # the side nearer to the tube throws a larger shadow


def draw_head(film: Film, head: Head, rng: np.random.Generator) -> None:
    """Draw all structures of one patient."""
    named = named_points(head.control_mm)
    draw_soft_tissue(film)
    draw_vault(film)
    draw_cranial_base(film)
    draw_ear(film, named["Po"])
    draw_orbit(film)
    draw_maxilla(film)
    draw_septa(film, rng)
    draw_airway(film)
    draw_vertebrae(film, named["axis"], named["spine"], head.cvm_stage)
    draw_mandible(film)
    draw_teeth(film, named)


def draw_soft_tissue(film: Film) -> None:
    # fmt: off
    profile = film.curve(
        (80.5, -19), (82.5, -36), (77, -63), (57, -89), (27, -104), (-11, -108), (-49, -101), (-82, -79),
        (-99, -46), (-103, -12), (-97, 24), (-88, 46), (-80, 70), (-80, 105), (-92, 140), (-120, 190),
        (40, 190), (22, 150), (27, 128), (36, 119.5), (50, 117), (62, 116.5), (71, 111.5), (76, 105),
        "Pog`", (76.3, 92.5), (75.2, 87.5), (77.6, 83.5), (82.3, 81), "Li", (82.8, 73.2), (78.6, 70.8),
        (82.6, 68.8), "Ls", (84.9, 59), (82.6, 54), "Sn", (86.5, 46.2), (92, 44.5), (96.3, 41.5), "Pn",
        (96.2, 31.5), (91.5, 22), (85.5, 10), (79.8, 0.5), "N`", (77.6, -13), closed=True,
    )
    # fmt: on
    film.fill(profile, 0.105)
    film.fill(profile, 0.07, blur_mm=5.0)
    film.stroke(profile, 0.035, width_mm=1.2, blur_mm=0.4, closed=True)
    # The cheeks: thicker soft tissue over the jaws.
    film.fill(
        film.curve((-5, 25), (55, 25), (66, 50), (64, 100), (20, 105), (-5, 80), closed=True),
        0.10,
        blur_mm=7.0,
    )
    film.fill(
        film.curve((77, 12), (88, 24), (93, 36), (91, 43), (84, 42), (80, 34), closed=True), 0.05, blur_mm=2.0
    )
    for lip in (
        ((79, 70), (83, 69), "Ls", (83, 58), (78, 56)),
        ((78, 72), (82, 74), "Li", (80, 82), (74, 84)),
    ):
        film.fill(film.curve(*lip, closed=True), 0.06, blur_mm=1.2)


def draw_vault(film: Film) -> None:
    # fmt: off
    outer = film.curve(
        "N", (72.8, -12), (75.6, -18), (76.8, -26), (76.5, -36), (71, -60), (53, -83), (25, -97), (-10, -101),
        (-46, -94), (-75, -73), (-91, -44), (-95, -12), (-89, 15), (-72, 36), (-56, 45), (-41, 45), (-27, 36),
    )
    inner = film.curve(
        (62, -12), (66.5, -19), (70, -28), (70.5, -40), (65, -59), (49, -78), (23, -91), (-10, -94.5),
        (-43, -88), (-70, -69), (-85, -42), (-88.5, -12), (-82, 11), (-66, 31), (-52, 39), (-38, 40),
    )
    # fmt: on
    base = film.curve(
        (-27, 36),
        (-17, 18),
        (-9, -3),
        (-5, -4),
        (-4, 3),
        (0, 4.8),
        (4.2, 2.5),
        (7, -6.5),
        (30, -7),
        (48, -12),
        (62, -11),
    )
    film.fill(np.vstack([outer, base]), 0.24)
    film.fill(np.vstack([inner, base]), 0.12, blur_mm=2.5)
    # The vault is thickest, along the ray, over its middle and back.
    film.fill(
        film.curve((40, -60), (0, -85), (-50, -70), (-72, -25), (-50, 20), (0, -15), closed=True),
        0.20,
        blur_mm=20.0,
    )
    ring = np.vstack([outer, inner[::-1]])
    film.fill(ring, 0.17, blur_mm=0.6)
    film.stroke(outer, 0.28, width_mm=1.3, blur_mm=0.35)
    film.stroke(inner, 0.26, width_mm=1.1, blur_mm=0.4)
    coronal = film.curve((12, -97), (9, -80), (14, -62), (11, -45), (19, -25))
    film.stroke(coronal, 0.07, width_mm=0.9, blur_mm=0.5)
    lambdoid = film.curve((-83, -58), (-73, -40), (-70, -22), (-60, -6), (-52, 8))
    film.stroke(lambdoid, 0.07, width_mm=1.0, blur_mm=0.5)
    # Frontal sinus behind the glabella.
    sinus = film.curve((69, -12), (72.8, -18), (73.6, -27), (71.5, -33), (69.5, -25), (66, -15), closed=True)
    film.fill(sinus, -0.26, blur_mm=0.5)
    film.stroke(sinus, 0.10, width_mm=0.7, closed=True)


def draw_cranial_base(film: Film) -> None:
    # fmt: off
    sella = film.curve(
        (62, -7), (42, -7.5), (22, -8), (11, -7.5), (7.2, -7.2), (4.6, -5), (5.2, -1.5), (4.4, 2.6),
        (1.5, 4.9), (-1.8, 4.8), (-4.4, 2.6), (-5.3, -1.5), (-5.0, -5.5), (-7, -7.8), (-9.2, -6.3), (-10, -1),
        (-14, 10), (-21, 25), (-27, 36),
    )
    body = film.curve(
        (8, -6), (5.5, 2), (1, 5.8), (-5, 4), (-8, -5), (-15, 10), (-27, 36), (-17, 33), (-8, 24), (6, 20),
        (20, 16), (22, -4), closed=True,
    )
    # fmt: on
    film.fill(body, 0.20, blur_mm=1.5)
    sinus = film.curve((8, 1), (18, -1), (24, 6), (20, 14), (9, 14), (3, 10), closed=True)
    film.fill(sinus, -0.22, blur_mm=0.7)
    film.stroke(sinus, 0.10, width_mm=0.7, closed=True)
    film.stroke(sella, 0.48, width_mm=1.1, blur_mm=0.3)
    film.stroke(film.curve((-5, 4.5), (0, 6.2), (5, 3.8)), 0.18, width_mm=1.4, blur_mm=0.5)
    # Lower side of the skull base, as far as the ramus that it crosses at articulare.
    film.stroke(film.curve((-27, 36), "Ar", (-9, 25.5), (2, 21.5), (14, 18)), 0.34, width_mm=1.0)
    for roof in (
        ((67, -12), (58, -17), (45, -18.5), (30, -14.5), (17, -9.5), (6, -8.8)),
        ((66, -10), (57, -14), (44, -15.5), (29, -12), (16, -8.5)),
    ):
        film.stroke(film.curve(*roof), 0.26, width_mm=0.9, blur_mm=0.35)
    film.stroke(film.curve((24, -13), (19, -4), (17.5, 8), (21, 20), (24, 27)), 0.26, width_mm=0.9)
    film.stroke(film.curve((22, -11), (16.5, -3), (15.3, 9), (19, 21)), 0.14, width_mm=0.8)
    _draw_pterygomaxillary_fissure(film)


def _draw_pterygomaxillary_fissure(film: Film) -> None:
    """Draw the dark teardrop whose tip points at the posterior nasal spine."""
    drop = film.curve((22, 18), (25, 22), (23.5, 30), (19.8, 39), (18.8, 30), (19, 21), closed=True)
    film.fill(drop, -0.14, blur_mm=0.4)
    film.stroke(drop, 0.16, width_mm=0.7, closed=True)


def draw_ear(film: Film, porion_mm: Points) -> None:
    # fmt: off
    petrous = film.curve(
        (-9, 8), (-19, 4), (-31, 9), (-41, 17), (-46, 28), (-40, 36), (-30, 36), (-20, 29),
        (-12, 18), closed=True,
    )
    mastoid = film.curve((-36, 18), (-48, 20), (-52, 32), (-44, 48), (-37, 51), (-32, 40), closed=True)
    # fmt: on
    film.fill(petrous, 0.30, blur_mm=4.0)
    film.fill(petrous, 0.12, blur_mm=1.2)
    film.fill(mastoid, 0.14, blur_mm=1.8)
    film.stroke(
        film.curve((-10, 5), (-19, 1.5), (-31, 6), (-41, 14), (-52, 17)), 0.20, width_mm=1.0, blur_mm=0.5
    )
    for x, y in ((-41, 24), (-46, 29), (-40, 31), (-44, 37), (-38, 39), (-41, 44), (-48, 23)):
        cell = film.curve((x - 1.7, y), (x, y - 1.5), (x + 1.8, y), (x, y + 1.7), closed=True)
        film.fill(cell, -0.15, blur_mm=0.5)
    _draw_ear_rod(film, porion_mm)


def _draw_ear_rod(film: Film, porion_mm: Points) -> None:
    """Draw the meatus with the ring of the ear rod in it; porion is the top of both."""
    radius_mm = 4.6
    angles = np.linspace(0.0, 2 * np.pi, 48, endpoint=False)
    ring = np.column_stack([np.cos(angles), np.sin(angles)])
    centre = porion_mm + np.array([0.0, radius_mm])
    film.fill(centre + radius_mm * ring, -0.24, blur_mm=0.4)
    film.stroke(centre + radius_mm * ring, 0.62, width_mm=1.0, closed=True)
    film.stroke(centre + 0.45 * radius_mm * ring, 0.25, width_mm=0.7, closed=True)


def draw_orbit(film: Film) -> None:
    # fmt: off
    rim = film.curve(
        (68, -9), (60.5, -9.5), (53.5, -5), (50, 2), (49.6, 10), (51.3, 16), (54, 19.5), "Or", (61, 18.8),
        (64, 15.5), (66, 10),
    )
    zygoma = film.curve(
        (50, 4), (51.5, 15), (57, 21.5), (54, 28), (48, 36), (44.5, 44), (41, 46.5), (38, 43.5), (37.5, 35),
        (41, 24), (46, 12), closed=True,
    )
    # fmt: on
    cavity = film.curve((62, -7), (52, -2), (51, 10), (57, 19), (65, 12), (68, 0), closed=True)
    film.fill(cavity, -0.04, blur_mm=1.0)
    film.stroke(rim, 0.42, width_mm=1.2, blur_mm=0.3)
    film.stroke(rim + 0.7 * _FAR_SIDE_MM, 0.12, width_mm=1.0, blur_mm=0.4)
    film.fill(zygoma, 0.16, blur_mm=0.5)
    film.stroke(
        film.curve((57, 22), (51, 33), (45.5, 43.5), (41, 46.8), (37.6, 43), (37.5, 34)), 0.26, width_mm=1.0
    )
    arch = film.curve(
        (44, 17), (25, 21), (5, 22), (-8, 20), (-10, 17), (6, 17.5), (25, 16), (46, 10), closed=True
    )
    film.fill(arch, 0.08, blur_mm=0.8)
    nasal_bone = film.curve(
        "N", (72.4, -3.5), (78.5, 8), (81, 15), (77.8, 11), (73.2, 3.5), (69, -2), closed=True
    )
    film.fill(nasal_bone, 0.34, blur_mm=0.3)
    film.stroke(film.curve("N", (72.4, -3.5), (78.5, 8), (81, 15)), 0.30, width_mm=0.9)
    film.stroke(film.curve("N", (67.2, -6.3), (65.2, -5.4)), -0.10, width_mm=0.7)


def draw_maxilla(film: Film) -> None:
    # fmt: off
    body = film.curve(
        "ANS", (69.6, 44.3), "A", (69, 52.5), (71.3, 58), (66.5, 59.5), (40, 60.5), (27, 59), (22, 50), "PNS",
        (26, 28), (45, 22), (62, 22), (67, 32), (68.5, 38.5), closed=True,
    )
    palate = film.curve(
        "PNS", (26, 39.4), (40, 39.2), (55, 39.6), (66, 39.5), "ANS", (69.6, 44.3), (64, 45.5), (52, 44.8),
        (38, 43.6), (26, 42.3), closed=True,
    )
    # fmt: on
    film.fill(body, 0.15, blur_mm=0.4)
    sinus = film.curve((28, 24), (45, 23), (57, 26), (60, 36), (52, 46), (36, 47), (27, 40), closed=True)
    film.fill(sinus, -0.14, blur_mm=0.9)
    film.stroke(sinus, 0.10, width_mm=0.8, closed=True)
    film.fill(palate, 0.30, blur_mm=0.3)
    film.stroke(palate, 0.20, width_mm=0.7, closed=True)
    film.stroke(film.curve("ANS", (69.6, 44.3), "A", (69, 52.5), (71.3, 58)), 0.42, width_mm=1.1)
    film.stroke(film.curve((66.5, 63), (62, 55), (54, 49.5), (40, 48), (27, 47.5)), 0.10, width_mm=0.9)
    film.stroke(film.curve((66, 10), (66.5, 22), (66.8, 32), (68.5, 38.5), "ANS"), 0.20, width_mm=0.9)
    for wall in (((30, 2), (34, 14), (33, 24)), ((45, -6), (47, 8), (44, 22)), ((38, -5), (41, 9), (40, 20))):
        film.stroke(film.curve(*wall), 0.10, width_mm=0.9, blur_mm=0.5)
    turbinate = film.curve((34, 32), (48, 29), (60, 32), (56, 37), (40, 37), closed=True)
    film.fill(turbinate, 0.07, blur_mm=1.0)


def draw_septa(film: Film, rng: np.random.Generator) -> None:
    """Draw thin walls of ethmoid, sinuses and mastoid cells, seen through each other, without landmarks."""
    for low, high, number, length_mm, density in (
        ((22, -4), (58, 34), 34, 7.0, 0.075),
        ((-52, 16), (-34, 46), 26, 4.5, 0.10),
        ((-12, 2), (22, 28), 16, 7.0, 0.07),
    ):
        for start in rng.uniform(low, high, (number, 2)):
            steps = np.cumsum(rng.normal(rng.normal(0.0, 0.8, 2), 0.6, (3, 2)), axis=0) * length_mm / 4
            wall = film.curve(*[(float(x), float(y)) for x, y in np.vstack([start, start + steps])])
            film.stroke(wall, density * float(rng.uniform(0.4, 1.3)), width_mm=0.6, blur_mm=0.3)


def draw_airway(film: Film) -> None:
    # fmt: off
    pharynx = film.curve(
        (14, 25), (18, 38), (11, 50), (7, 62), (3, 80), (3, 100), (6, 118), (4, 150), (-8, 150), (-8, 118),
        (-9, 95), (-9, 75), (-8, 55), (-3, 38), (4, 27), closed=True,
    )
    # fmt: on
    film.fill(pharynx, -0.085, blur_mm=1.2)
    velum = film.curve("PNS", (14, 45), (8, 54), (6, 62), (3.5, 63), (3, 57), (8, 46), (14, 40), closed=True)
    film.fill(velum, 0.06, blur_mm=0.8)
    hyoid = film.curve((9, 112), (14, 109), (24, 114), (29, 116), (28.5, 121), (23, 119), closed=True)
    film.fill(hyoid, 0.17, blur_mm=0.5)
    film.stroke(hyoid, 0.10, width_mm=0.7, closed=True)
    tongue = film.curve(
        (16, 62), (30, 50), (50, 52), (63, 62), (62, 74), (50, 88), (25, 95), (12, 85), closed=True
    )
    film.fill(tongue, 0.05, blur_mm=3.0)


def draw_vertebrae(film: Film, axis_mm: Points, spine_mm: Points, cvm_stage: int) -> None:
    """Draw atlas, axis and the bodies below: tall and hollowed if mature (stage 6), flat wedges if young."""
    _draw_atlas_and_axis(film)
    down = (spine_mm - axis_mm) / np.linalg.norm(spine_mm - axis_mm)
    height_mm = 8.2 + 0.85 * cvm_stage
    hollow_mm = 0.35 * cvm_stage
    wedge_mm = 0.55 * (6 - cvm_stage)
    centre = axis_mm + down * (5.5 + height_mm / 2)
    for index in range(_NUM_CERVICAL_BODIES):
        # The neck curves backwards as it goes down.
        angle = np.radians(7.0 * index - 6.0)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        along = turn @ down
        across = np.array([along[1], -along[0]])
        _draw_body(film, centre, along, across, height_mm, hollow_mm, wedge_mm)
        centre = centre + along * (height_mm + 4.2)


def _draw_atlas_and_axis(film: Film) -> None:
    # fmt: off
    axis = film.curve(
        (-20, 42), (-17.5, 44), (-16.8, 53), (-14, 60), (-12.8, 71), (-13.5, 73), (-20, 71.5), (-28, 74),
        (-29, 72), (-28, 62), (-24.5, 54), (-23.2, 44.5), closed=True,
    )
    spinous = film.curve(
        (-28, 62), (-40, 60), (-57, 66), (-62, 72), (-54, 76), (-40, 71), (-29, 71), closed=True,
    )
    posterior_arch = film.curve(
        (-25, 52), (-38, 52), (-52, 49), (-57, 52), (-53, 57), (-40, 56.5), (-27, 57), closed=True,
    )
    anterior_arch = film.curve((-15.8, 45), (-12.5, 46), (-11.3, 50), (-13, 54.5), (-15.6, 53), closed=True)
    # fmt: on
    for part, density in ((axis, 0.24), (spinous, 0.15), (posterior_arch, 0.16), (anterior_arch, 0.22)):
        film.fill(part, density, blur_mm=0.4)
        film.stroke(part, 0.15, width_mm=0.9, blur_mm=0.3, closed=True)


def _draw_body(
    film: Film,
    centre: Points,
    along: Points,
    across: Points,
    height_mm: float,
    hollow_mm: float,
    wedge_mm: float,
) -> None:
    half = height_mm / 2
    # (across: forwards, along: down), mm
    corners = [
        (7, wedge_mm - half),
        (0, 0.6 - half),
        (-7, -half),
        (-6.6, 0),
        (-7, half),
        (0, half - hollow_mm),
    ]
    body = np.array([*corners, (7.3, half + 0.4), (6.6, 0.5)])
    process = np.array([(-6, -half + 2), (-20, 0), (-34, 6), (-38, 10), (-33, 12), (-19, 8), (-6, half - 1)])
    frame = np.array([across, along])
    outline = smooth_curve(centre + _round_corners(body) @ frame, closed=True, num_between=3)
    film.fill(outline, 0.22, blur_mm=0.4)
    film.stroke(outline, 0.17, width_mm=0.9, closed=True)
    spinous = smooth_curve(centre + process @ frame, closed=True)
    film.fill(spinous, 0.11, blur_mm=0.7)
    film.stroke(spinous, 0.07, width_mm=0.9, blur_mm=0.4, closed=True)


def _round_corners(outline: Points) -> Points:
    """Cut a fifth off both ends of every side, so that a spline through the result keeps tight corners."""
    following = np.roll(outline, -1, axis=0)
    cut = np.stack([0.85 * outline + 0.15 * following, 0.15 * outline + 0.85 * following], axis=1)
    rounded: Points = cut.reshape(-1, 2)
    return rounded


def draw_mandible(film: Film) -> None:
    # fmt: off
    lower_border = (
        "Pog", "Gn", (60.6, 106.2), "Me", (51, 105.7), (40, 101.8), (28, 97), (16, 91.3), (5, 86.3),
        (-3.5, 81.6),
    )
    posterior = ("Go", (-10.6, 72), (-11.2, 66), "R", (-12.3, 42), "Ar", (-15.2, 27), "Co")
    upper = (
        (-8.5, 20.6), (-4.5, 21.5), (-3, 25.5), (-2.5, 31), (2.5, 36.5), (9, 36), (14, 30), (18, 25),
        (21.5, 27), (21.5, 36), (19.8, 48), (21, 58), (26, 66), (31, 72.5),
    )
    crest = ((45, 74), (58, 75.5), (66, 79), (68.2, 78.5), (65.4, 82.5), "B", (64.3, 91.5))
    # fmt: on
    outline = film.curve(*lower_border, *posterior, *upper, *crest, closed=True)
    film.fill(outline, 0.23, blur_mm=0.35)
    film.fill(outline + _FAR_SIDE_MM, 0.06, blur_mm=0.5)
    film.stroke(film.curve(*lower_border, *posterior, *upper), 0.27, width_mm=1.3, blur_mm=0.3)
    film.stroke(film.curve(*lower_border, "Go"), 0.20, width_mm=2.0, blur_mm=0.5)
    film.stroke(film.curve(*lower_border[4:], *posterior[:4]) + _FAR_SIDE_MM, 0.08, width_mm=1.0, blur_mm=0.4)
    condyle = film.curve(
        "Co", (-8.5, 20.6), (-4.5, 21.5), (-3, 25.5), (-5.5, 31), (-13, 33), (-15, 27.5), closed=True
    )
    film.fill(condyle, 0.18, blur_mm=0.6)
    oblique = film.curve((21, 56), (27, 68), (38, 80), (50, 86))
    film.stroke(oblique, 0.14, width_mm=1.3, blur_mm=0.6)
    canal = film.curve((6, 52), (8, 66), (16, 80), (30, 89), (46, 94))
    film.stroke(canal, -0.06, width_mm=2.4, blur_mm=0.5)
    _draw_symphysis(film)


def _draw_symphysis(film: Film) -> None:
    labial = film.curve((68.2, 78.5), (65.4, 82.5), "B", (64.3, 91.5), "Pog", "Gn", (60.6, 106.2), "Me")
    lingual = film.curve("Me", (52.4, 104.4), (52.2, 99.5), (54.6, 93), (57.5, 86), (61, 79.5))
    film.fill(np.vstack([labial, lingual]), 0.10, blur_mm=0.5)
    film.stroke(labial, 0.32, width_mm=1.4, blur_mm=0.3)
    film.stroke(lingual, 0.30, width_mm=1.3, blur_mm=0.3)
