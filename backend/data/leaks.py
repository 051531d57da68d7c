"""Finds images that are in a data set twice, which flatter a measurement or count double.

Two stages, because all cephalograms look alike. A coarse print of every image, tolerant of small shifts,
finds the candidate pairs; each of these is aligned (an affine by maximizing the enhanced correlation
coefficient: Evangelidis and Psarakis, IEEE TPAMI 30(10), 2008) and compared in fine detail only, where two
heads differ and two copies do not.

Measured (distance = 1 - correlation of the detail; a pair is one picture up to MAX_DISTANCE = 0.10):

- ISBI 2015, 300 images: the 22 published pairs are at 0.000 to 0.015. A pair that the published list lacks,
  056-280, is at 0.050: it has the same printed number, and its structures coincide to the pixel; only the
  contrast differs. The nearest pair of different images is at 0.449.
- Every fifth of these images against copies of it: recompressed 0.002, a third as large 0.001, gamma 0.7
  0.019, bright until much is white 0.064, cropped by 1 % on every side 0.035, cropped, gamma 0.8 and halved
  0.043 at most.
- The nearest two different images are at 0.306 among 44 of the demo data, and at 0.167 among 116 frames of
  one mouse under one fixed camera.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from backend.data.fingerprints import NUM_THREADS, Fingerprint, read_fingerprints
from backend.data.samples import SampleSplits
from backend.data.splits import TRAIN, VALID
from backend.geometry import FloatArray

MAX_DISTANCE = 0.10
MIN_COARSE_CORRELATION = 0.88  # true copies have 0.94 and more, 0.86 when cropped by 2 % on two sides
_BLOCK_ROWS = 1024  # of the matrix of coarse correlations that is held at a time
_DETAIL_SIGMA_PX = 2.0  # pixels of a thumbnail: coarser structure is removed before comparing
_MARGIN = 1 / 16  # of a thumbnail's side: frames, tags and rulers, which a machine prints on all its images
_ECC_STOP = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 1e-4)

Thumbnail = npt.NDArray[np.uint8]
Pair = tuple[int, int]
Kind = Literal["same bytes", "same picture"]


@dataclass(frozen=True)
class Leak:
    """Two images that are the same. `distance` is 0 for the same bytes, else at most MAX_DISTANCE."""

    image_ids: tuple[str, str]
    splits: tuple[str, str]
    kind: Kind
    distance: float

    def __str__(self) -> str:
        (first_id, second_id), (first_split, second_split) = self.image_ids, self.splits
        match = self.kind if self.kind == "same bytes" else f"{self.kind}, distance {self.distance:.3f}"
        return f"{first_id} ({first_split}) = {second_id} ({second_split}): {match}"


def find_leaks(splits: SampleSplits) -> tuple[Leak, ...]:
    """Find every pair of images that are the same file or the same picture, within and across splits.

    Finds copies that were rescaled, recompressed, brightened, or cropped by about 1 %; not rotated or
    mirrored ones. Frames of a video between which nothing moves count as the same picture. An image that
    cannot be read is skipped. The first call decodes all images; later, 300 take a fifth of a second, and
    10,000 about a minute.
    """
    ids = [str(name) for part in splits.by_split.values() for name in part.images["image_id"]]
    split_of = [name for name, part in splits.by_split.items() for _ in range(len(part))]
    paths = [path for part in splits.by_split.values() for path in part.paths]
    fingerprints = read_fingerprints(paths, splits.annotations.root)
    return tuple(
        Leak((ids[a], ids[b]), (split_of[a], split_of[b]), kind, distance)
        for (a, b), (kind, distance) in sorted(find_pairs(fingerprints).items())
    )


def across_splits(leaks: Iterable[Leak]) -> tuple[Leak, ...]:
    """Select the pairs that flatter a measurement: between train or valid and any other split."""
    return tuple(
        leak for leak in leaks if leak.splits[0] != leak.splits[1] and {TRAIN, VALID} & {*leak.splits}
    )


def ids_to_exclude(leaks: Iterable[Leak]) -> tuple[str, ...]:
    """List the test images to leave out of a measurement, in the order of their ids.

    These are in train or valid too, or are the second of two equal ones within a test split.
    """
    excluded: set[str] = set()
    for leak in leaks:
        tests = [row for row in (0, 1) if leak.splits[row] not in (TRAIN, VALID)]
        if len(tests) == 1 or leak.splits[0] == leak.splits[1]:
            excluded.update(leak.image_ids[row] for row in tests[-1:])
    return tuple(sorted(excluded))


def advise(leaks: Sequence[Leak]) -> list[str]:
    """Say what to do about the leaks, one line per cure."""
    lines: list[str] = []
    if excluded := ids_to_exclude(leaks):
        lines.append(
            f"leave these test images out when measuring: {', '.join(excluded)} "
            "(python -m backend.leaks --dataset_path D --write FILE, then python -m backend.evaluate "
            "--exclude FILE)"
        )
    if any({*leak.splits} == {TRAIN, VALID} for leak in leaks):
        lines.append(
            "of each pair of train and valid, which flatters validation, take one image out of the data set"
        )
    return lines


def picture_distance(first: Thumbnail, second: Thumbnail) -> float:
    """Return 1 - correlation of the detail of two aligned thumbnails: 0 for copies, about 1 if unrelated."""
    a, b = _detail(first), _detail(second)
    everywhere = np.full(b.shape, 255, np.uint8)
    start = np.eye(2, 3, dtype=np.float32)
    try:
        _, affine = cv2.findTransformECC(a, b, start, cv2.MOTION_AFFINE, _ECC_STOP, everywhere, 3)
    except cv2.error:  # it does not converge: the images have nothing in common
        return 1.0
    size_wh = (a.shape[1], a.shape[0])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    aligned = np.asarray(cv2.warpAffine(b, affine, size_wh, flags=flags), np.float32)
    overlap = np.asarray(cv2.warpAffine(np.ones_like(b), affine, size_wh, flags=flags)) > 0.99
    margin = round(_MARGIN * a.shape[0])
    inner = np.zeros_like(overlap)
    inner[margin:-margin, margin:-margin] = True
    shared = overlap & inner
    if shared.sum() < inner.sum() / 2:
        return 1.0
    return 1.0 - float(np.dot(_unit(a[shared]), _unit(aligned[shared])))


def read_all(splits: SampleSplits) -> dict[Path, Fingerprint | None]:
    """Read the fingerprint of every image of a data set, split after split."""
    paths = [path for part in splits.by_split.values() for path in part.paths]
    return dict(zip(paths, read_fingerprints(paths, splits.annotations.root), strict=True))


def find_pairs(fingerprints: Sequence[Fingerprint | None]) -> dict[Pair, tuple[Kind, float]]:
    """Find the pairs of rows that are the same image, with the kind of match and their distance."""
    same_bytes = _same_bytes(fingerprints)
    same_pictures = _same_pictures(fingerprints, same_bytes)
    pairs: dict[Pair, tuple[Kind, float]] = dict.fromkeys(same_bytes, ("same bytes", 0.0))
    return pairs | {pair: ("same picture", distance) for pair, distance in same_pictures.items()}


def _same_bytes(fingerprints: Sequence[Fingerprint | None]) -> set[Pair]:
    rows_of: dict[str, list[int]] = {}
    for row, fingerprint in enumerate(fingerprints):
        if fingerprint is not None and fingerprint.digest:
            rows_of.setdefault(fingerprint.digest, []).append(row)
    return {pair for rows in rows_of.values() for pair in combinations(rows, 2)}


def _same_pictures(fingerprints: Sequence[Fingerprint | None], same_bytes: set[Pair]) -> dict[Pair, float]:
    """Return the distances of the pairs that are the same picture, without those of the same bytes."""
    thumbnails = {
        row: fingerprint.thumbnail
        for row, fingerprint in enumerate(fingerprints)
        if fingerprint is not None and fingerprint.thumbnail is not None
    }
    candidates = [pair for pair in _candidates(thumbnails) if pair not in same_bytes]

    def distance(pair: Pair) -> float:
        return picture_distance(thumbnails[pair[0]], thumbnails[pair[1]])

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        distances = dict(zip(candidates, pool.map(distance, candidates), strict=True))
    return {pair: distance for pair, distance in distances.items() if distance <= MAX_DISTANCE}


def _candidates(thumbnails: dict[int, Thumbnail]) -> Iterator[Pair]:
    """Find pairs (lower row, higher row) of similar coarse prints; all are compared, block by block."""
    if not thumbnails:
        return
    rows = list(thumbnails)
    prints = np.stack([_coarse_print(thumbnail) for thumbnail in thumbnails.values()])
    for start in range(0, len(rows), _BLOCK_ROWS):
        correlations = prints[start : start + _BLOCK_ROWS] @ prints[start:].T
        for a, b in np.argwhere(np.triu(correlations, 1) >= MIN_COARSE_CORRELATION):
            yield rows[start + a], rows[start + b]


def _coarse_print(thumbnail: Thumbnail) -> FloatArray:
    """Return the structure at a scale of 4 to 6 pixels, with even contrast: (1024,), mean 0 and length 1."""
    values = cv2.resize(thumbnail, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA).astype(np.float32)
    band = _blur(values, 2) - _blur(values, 3)
    even = band / (np.sqrt(_blur(band * band, 3)) + 4)  # grey values: nearly flat areas are not amplified
    return _unit(even[::2, ::2].ravel())


def _detail(thumbnail: Thumbnail) -> FloatArray:
    values = thumbnail.astype(np.float32)
    return values - _blur(values, _DETAIL_SIGMA_PX)


def _blur(values: FloatArray, sigma_px: float) -> FloatArray:
    return np.asarray(cv2.GaussianBlur(values, (0, 0), sigma_px), np.float32)


def _unit(values: FloatArray) -> FloatArray:
    """Scale to mean 0 and length 1; all zero if nothing varies, which correlates with nothing."""
    centred = values - values.mean()
    length = np.linalg.norm(centred)
    return np.asarray(centred / length if length > 1e-3 else np.zeros_like(centred), np.float32)
