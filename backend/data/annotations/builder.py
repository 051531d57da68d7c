"""Builds `Annotations` from what a format reads, with the checks that all formats share.

An image exists and can be read, ids are unique, landmarks are inside their image, numbers are finite.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from backend.data.annotations.collected import Collected, settle
from backend.data.annotations.image_names import (
    Found,
    Wanted,
    find_images,
    leads_outside,
    list_images,
    stem_of,
)
from backend.data.annotations.orientation import MarkedImage
from backend.data.annotations.table import IMAGE_COLUMNS, Annotations, GroupKind, Problem
from backend.data.image_facts import compare_spacings
from backend.data.images import IMAGE_SUFFIXES, read_image_facts, read_image_frame
from backend.errors import UserError
from backend.numbers import read_number

UNKNOWN_SPACING = (math.nan, math.nan)
MAX_NEAR_NAMES = 5  # of one kind that are reported one by one

_DTYPES = {
    "image_id": "str",
    "path": "str",
    "split": "str",
    "group": "str",
    "group_kind": "str",
    "mm_per_px_x": "float64",
    "mm_per_px_y": "float64",
    "height": "int64",
    "width": "int64",
}


class AnnotationsBuilder:
    """Collects images, points and problems; `finish` judges them as a set and makes `Annotations` of them.

    As the `read` of a format does it, here for a file points.txt with `image x y` on each line, pixels:

        def read(path: Path) -> Annotations:
            file = path / "points.txt"
            if not file.is_file():
                raise UserError(f"no points.txt in {path}", field="dataset_path", cure="give its folder")
            builder = AnnotationsBuilder("dummy", path, ("tip",), ("annotator",))
            rows = [line.split() for line in file.read_text(encoding="utf-8").splitlines()]
            # all names at once: which file is meant may depend on the other names
            found = builder.find_images(Wanted.of(name, builder.root) for name, _, _ in rows)
            for number, (name, x_text, y_text) in enumerate(rows, start=1):
                where = f"points.txt line {number}"
                wanted = Wanted.of(name, builder.root)
                image = builder.accept(where, wanted, found[wanted])
                if image is None:
                    continue  # it is missing, which is now among the problems
                points = builder.empty_points()
                points[0, 0] = builder.parse_point(x_text, y_text, where, where)
                builder.add_image(name, image, points, split="train", where=where)
            return builder.finish("convert to wide CSV with a column mm_per_px if it is known")
    """

    def __init__(
        self,
        format: str,
        root: Path,
        landmark_names: tuple[str, ...] = (),
        reader_names: tuple[str, ...] = (),
    ) -> None:
        self.format = format
        self.root = root.absolute()
        self.landmark_names = landmark_names
        self.reader_names = reader_names
        self._images: list[Collected] = []
        self._problems: list[Problem] = []
        self._first_seen: dict[str, str] = {}
        self._image_of: dict[str, Path] = {}
        self._near: dict[str, tuple[Wanted, Found]] = {}  # by the place of the annotation
        self._outside: list[str] = []

    def report(self, where: str | Path, what: str, cure: str, *, fatal: bool = False) -> None:
        """Note a problem; a path is shown relative to the data set."""
        if isinstance(where, Path):
            where = self.relative(where)
        self._problems.append(Problem(where, what, cure, fatal))

    def relative(self, path: Path) -> str:
        path = path.absolute()
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)

    def link_image(self, where: str | Path, image: Path) -> None:
        """Problems at this place (a file, or a line of one), or at a place within it, are about an image."""
        self._image_of[where if isinstance(where, str) else self.relative(where)] = image.absolute()

    def find_images(self, wanted: Iterable[Wanted]) -> dict[Wanted, Found]:
        """The files of all images that the data set's annotations name; `accept` takes them one by one."""
        return find_images(wanted, self.relative)

    def accept(self, where: str | Path, wanted: Wanted, found: Found) -> Path | None:
        """The file of an annotation's image, or None after reporting why there is none.

        A file whose name is only nearly that of the annotation is reported by `finish`.
        """
        where = where if isinstance(where, str) else self.relative(where)
        if leads_outside(wanted, found, self.root):
            self._outside.append(f"{where}: {wanted.name}")
        if found.path is None:
            is_named = wanted.is_stem or repr(wanted.name) in where
            image = "the image" if is_named else f"image {wanted.name}"
            if found.candidates:
                cure = "write its path as it is below the data set's folder"
                self.report(where, f"{image} {found.why}; it is left out", cure)
            else:
                self.report(where, f"{image} {found.why}", "add the image or remove its annotation")
        elif found.differs:
            self._near[where] = wanted, found
        return found.path

    def _report_near_names(self) -> None:
        """Images of nearly the same names: one by one, or as a summary where many differ in the same way."""
        alike: dict[str, dict[Path, tuple[str, str]]] = defaultdict(dict)
        for where, (wanted, found) in self._near.items():
            assert found.path is not None
            names = f"{wanted.name} is not there: {self.relative(found.path)}"
            alike[found.kind].setdefault(found.path, (where, names))
        cure = "check that these images were annotated, and write their names as they are"
        for kind, named in alike.items():
            if len(named) <= MAX_NEAR_NAMES:
                for where, names in named.values():
                    self.report(where, f"image {names} was taken ({kind})", cure)
            else:
                listed = "; ".join(names for _, names in list(named.values())[:2])
                self.report(
                    self.root.name,
                    f"{len(named)} images were taken by nearly the same names ({kind}): {listed}; and so on",
                    cure,
                )

    def empty_points(self) -> npt.NDArray[np.float64]:
        """(R, K, 2), all missing."""
        return np.full((len(self.reader_names), len(self.landmark_names), 2), np.nan)

    def add_image(
        self,
        image_id: str,
        path: Path,
        points_xy_image: npt.NDArray[np.float64],
        *,
        split: str,
        group: str = "",
        group_kind: GroupKind | None = None,
        mm_per_px_xy: tuple[float, float] = UNKNOWN_SPACING,
        written_hw: tuple[float, float] | None = None,
        where: str = "",
    ) -> None:
        """Take in one image and its (R, K, 2) points, or report why it is left out.

        A `group` has a `group_kind`. Where the annotation gives no pixel size, that of the image file itself
        counts, if it states one (DICOM); where both do and differ, and what of the file was ignored, is
        reported. `written_hw` is the image's size by its annotation, px, where that states one. `where` names
        the line that asks for the image, the image itself if "".
        """
        assert not group or group_kind, "a group is of a kind"
        where = where or self.relative(path)
        if image_id in self._first_seen:
            self.report(
                where,
                f"image id {image_id!r} is taken by {self._first_seen[image_id]}; this one is left out",
                "keep one of the two or rename it",
            )
            return
        self.link_image(where, path)
        try:
            frame = read_image_frame(path)
            facts = read_image_facts(path)
        except UserError as error:
            self.report(where, error.what, error.cure)
            return
        self._first_seen[image_id] = where
        if written_hw not in (None, frame.size_hw, frame.stored_hw):
            self.report(
                where,
                "image of {1} x {0} px, but by its annotation of {3:g} x {2:g}; it is left out".format(
                    *frame.size_hw, *written_hw
                ),
                "use the images that were annotated, unchanged",
            )
            return
        for remark in (*facts.remarks, compare_spacings(mm_per_px_xy, facts.mm_per_px_xy)):
            if remark is not None:
                self.report(where, remark.what, remark.cure)
        if math.isnan(mm_per_px_xy[0]):
            mm_per_px_xy = facts.mm_per_px_xy
        columns = (image_id, str(path.absolute()), split, group, group_kind if group_kind and group else "")
        marked = MarkedImage(points_xy_image, frame, written_hw)
        self._images.append(Collected(where, marked, columns, mm_per_px_xy, len(self._problems)))

    def has_all_cells(self, cells: list[str], num_columns: int, where: str) -> bool:
        """Whether a CSV line has the header's number of cells; if not, that is reported, and the line is left
        out.
        """
        if len(cells) == num_columns:
            return True
        # A cell too many or too few shifts the others: no number in the line can be trusted.
        self.report(
            where,
            f"{len(cells)} cells, but the header has {num_columns}; the line is left out",
            "add the missing commas, or quotes around cells that contain one",
        )
        return False

    def parse_number(self, text: str, where: str) -> float:
        """The number, with digits and decimal separator as `backend.numbers` reads them, or NaN: silently for
        an empty cell or "nan", reported for anything not finite and for what can be read in two ways.
        """
        text = text.strip()
        if text.lower() in ("", "nan", "na"):
            return math.nan
        try:
            return read_number(text)
        except UserError as error:
            doubtful = any(
                separator in text for separator in ",٬'’ "
            )  # its message says what the text can mean
            what = error.what if doubtful else f"{text!r} is not a finite number"
            cure = error.cure if doubtful else "write a number such as 12.5"
            self.report(where, f"{what}; it is masked", cure)
            return math.nan

    def parse_point(self, x_text: str, y_text: str, where_x: str, where_y: str) -> tuple[float, float]:
        """(x, y), NaN in both where missing or bad; half a point is reported."""
        x, y = self.parse_number(x_text, where_x), self.parse_number(y_text, where_y)
        if bool(x_text.strip()) != bool(y_text.strip()):
            where, lacks = (where_y, "x without y") if x_text.strip() else (where_x, "y without x")
            self.report(where, f"{lacks}; the landmark is masked", "fill in both cells or none")
        return (math.nan, math.nan) if math.isnan(x + y) else (x, y)

    def parse_spacing(self, text: str, where: str) -> float:
        """mm per pixel; NaN where empty, bad or not above 0."""
        value = self.parse_number(text, where)
        if value <= 0:
            self.report(
                where,
                f"a pixel size of {value:g} mm is impossible; it is ignored",
                "write mm per pixel, above 0",
            )
            return math.nan
        return value

    def finish(self, spacing_cure: str) -> Annotations:
        """The data set. `spacing_cure` tells the user where this format takes pixel sizes from."""
        self._report_near_names()
        settled = settle(self._images, self.landmark_names, self.reader_names, self.root.name)
        self._problems = [*settled.of_set, *self._with_those_of_images(settled.of_images)]
        images = pd.DataFrame(settled.rows, columns=list(IMAGE_COLUMNS)).astype(_DTYPES)
        if images.empty and not any(problem.fatal for problem in self._problems):
            self.report(
                self.root.name, "no usable image with a landmark", "correct the problems listed", fatal=True
            )
        num_unknown = int(images["mm_per_px_x"].isna().sum())
        if num_unknown:
            which = "" if num_unknown == len(images) else f" for {num_unknown} of {len(images)} images"
            self.report(self.root.name, f"no pixel size{which}: errors are in pixels", spacing_cure)
        return Annotations(
            format=self.format,
            root=self.root,
            landmark_names=self.landmark_names,
            reader_names=self.reader_names,
            images=images,
            points_xy_image=settled.points_xy_image,
            problems=tuple(replace(one, image=self._image_about(one.where)) for one in self._problems),
            outside=tuple(self._outside),
        )

    def _with_those_of_images(self, of_images: Sequence[Sequence[Problem]]) -> Iterator[Problem]:
        """The problems so far, with those that were found later about each image at the place where it was
        added.
        """
        start = 0
        for image, found in zip(self._images, of_images, strict=True):
            yield from self._problems[start : image.num_problems]
            yield from found
            start = image.num_problems
        yield from self._problems[start:]

    def _image_about(self, where: str) -> Path | None:
        """The image linked to a place or to what it lies in: "a.csv line 3 column x" lies in "a.csv line
        3".
        """
        words = where.split(" ")
        places = (" ".join(words[:count]) for count in range(len(words), 0, -1))
        return next((self._image_of[place] for place in places if place in self._image_of), None)


def list_files(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """Visible files with one of the suffixes, in any case, sorted by name; [] where there is no folder."""
    if not folder.is_dir():
        return []
    return sorted(
        path for path in folder.iterdir() if path.suffix.lower() in suffixes and not path.name.startswith(".")
    )


def present_readers(builder: AnnotationsBuilder, folders: Mapping[str, Collection[Path]]) -> tuple[str, ...]:
    """Names of the readers of whom at least one folder is there; the absence of the others is reported."""
    present = tuple(name for name, places in folders.items() if any(place.is_dir() for place in places))
    for name in folders:
        if name not in present:
            wanted = " or ".join(builder.relative(place) for place in folders[name])
            builder.report(builder.root.name, f"no annotations by {name}", f"add {wanted}", fatal=not present)
    return present


def pair_files(
    builder: AnnotationsBuilder,
    image_folder: Path,
    reader_folders: Mapping[str, Path],
    suffix: str,
    belongs: Callable[[str], bool] = lambda stem: True,
) -> Iterator[tuple[Path, dict[str, Path]]]:
    """Each image that somebody annotated with its annotation file by reader name, joined by the file's stem.

    Files that are missing on either side are reported. `belongs` says of a stem whether the annotation file
    should have its image in this folder.
    """
    images = list_images(image_folder)
    files_of: dict[Path, dict[str, Path]] = {image: {} for image in images}
    unpaired: dict[str, tuple[Path, Wanted, Found]] = {}
    for name, folder in reader_folders.items():
        wanted = {
            Wanted(path.stem, (image_folder,), is_stem=True): path for path in list_files(folder, (suffix,))
        }
        # Each reader's files separately: two readers may annotate the same image.
        for one, found in builder.find_images(wanted).items():
            if found.path is None:
                unpaired.setdefault(one.name, (wanted[one], one, found))
            else:
                builder.accept(wanted[one], one, found)
                files_of[found.path][name] = wanted[one]
    doubtful = {path for _, _, found in unpaired.values() for path in found.candidates}
    for image, files in files_of.items():
        stem = stem_of(image.name)
        absent = [name for name in reader_folders if name not in files]
        for place in (image, *files.values()):
            builder.link_image(place, image)
        if not files:
            if image not in doubtful:
                builder.report(
                    image, "image without annotation; it is left out", f"add {stem}{suffix} or remove it"
                )
            continue
        for name in absent:
            missing = builder.relative(reader_folders[name] / f"{stem}{suffix}")
            builder.report(image, f"no annotation by {name}", f"add {missing}")
        yield image, files
    for stem, (where, one, found) in sorted(unpaired.items()):
        if found.candidates:
            builder.accept(where, one, found)
        elif belongs(stem):
            wanted_file = builder.relative(image_folder / f"{stem}{IMAGE_SUFFIXES[0]}")
            builder.report(
                where,
                "the image of this annotation is missing",
                f"add {wanted_file} or remove the annotation",
            )
