"""Recognizes the columns of a table of landmarks, whichever program named them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

SPACING_COLUMNS = ("mm_per_px", "mm_per_px_x", "mm_per_px_y")
_META = ("split", "group", "group_kind", *SPACING_COLUMNS)
# What programs call the column of the image paths, the likeliest first; without blanks, hyphens and
# underscores.
_IMAGE_TITLES = (
    "image",
    "filename",
    "imagepath",
    "filepath",
    "file",
    "path",
    "imagename",
    "imagefile",
    "imagefilename",
    "img",
    "imgname",
    "imgpath",
    "imageid",
)
_SURE_LANDMARK_TITLES = ("landmark", "landmarkname", "keypoint", "bodypart", "point", "pointname")
_LANDMARK_TITLES = (*_SURE_LANDMARK_TITLES, "pointid", "joint", "marker", "roi", "name", "label")
_IMAGE_CURE = f"name the column of the image paths image, or {', '.join(_IMAGE_TITLES[1:6])}"
IMAGEJ_LABEL = "label"  # ImageJ's column of the image, if there is no other
# How a program joins a landmark's name and its axis. A name joined in another way than by _ is only taken
# if the other axis is joined to it in the same way.
_STYLES = (
    re.compile(r"(?P<name>.+)_(?P<axis>[xyXY])"),
    re.compile(r"(?P<name>.+)[. -](?P<axis>[xyXY])"),
    re.compile(r"(?P<axis>[xyXY])[_. -](?P<name>.+)"),
    re.compile(r"(?P<name>.+?) ?[(\[](?P<axis>[xyXY])[)\]]"),
    re.compile(r"(?P<name>.+)(?P<axis>[xyXY])"),
    re.compile(r"(?P<axis>[xyXY])(?P<name>[0-9]+)"),
)
_CORNERS = {"1", "2", "min", "max"}  # x1, y1, x2, y2 alone are a box
_BARE_AXIS = re.compile(r"([xy])(?: ?[(\[](?:px|pixels?)[)\]])?", re.IGNORECASE)
_OF_PREDICTIONS = "_confidence"

Pair = tuple[int, int]  # positions of x and y


@dataclass(frozen=True)
class Columns:
    """The columns of a header: either `points`, a row per image, or `point`, a row per point."""

    titles: tuple[str, ...]  # as written
    named: dict[str, int]  # image, landmark, split, group, group_kind, mm_per_px ... -> position
    points: dict[str, Pair]
    point: Pair | None = None
    faults: tuple[tuple[str, str], ...] = ()  # what, cure: nothing can be read
    ignored: tuple[str, ...] = ()  # titles of columns that are not used
    is_imagej: bool = False  # the image is in ImageJ's Label

    @property
    def is_predicted(self) -> bool:
        """A table with a confidence was written by a network, not by a person."""
        return any(map(_is_confidence, self.titles))

    @property
    def resembles_ours(self) -> bool:
        """Whether it is a table of landmarks, or tries to be: `read` explains what it lacks."""
        axes = {title[-2:].lower() for title in self.titles} & {"_x", "_y"}
        return len(axes) == 2 or ("image" in self.named and bool(self.points or self.point or axes))


def read_columns(titles: Sequence[str]) -> Columns:
    """Recognize the columns; `read` reports faults and ignored columns."""
    named = {title.lower(): k for k, title in reversed(list(enumerate(titles))) if title.lower() in _META}
    images = _find_titled(titles, _IMAGE_TITLES)
    if images:
        named["image"] = images[0]
    fitting = _fit_styles(titles)
    labels = _find_titled(titles, (IMAGEJ_LABEL,))
    is_imagej = bool(labels) and not images
    is_wide = any(style < 3 for style, _, _ in fitting)
    point = None if is_wide or (_has_boxes(titles) and not is_imagej) else _find_point(titles)
    if point:
        if is_imagej:
            named["image"] = labels[0]
        marks = [k for k in _find_titled(titles, _LANDMARK_TITLES) if k != named.get("image")]
        if marks:
            named["landmark"] = marks[0]
        fitting = []
    points, faults = _pair_axes(titles, fitting)
    faults = [*_find_twice(titles), *faults]
    if "image" not in named:
        faults.append(("no column image", _IMAGE_CURE))
    if not (points or point or any("without" in what for what, _ in faults)):
        faults.append(("no landmark: no column <name>_x", "add two columns per landmark"))
    used = {*named.values(), *(k for pair in points.values() for k in pair), *(point or ())}
    ignored = tuple(
        title for k, title in enumerate(titles) if title and k not in used and not _is_confidence(title)
    )
    return Columns(
        titles=tuple(titles),
        named=named,
        points=points,
        point=point,
        faults=tuple(faults),
        ignored=ignored,
        is_imagej=is_imagej and point is not None,
    )


def _fit_styles(titles: Sequence[str]) -> list[tuple[int, str, str]]:
    """Find style, name and title of each landmark's column; the first style that both axes share counts."""
    fits: dict[str, list[tuple[int, str, str]]] = {}
    for title in dict.fromkeys(titles):
        if title.lower() in _META:
            continue
        for style, pattern in enumerate(_STYLES):
            if match := pattern.fullmatch(title):
                fits.setdefault(title, []).append((style, match["name"], match["axis"].lower()))
    every = {fit for title_fits in fits.values() for fit in title_fits}
    columns = []
    for title, title_fits in fits.items():
        for style, name, axis in title_fits:
            if (style, name, "y" if axis == "x" else "x") in every:
                columns.append((style, name, title))
                break
        else:
            if title_fits[0][0] == 0:
                columns.append((0, title_fits[0][1], title))
    is_box = all(style > 0 and name in _CORNERS for style, name, _ in columns)
    return [] if is_box else columns


def _pair_axes(
    titles: Sequence[str], fitting: Sequence[tuple[int, str, str]]
) -> tuple[dict[str, Pair], list[tuple[str, str]]]:
    """Map each landmark to the positions of x and y, in the order of x; return also what is wrong."""
    places: dict[str, dict[str, list[int]]] = {}
    for style, name, title in fitting:
        match = _STYLES[style].fullmatch(title)
        assert match is not None, "the title was found by this style"
        places.setdefault(name, {}).setdefault(match["axis"].lower(), []).append(titles.index(title))
    faults = []
    for axis, missing in ("xy", "yx"):
        unpaired = [name for name, axes in places.items() if axis in axes and missing not in axes]
        if unpaired:
            what = f"landmark {', '.join(unpaired)} has {axis} without {missing}"
            faults.append((what, f"add the column <name>_{missing}"))
    both = {name: axes for name, axes in places.items() if len(axes) == 2}
    twice = [name for name, axes in both.items() if max(map(len, axes.values())) > 1]
    if twice:
        faults.append((f"landmark {', '.join(twice)} is there twice", "keep one of them"))
    return {name: (axes["x"][0], axes["y"][0]) for name, axes in both.items()}, faults


def _find_twice(titles: Sequence[str]) -> list[tuple[str, str]]:
    ours = {*_META, "image"}
    counts = Counter(title.lower() if title.lower() in ours else title for title in titles)
    twice = [title for title, times in counts.items() if times > 1 and title]
    return [(f"column {', '.join(twice)} is there twice", "keep one of them")] if twice else []


def _find_titled(titles: Sequence[str], known_titles: Sequence[str]) -> list[int]:
    """List the positions of the columns that have one of the known titles, likeliest title first."""
    bare_titles = [re.sub(r"[ _-]", "", title).lower() for title in titles]
    return [k for known in known_titles for k, bare in enumerate(bare_titles) if bare == known]


def _find_point(titles: Sequence[str]) -> Pair | None:
    axes = {match[1].lower(): k for k, title in enumerate(titles) if (match := _BARE_AXIS.fullmatch(title))}
    return (axes["x"], axes["y"]) if len(axes) == 2 else None


def _has_boxes(titles: Sequence[str]) -> bool:
    """Whether x and y are the corner of a box: its sides are beside them, and no column names landmarks."""
    lower = {title.lower() for title in titles}
    has_sides = {"w", "h"} <= lower or {"width", "height"} <= lower
    return has_sides and not _find_titled(titles, _SURE_LANDMARK_TITLES)


def _is_confidence(title: str) -> bool:
    return title.lower().endswith(_OF_PREDICTIONS)
