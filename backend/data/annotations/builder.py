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
    ImageMatch,
    ImageQuery,
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
MAX_NEAR_NAMES = 5  # that are reported one by one, of one kind

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
            matches = builder.find_images(ImageQuery.of(name, builder.root) for name, _, _ in rows)
            for number, (name, x_text, y_text) in enumerate(rows, start=1):
                where = f"points.txt line {number}"
                query = ImageQuery.of(name, builder.root)
                image = builder.accept(where, query, matches[query])
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
        self._near: dict[str, tuple[ImageQuery, ImageMatch]] = {}  # by the place of the annotation
        self._outside: list[str] = []

    def report(self, where: str | Path, what: str, cure: str, *, fatal: bool = False) -> None:
        """Add a problem; a path is shown relative to the data set."""
        if isinstance(where, Path):
            where = self.relative(where)
        self._problems.append(Problem(where, what, cure, fatal))

    def relative(self, path: Path) -> str:
        path = path.absolute()
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)

    def link_image(self, where: str | Path, image: Path) -> None:
        """Link a place (a file, or a line of one) to an image, so that problems there are about the image."""
        self._image_of[where if isinstance(where, str) else self.relative(where)] = image.absolute()

    def find_images(self, queries: Iterable[ImageQuery]) -> dict[ImageQuery, ImageMatch]:
        """Find the files of all images that annotations name; `accept` takes them one by one."""
        return find_images(queries, self.relative)

    def accept(self, where: str | Path, query: ImageQuery, match: ImageMatch) -> Path | None:
        """Return the file of an annotation's image, or None after reporting why there is none.

        A file whose name is only nearly that of the annotation is reported by `finish`.
        """
        where = where if isinstance(where, str) else self.relative(where)
        if leads_outside(query, match, self.root):
            self._outside.append(f"{where}: {query.name}")
        if match.path is None:
            is_named = query.is_stem or repr(query.name) in where
            image = "the image" if is_named else f"image {query.name}"
            if match.candidates:
                cure = "write its path as it is below the data set's folder"
                self.report(where, f"{image} {match.why}; it is left out", cure)
            else:
                self.report(where, f"{image} {match.why}", "add the image or remove its annotation")
        elif match.differs:
            self._near[where] = query, match
        return match.path

    def _report_near_names(self) -> None:
        """Report images of nearly the same names: one by one, or together if many differ in the same way."""
        alike: dict[str, dict[Path, tuple[str, str]]] = defaultdict(dict)
        for where, (query, match) in self._near.items():
            assert match.path is not None
            names = f"{query.name} is not there: {self.relative(match.path)}"
            alike[match.kind].setdefault(match.path, (where, names))
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
        """Return points (R, K, 2), all missing."""
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
        """Add one image and its (R, K, 2) points, or report why it is left out.

        A `group` has a `group_kind`. If the annotation gives no pixel size, the one that the image file
        states counts (DICOM); if both do and differ, that is reported, as are the remarks on the file.
        `written_hw` is the image's size by its annotation, px, if that states one. `where` names the line
        that asks for the image; "": the image itself.
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
        """Whether a CSV line has the header's number of cells; if not, it is left out, which is reported."""
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
        """Read a number, with digits and decimal separator as in `backend.numbers`; NaN if there is none.

        An empty cell and "nan" are silent; anything not finite, and what can be read in two ways, is
        reported.
        """
        text = text.strip()
        if text.lower() in ("", "nan", "na"):
            return math.nan
        try:
            return read_number(text)
        except UserError as error:
            # with a separator, the error says what the text can mean
            is_ambiguous = any(separator in text for separator in ",٬'’ ")
            what = error.what if is_ambiguous else f"{text!r} is not a finite number"
            cure = error.cure if is_ambiguous else "write a number such as 12.5"
            self.report(where, f"{what}; it is masked", cure)
            return math.nan

    def parse_point(self, x_text: str, y_text: str, where_x: str, where_y: str) -> tuple[float, float]:
        """Read (x, y), both NaN if missing or bad; half a point is reported."""
        x, y = self.parse_number(x_text, where_x), self.parse_number(y_text, where_y)
        if bool(x_text.strip()) != bool(y_text.strip()):
            where, lacks = (where_y, "x without y") if x_text.strip() else (where_x, "y without x")
            self.report(where, f"{lacks}; the landmark is masked", "fill in both cells or none")
        return (math.nan, math.nan) if math.isnan(x + y) else (x, y)

    def parse_spacing(self, text: str, where: str) -> float:
        """Read mm per pixel; NaN if empty, bad or not above 0."""
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
        """Build the data set. `spacing_cure` tells the user how to state pixel sizes in this format."""
        self._report_near_names()
        settled = settle(self._images, self.landmark_names, self.reader_names, self.root.name)
        self._problems = [*settled.set_problems, *self._insert_problems(settled.image_problems)]
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
            problems=tuple(
                replace(problem, image=self._find_linked_image(problem.where)) for problem in self._problems
            ),
            outside=tuple(self._outside),
        )

    def _insert_problems(self, image_problems: Sequence[Sequence[Problem]]) -> Iterator[Problem]:
        """Insert the later problems about each image into those so far, at the place where it was added."""
        start = 0
        for image, problems in zip(self._images, image_problems, strict=True):
            yield from self._problems[start : image.num_problems]
            yield from problems
            start = image.num_problems
        yield from self._problems[start:]

    def _find_linked_image(self, where: str) -> Path | None:
        """Find the image linked to a place or around it: "a.csv line 3 column x" is in "a.csv line 3"."""
        parts = where.split(" ")
        places = (" ".join(parts[:count]) for count in range(len(parts), 0, -1))
        return next((self._image_of[place] for place in places if place in self._image_of), None)


def list_files(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """List visible files with one of the suffixes, in any case, sorted by name; [] if there is no folder."""
    if not folder.is_dir():
        return []
    return sorted(
        path for path in folder.iterdir() if path.suffix.lower() in suffixes and not path.name.startswith(".")
    )


def present_readers(builder: AnnotationsBuilder, folders: Mapping[str, Collection[Path]]) -> tuple[str, ...]:
    """List the readers of whom at least one folder exists; the absence of the others is reported."""
    present = tuple(name for name, places in folders.items() if any(place.is_dir() for place in places))
    for name in folders:
        if name not in present:
            missing = " or ".join(builder.relative(place) for place in folders[name])
            builder.report(
                builder.root.name, f"no annotations by {name}", f"add {missing}", fatal=not present
            )
    return present


def pair_files(
    builder: AnnotationsBuilder,
    image_folder: Path,
    reader_folders: Mapping[str, Path],
    suffix: str,
    belongs: Callable[[str], bool] = lambda stem: True,
) -> Iterator[tuple[Path, dict[str, Path]]]:
    """Yield each annotated image with its annotation file by reader name, joined by the file's stem.

    Files that are missing on either side are reported. `belongs` says of a stem whether the annotation file
    should have its image in this folder.
    """
    images = list_images(image_folder)
    files_of: dict[Path, dict[str, Path]] = {image: {} for image in images}
    unpaired: dict[str, tuple[Path, ImageQuery, ImageMatch]] = {}
    for name, folder in reader_folders.items():
        file_of = {
            ImageQuery(path.stem, (image_folder,), is_stem=True): path
            for path in list_files(folder, (suffix,))
        }
        # Each reader's files separately: two readers may annotate the same image.
        for query, match in builder.find_images(file_of).items():
            if match.path is None:
                unpaired.setdefault(query.name, (file_of[query], query, match))
            else:
                builder.accept(file_of[query], query, match)
                files_of[match.path][name] = file_of[query]
    candidates = {path for _, _, match in unpaired.values() for path in match.candidates}
    for image, files in files_of.items():
        stem = stem_of(image.name)
        absent = [name for name in reader_folders if name not in files]
        for place in (image, *files.values()):
            builder.link_image(place, image)
        if not files:
            if image not in candidates:
                builder.report(
                    image, "image without annotation; it is left out", f"add {stem}{suffix} or remove it"
                )
            continue
        for name in absent:
            missing = builder.relative(reader_folders[name] / f"{stem}{suffix}")
            builder.report(image, f"no annotation by {name}", f"add {missing}")
        yield image, files
    for stem, (where, query, match) in sorted(unpaired.items()):
        if match.candidates:
            builder.accept(where, query, match)
        elif belongs(stem):
            missing_image = builder.relative(image_folder / f"{stem}{IMAGE_SUFFIXES[0]}")
            builder.report(
                where,
                "the image of this annotation is missing",
                f"add {missing_image} or remove the annotation",
            )
