"""Finds the images that annotations name, even if tools, systems or languages have changed the names.

An image is looked for under its name as it is written. If there is no such file, one is taken whose name is
nearly the same: in another Unicode form (composed, decomposed, or with the Arabic letters that stand for
Persian ones), with or without percent-encoding, in another case, with another suffix or none, or without
folders of another computer. All names of a data set are judged together. A file is not taken if another
annotation names it, or if two annotations could mean it. If an annotation could mean two files, neither is
taken.
"""

from __future__ import annotations

import functools
import os
import posixpath
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, product
from pathlib import Path, PurePosixPath
from typing import TypeVar
from urllib.parse import unquote

from backend.data.images import IMAGE_SUFFIXES, is_image

# of images that are not read here, but from which others may have been converted
_OTHER_SUFFIXES = (
    ".gif",
    ".jp2",
    ".j2k",
    ".heic",
    ".heif",
    ".avif",
    ".jfif",
    ".ppm",
    ".pgm",
    ".tga",
    ".dicom",
    ".ima",
)
# Code pages and keyboards of Windows write these Arabic letters for Persian ones.
_PERSIAN = str.maketrans({"ي": "ی", "ى": "ی", "ك": "ک"})
_ROOTED = re.compile(r"/|[A-Za-z]:|\.\.(/|$)")
_ENCODED_SLASH = re.compile("%2f|%5c", re.IGNORECASE)
_MAX_NAMED = 3

# the ways in which a name may differ from the file's, as the user reads them
UNICODE, PERCENT, CASE, SUFFIX, FOLDER = (
    "the same letters in another Unicode form",
    "percent-encoded",
    "another case",
    "another suffix",
    "another folder",
)


@dataclass(frozen=True)
class ImageQuery:
    """An image as an annotation names it, with slashes between folders, and the folders to search."""

    name: str
    folders: tuple[Path, ...]
    is_stem: bool = False  # the name says nothing of the suffix

    @classmethod
    def of(cls, written: str, *folders: Path) -> ImageQuery:
        """Make a query of a name as it is written on any system."""
        return cls(written.strip().replace("\\", "/"), folders)


@dataclass(frozen=True)
class ImageMatch:
    """The file that fits a query, or why there is none."""

    path: Path | None
    differs: tuple[str, ...] = ()  # of a file whose name is nearly the same: in what
    why: str = "is missing"  # of a name without a file
    candidates: tuple[Path, ...] = ()  # files that were not taken

    @property
    def kind(self) -> str:
        """The difference of the file's name, as text; "" if it is the same."""
        return ", ".join(self.differs)


@dataclass(frozen=True)
class _Candidate:
    path: Path
    base: Path  # that of the folders in which the search began
    num_parts: int  # of the name, from its end, that were looked for
    differs: frozenset[str]


@dataclass
class _Folder:
    """The content of a folder by loosened names; files also without their suffixes."""

    files: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    folders: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))


_List = Callable[[Path], _Folder]
_Claims = dict[frozenset[str], list[ImageQuery]]  # queries that may mean a file, by the differences of names
T = TypeVar("T")


def find_images(
    queries: Iterable[ImageQuery], show: Callable[[Path], str] = str
) -> dict[ImageQuery, ImageMatch]:
    """Find the file of each image of a data set; `show` formats a path for `why`."""
    queries = list(dict.fromkeys(queries))
    exact = {query: path for query in queries if (path := _find_exact(query))}
    matches = {query: ImageMatch(path) for query, path in exact.items()}
    owners = {path: query.name for query, path in exact.items()}

    # The others: files of nearly the same name, unless another query has or could mean them.
    list_folder = functools.cache(_list_folder)
    choices = {query: _nearest_files(query, list_folder) for query in queries if query not in exact}
    claims: dict[Path, _Claims] = defaultdict(lambda: defaultdict(list))
    for query, candidates in choices.items():
        for candidate in candidates:
            claims[candidate.path][candidate.differs].append(query)
    by_end = _group_by_end(queries) if choices else {}
    for query, candidates in choices.items():
        free = [candidate for candidate in candidates if candidate.path not in owners]
        if len(free) == 1:
            matches[query] = _judge(query, free[0], claims[free[0].path], by_end, show)
        elif free:
            places = " or ".join(show(candidate.path) for candidate in free)
            paths = tuple(candidate.path for candidate in free)
            matches[query] = ImageMatch(None, (), f"is ambiguous: {places} could be meant", paths)
        elif candidates:
            path = candidates[0].path
            matches[query] = ImageMatch(None, (), _owned_by(show(path), owners[path]), (path,))
        else:
            matches[query] = ImageMatch(None)
    return matches


def list_images(folder: Path) -> list[Path]:
    """List the visible images in a folder, sorted by name: by suffix, or DICOM of any name."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and is_image(path))


def stem_of(name: str) -> str:
    """Remove the suffix of an image from a file's name; the last part of a DICOM's UID is none."""
    return _split_suffix(name)[0]


def normalize(name: str) -> str:
    """Bring a name into one Unicode form, with Persian letters for the Arabic ones that stand for them."""
    return unicodedata.normalize("NFC", name).translate(_PERSIAN)


@functools.lru_cache(maxsize=2**16)
def loosen(name: str) -> str:
    """Remove from a name what may differ: two names with equal results are nearly the same."""
    return normalize(normalize(unquote(name)).casefold())


def leads_outside(query: ImageQuery, match: ImageMatch, root: Path) -> bool:
    """Whether the image of an annotation is outside of a folder, or would be if it existed."""
    if match.path and not match.differs:
        return not _lies_in(match.path, root)
    if posixpath.normpath(query.name).startswith(".."):
        return not _lies_in(query.folders[0] / query.name, root)
    # a path of another computer leads nowhere on this one, and its image was found without it
    return match.path is None and bool(_ROOTED.match(query.name))


def _lies_in(path: Path, root: Path) -> bool:
    return Path(os.path.normpath(path)).is_relative_to(os.path.normpath(root))


def _split_suffix(name: str) -> tuple[str, str]:
    suffix = PurePosixPath(name).suffix
    is_known = suffix.lower() in (*IMAGE_SUFFIXES, *_OTHER_SUFFIXES)
    return (name[: -len(suffix)], suffix) if is_known else (name, "")


def _find_exact(query: ImageQuery) -> Path | None:
    if query.is_stem:
        return None
    name = posixpath.normpath(query.name)
    paths = [folder / name for folder in query.folders]
    if name.startswith(".."):  # upwards from the annotation itself
        paths = [Path(os.path.normpath(paths[0]))]
    # os.path.isfile is False, and no error, for a name that no file system would take
    return next((path for path in paths if os.path.isfile(path)), None)  # noqa: PTH113


def _judge(
    query: ImageQuery,
    choice: _Candidate,
    claims: _Claims,
    by_end: Mapping[tuple[str, ...], Sequence[ImageQuery]],
    show: Callable[[Path], str],
) -> ImageMatch:
    """Accept the only file that an image may be, if no other annotation could mean it as well."""
    for differs, nearer in claims.items():
        if differs < choice.differs and FOLDER not in differs:
            return ImageMatch(None, (), _owned_by(show(choice.path), nearer[0].name), (choice.path,))
    rivals = (other for other in _rivals(query, choice, claims, by_end) if other != query)
    names = list(dict.fromkeys(other.name for other in islice(rivals, _MAX_NAMED + 1)))
    if not names:
        in_order = (UNICODE, PERCENT, CASE, SUFFIX, FOLDER)
        return ImageMatch(choice.path, tuple(word for word in in_order if word in choice.differs))
    listed = " or ".join([*names[:_MAX_NAMED], *(["others"] if len(names) > _MAX_NAMED else [])])
    why = f"is ambiguous: {show(choice.path)} could be this image or {listed}"
    return ImageMatch(None, (), why, (choice.path,))


def _rivals(
    query: ImageQuery,
    choice: _Candidate,
    claims: _Claims,
    by_end: Mapping[tuple[str, ...], Sequence[ImageQuery]],
) -> Iterator[ImageQuery]:
    """List the queries that could mean the file, this query among them."""
    is_stripped = FOLDER in choice.differs
    for differs, others in claims.items():
        if is_stripped or not choice.differs < differs:
            yield from others
    if is_stripped:
        # A name that lost its folder could mean any of those that had an image of this name, found or not.
        same_end = by_end[_end(query, choice.num_parts)]
        yield from (other for other in same_end if choice.base in other.folders)


def _owned_by(path: str, name: str) -> str:
    return f"is missing; {path} has nearly the same name, but is the image of {name}"


def _group_by_end(queries: Iterable[ImageQuery]) -> dict[tuple[str, ...], list[ImageQuery]]:
    """Group queries by the ends of their names, from the file alone to the whole path."""
    by_end: dict[tuple[str, ...], list[ImageQuery]] = defaultdict(list)
    for query in queries:
        for length in range(1, len(_parts(query)) + 1):
            by_end[_end(query, length)].append(query)
    return by_end


def _end(query: ImageQuery, num_parts: int) -> tuple[str, ...]:
    return tuple(map(loosen, _parts(query)[-num_parts:]))


def _parts(query: ImageQuery) -> tuple[str, ...]:
    """Split a name into folders and file, without a drive, a root or `..`."""
    name = _ENCODED_SLASH.sub("/", re.sub(r"^[A-Za-z]:", "", query.name))
    return tuple(part for part in posixpath.normpath(name).split("/") if part not in ("", ".", ".."))


def _nearest_files(query: ImageQuery, list_folder: _List) -> list[_Candidate]:
    """Find the files that a missing image may be, none of them nearer than another."""
    parts = _parts(query)
    is_rooted = bool(_ROOTED.match(query.name))
    # A folder that exists here is not another machine's: what it lacks is missing.
    is_here = len(parts) > 1 and any(loosen(parts[0]) in list_folder(base).folders for base in query.folders)
    lengths = range(len(parts), 0, -1) if is_rooted or not is_here else (len(parts),)
    for length in lengths:
        stripped = {FOLDER} if is_rooted or length < len(parts) else set()
        stripped |= {PERCENT} if _ENCODED_SLASH.search(query.name) else set()
        files: dict[Path, _Candidate] = {}
        for folder in query.folders:
            for path, differs in _reach(folder, parts[-length:], list_folder):
                differs = (differs | stripped) - ({SUFFIX} if query.is_stem else set())
                files.setdefault(path, _Candidate(path, folder, length, frozenset(differs)))
        if files:
            nearest = _nearest([(path, candidate.differs) for path, candidate in files.items()])
            return [files[path] for path in sorted(nearest)]
    return []


def _nearest(choices: Sequence[tuple[T, frozenset[str]]]) -> list[T]:
    """Select those whose differences do not include all of another's and more."""
    return [choice for choice, differs in choices if not any(other < differs for _, other in choices)]


def _reach(folder: Path, parts: Sequence[str], list_folder: _List) -> Iterator[tuple[Path, set[str]]]:
    """Find the files below a folder whose path is nearly that of the parts, with their differences."""
    first, *rest = parts
    here = list_folder(folder)
    if rest:
        for name in here.folders.get(loosen(first), ()):
            for path, differs in _reach(folder / name, rest, list_folder):
                yield path, differs | _differences(first, name)
        return
    for name in dict.fromkeys(here.files.get(loosen(first), []) + here.files.get(loosen(stem_of(first)), [])):
        if is_image(folder / name):
            yield folder / name, _file_differences(first, name)


def _list_folder(folder: Path) -> _Folder:
    listed = _Folder()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    listed.folders[loosen(entry.name)].append(entry.name)
                else:
                    for key in {loosen(entry.name), loosen(stem_of(entry.name))}:
                        listed.files[key].append(entry.name)
    except OSError:  # absent, or may not be read
        return _Folder()
    return listed


def _file_differences(written: str, actual: str) -> set[str]:
    """Return the differences of two similar names of a file, one of them perhaps without its suffix."""
    if loosen(written) == loosen(actual):
        return _differences(written, actual)
    pairs = product((written, stem_of(written)), (actual, stem_of(actual)))
    return {SUFFIX} | next(_differences(*pair) for pair in pairs if loosen(pair[0]) == loosen(pair[1]))


def _differences(written: str, actual: str) -> set[str]:
    """Return the differences of two names that are equal once they are loosened."""
    if written == actual:
        return set()
    if normalize(written) == normalize(actual):
        return {UNICODE}
    differs = {PERCENT} if normalize(written).casefold() != normalize(actual).casefold() else set()
    differs |= {CASE} if normalize(unquote(written)) != normalize(unquote(actual)) else set()
    return differs or {CASE}
