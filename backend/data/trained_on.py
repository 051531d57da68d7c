"""Which images of a data set a checkpoint was trained or validated on, as far as that is known today."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from backend.data.fingerprints import Fingerprint, read_digests, read_fingerprints
from backend.data.leaks import find_pairs, read_all
from backend.data.provenance import LEARNED_SPLITS, DataRecord, ImageRecord, name_splits, pool_splits
from backend.data.samples import Samples, SampleSplits
from backend.data.splits import TRAIN, VALID

Digests = Mapping[str, Sequence[str]]  # fingerprints by split


@dataclass(frozen=True)
class KnownImage:
    """An image that a run was trained (split train) or validated (valid) on, as far as it is known today: its
    file may be gone, and then only equal files can be found.
    """

    split: str
    fingerprint: Fingerprint
    path: Path | None


@dataclass(frozen=True)
class TrainedOn:
    """Images of a run's train and valid splits. `known_by`: the run's own list, the fingerprints in a
    checkpoint, or, for a run that kept neither, today's folder.
    """

    images: tuple[KnownImage, ...]
    known_by: Literal["list", "fingerprints", "folder"]

    @property
    def num_unseen(self) -> int:
        """Images of which only the fingerprint is known: a recompressed copy of one would not be found."""
        return sum(image.fingerprint.thumbnail is None for image in self.images)


def trained_on_record(record: DataRecord, folders: Sequence[Path]) -> TrainedOn:
    """The recorded images, each with its picture where its file is unchanged in the source folder or in one
    of `folders` to which the data may have been moved.
    """
    places = [Path(record.source_folder), *folders]
    paths = [_find_file(image, places) for image in record.images]
    there = [path for path in paths if path is not None]
    read = dict(zip(there, read_fingerprints(there, places[0], keep_others=True), strict=True))
    images = []
    for image, path in zip(record.images, paths, strict=True):
        found = read.get(path) if path is not None else None
        is_same = found is not None and found.digest == image.fingerprint
        fingerprint = found if is_same and found is not None else Fingerprint(image.fingerprint, None)
        images.append(KnownImage(image.split, fingerprint, path))
    return TrainedOn(tuple(images), "list")


def trained_on_digests(digests: Digests) -> TrainedOn:
    """What a checkpoint alone records: fingerprints by split."""
    images = [
        KnownImage(split, Fingerprint(digest, None), None)
        for split in LEARNED_SPLITS
        for digest in digests.get(split, ())
    ]
    return TrainedOn(tuple(images), "fingerprints")


def as_learned(splits: SampleSplits, trained_on: TrainedOn) -> SampleSplits | None:
    """A run's own data set with train and valid as the run had them, whatever split its table names today;
    None where it is another data set. New images are in neither; the other splits are the table's.
    """
    split_of = _own_splits(splits, trained_on)
    if not _is_own(split_of, trained_on):
        return None
    pool = pool_splits(splits, range(len(splits.annotations.landmark_names)))
    learned = {
        split: pool.take([row for row, path in enumerate(pool.paths) if split_of.get(path) == split])
        for split in LEARNED_SPLITS
    }
    by_split = name_splits(learned)
    others = {split: samples for split, samples in splits.by_split.items() if split not in LEARNED_SPLITS}
    return replace(splits, by_split=by_split | others)


def _is_own(split_of: Mapping[Path, str], trained_on: TrainedOn) -> bool:
    return 2 * len(split_of) >= len(trained_on.images)


def _own_splits(splits: SampleSplits, trained_on: TrainedOn) -> dict[Path, str]:
    """The run's split of each image file of a data set that the run was trained or validated on."""
    by_path = {image.path: image.split for image in trained_on.images if image.path is not None}
    by_digest = {
        image.fingerprint.digest: image.split for image in trained_on.images if image.fingerprint.digest
    }
    paths = [path for part in splits.by_split.values() for path in part.paths]
    digests = read_digests(paths, splits.annotations.root)
    found = {
        path: by_path.get(path) or by_digest.get(digest, "")
        for path, digest in zip(paths, digests, strict=True)
    }
    return {path: split for path, split in found.items() if split}


def trained_on_splits(splits: SampleSplits) -> TrainedOn:
    """For a run without a record: train and valid of its data set as it is today."""
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
    """Of `samples`, one split of `measured`: those that are the same as an image that a run was trained or
    validated on.

    `is_own`: `measured` is the run's own data; its valid split is then measured without a warning about
    itself.
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
