"""The images that a checkpoint was trained or validated on, as far as they are known today."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from backend.data.fingerprints import Fingerprint, read_digests, read_fingerprints
from backend.data.leaks import find_pairs, read_all
from backend.data.provenance import LEARNED_SPLITS, DataRecord, ImageRecord
from backend.data.samples import Samples, SampleSplits, pool_splits, replace_splits
from backend.data.splits import TRAIN, VALID

Digests = Mapping[str, Sequence[str]]  # of image files, by split


@dataclass(frozen=True)
class KnownImage:
    """An image that a run was trained (split train) or validated (valid) on.

    If its file does not exist any more, it has no path and no thumbnail: only files with its digest can be
    found.
    """

    split: str
    fingerprint: Fingerprint
    path: Path | None


@dataclass(frozen=True)
class TrainedOn:
    """The images of a run's train and valid splits.

    `known_by`: the run's own list, the digests in a checkpoint, or, for a run that kept neither, today's
    folder.
    """

    images: tuple[KnownImage, ...]
    known_by: Literal["list", "fingerprints", "folder"]

    @property
    def num_unseen(self) -> int:
        """The number of images without a thumbnail: a recompressed copy of one would not be found."""
        return sum(image.fingerprint.thumbnail is None for image in self.images)


def trained_on_record(record: DataRecord, folders: Sequence[Path]) -> TrainedOn:
    """List the recorded images, each with its thumbnail if its file is unchanged.

    The file is looked for in the source folder, then in `folders`, to which the data may have been moved.
    """
    places = [Path(record.source_folder), *folders]
    paths = [_find_file(image, places) for image in record.images]
    present = [path for path in paths if path is not None]
    fingerprint_of = dict(zip(present, read_fingerprints(present, places[0], keep_others=True), strict=True))
    images = []
    for image, path in zip(record.images, paths, strict=True):
        fingerprint = fingerprint_of.get(path) if path is not None else None
        if fingerprint is None or fingerprint.digest != image.digest:
            fingerprint = Fingerprint(image.digest, None)
        images.append(KnownImage(image.split, fingerprint, path))
    return TrainedOn(tuple(images), "list")


def trained_on_digests(digests: Digests) -> TrainedOn:
    """List the images whose digests a checkpoint holds."""
    images = [
        KnownImage(split, Fingerprint(digest, None), None)
        for split in LEARNED_SPLITS
        for digest in digests.get(split, ())
    ]
    return TrainedOn(tuple(images), "fingerprints")


def as_learned(splits: SampleSplits, trained_on: TrainedOn) -> SampleSplits | None:
    """Give a run's own data set the train and valid splits that the run had; None for another data set.

    New images are in neither split; the other splits stay as they are.
    """
    split_of = _find_splits(splits, trained_on)
    is_own = 2 * len(split_of) >= len(trained_on.images)
    if not is_own:
        return None
    pool = pool_splits(splits)
    rows_by_split = {
        split: [row for row, path in enumerate(pool.paths) if split_of.get(path) == split]
        for split in LEARNED_SPLITS
    }
    return replace_splits(splits, pool, rows_by_split)


def _find_splits(splits: SampleSplits, trained_on: TrainedOn) -> dict[Path, str]:
    """Return the run's split of each image file of a data set that the run was trained or validated on."""
    by_path = {image.path: image.split for image in trained_on.images if image.path is not None}
    by_digest = {
        image.fingerprint.digest: image.split for image in trained_on.images if image.fingerprint.digest
    }
    paths = [path for part in splits.by_split.values() for path in part.paths]
    digests = read_digests(paths, splits.annotations.root)
    split_of = {
        path: by_path.get(path) or by_digest.get(digest, "")
        for path, digest in zip(paths, digests, strict=True)
    }
    return {path: split for path, split in split_of.items() if split}


def trained_on_splits(splits: SampleSplits) -> TrainedOn:
    """List the images in train and valid of the data set as it is today, for a run that has no record."""
    fingerprints = read_all(splits)
    return TrainedOn(
        tuple(
            KnownImage(split, fingerprints[path] or Fingerprint("", None), path)
            for split in (TRAIN, VALID)
            if split in splits.by_split
            for path in splits.by_split[split].paths
        ),
        "folder",
    )


def ids_in_training(
    samples: Samples, measured: SampleSplits, trained: TrainedOn, *, is_own: bool
) -> tuple[str, ...]:
    """List the ids of `samples` that equal an image that a run was trained or validated on.

    The samples are one split of `measured`. `is_own`: `measured` is the run's own data; images of its valid
    split are then not compared with themselves.
    """
    ids = [str(image_id) for image_id in samples.images["image_id"]]
    others = trained.images
    if is_own and str(samples.images["split"].iloc[0]) == VALID:
        others = _without_themselves(samples, measured, others)
    paths = {image.path for image in others}
    if {*samples.paths} <= paths:
        return tuple(ids)
    of_measured = read_all(measured)
    fingerprints = [of_measured[path] for path in samples.paths] + [image.fingerprint for image in others]
    rows = {row for row, other in find_pairs(fingerprints) if row < len(ids) <= other}
    rows |= {row for row, path in enumerate(samples.paths) if path in paths}
    return tuple(ids[row] for row in sorted(rows))


def _without_themselves(
    samples: Samples, measured: SampleSplits, images: Sequence[KnownImage]
) -> tuple[KnownImage, ...]:
    paths = {*samples.paths}
    digests = {*read_digests(samples.paths, measured.annotations.root)}
    return tuple(
        image
        for image in images
        if image.split != VALID or not (image.path in paths or image.fingerprint.digest in digests)
    )


def _find_file(image: ImageRecord, folders: Sequence[Path]) -> Path | None:
    return next((path for folder in folders if (path := folder / image.path).is_file()), None)
