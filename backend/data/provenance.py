"""The images that a run learned from, as `data.json` records them, and how they are found again.

N images of the splits train and valid. A fingerprint (a hash of the bytes) identifies a file, and a hash of
points and pixel size its annotations, so that a later change of either is noticed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from backend.config import Choice, RunConfig
from backend.data.fingerprints import read_digests
from backend.data.samples import Samples, SampleSplits, load_splits
from backend.data.splits import TRAIN, VALID
from backend.errors import UserError
from backend.geometry import FloatArray
from backend.run.folder import RunFolder

FORMAT_VERSION = 1
LEARNED_SPLITS = (TRAIN, VALID)
NUM_NAMED = 5  # image ids that a message names


@dataclass(frozen=True)
class ImageRecord:
    """One image: `path` is relative to the source folder where it is inside, with forward slashes."""

    image_id: str
    split: str
    group: str
    path: str
    fingerprint: str
    annotations: str


@dataclass(frozen=True)
class DataRecord:
    """What a run learned from. `landmark_names` are those of its maps, in their order; `left_out` the others
    that the data set had; `chosen` is what the training images decided of the settings.
    """

    source_folder: str
    dataset_format: str
    annotation_type: str
    reader_names: tuple[str, ...]
    landmark_names: tuple[str, ...]
    left_out: tuple[str, ...]
    images: tuple[ImageRecord, ...]
    chosen: Mapping[str, Choice] = field(default_factory=dict)

    def of_split(self, split: str) -> list[ImageRecord]:
        """Its images of one split, in the order of training."""
        return [image for image in self.images if image.split == split]

    def digests(self) -> dict[str, list[str]]:
        """Fingerprints by split, sorted: all that a checkpoint keeps of them."""
        return {
            split: sorted(image.fingerprint for image in self.of_split(split)) for split in LEARNED_SPLITS
        }


@dataclass(frozen=True)
class Changes:
    """How a data set differs from what a run learned from: image ids."""

    gone: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()  # the file has other bytes
    annotated_anew: tuple[str, ...] = ()  # other points, or another pixel size
    new: tuple[str, ...] = ()  # in train or valid today; not added to either

    def __bool__(self) -> bool:
        return any(asdict(self).values())

    def __str__(self) -> str:
        words = (
            (self.gone, "gone"),
            (self.changed, "changed"),
            (self.annotated_anew, "annotated again"),
            (self.new, "new and in neither split"),
        )
        return "; ".join(f"{len(ids)} {what}: {name_some(ids)}" for ids, what in words if ids)


def name_some(names: Sequence[str]) -> str:
    """The first names of a list, and how many follow."""
    shown = ", ".join(names[:NUM_NAMED])
    return f"{shown} and {len(names) - NUM_NAMED} more" if len(names) > NUM_NAMED else shown


def read_record(folder: RunFolder) -> DataRecord | None:
    """What the run learned from; None where it has no record. Raises UserError for a damaged one."""
    raw = folder.read_data()
    return None if raw is None else from_dict(raw)


def require_data(config: RunConfig) -> None:
    """Raises UserError where the run's data set is not where it was."""
    path = Path(config.value("dataset_path"))
    if not path.exists():
        raise UserError(
            f"{path} does not exist any more",
            field="dataset_path",
            cure="resume with the folder that the data was moved to "
            "(--dataset_path, on the page Resume with changes)",
        )


def read_whole_data(config: RunConfig) -> SampleSplits:
    """Every image and landmark of the run's data set as it is today, nothing split off. Raises UserError."""
    require_data(config)
    settings = config.settings
    return load_splits(
        Path(config.value("dataset_path")),
        dataset_format=settings.dataset_format,
        annotation_type=settings.annotation_type,
        val_fraction=0.0,
        seed=settings.seed,
        for_training=False,
    )


def record_data(splits: SampleSplits, annotation_type: str, chosen: Mapping[str, Choice]) -> DataRecord:
    """The record of a run that starts now: the splits train and valid of `splits`."""
    annotations = splits.annotations
    images = [
        image
        for split in LEARNED_SPLITS
        if split in splits.by_split
        for image in _record_images(splits.by_split[split], split, annotations.root)
    ]
    return DataRecord(
        str(annotations.root.absolute()),
        annotations.format,
        annotation_type,
        annotations.reader_names,
        annotations.landmark_names,
        splits.left_out,
        tuple(images),
        chosen,
    )


def _record_images(samples: Samples, split: str, root: Path) -> list[ImageRecord]:
    rows = zip(
        samples.images["image_id"],
        samples.images["group"],
        samples.paths,
        read_digests(samples.paths, root),
        samples.points_xy_image,
        samples.mm_per_px_xy,
        strict=True,
    )
    return [
        ImageRecord(
            str(image_id), split, str(group), _relative(path, root), digest, hash_annotations(points, spacing)
        )
        for image_id, group, path, digest, points, spacing in rows
    ]


def hash_annotations(points_xy_image: FloatArray, mm_per_px_xy: FloatArray) -> str:
    """Of one image's points (K, 2), NaN missing, in the order of the landmarks, and its pixel size (2,)."""
    points = np.where(np.isnan(points_xy_image), np.nan, points_xy_image).astype(
        "<f4"
    )  # NaN has many bit patterns: use one
    spacing = np.where(np.isnan(mm_per_px_xy), np.nan, mm_per_px_xy).astype("<f8")
    return hashlib.blake2b(points.tobytes() + spacing.tobytes(), digest_size=8).hexdigest()


def check_landmarks(record_names: Sequence[str], left_out: Sequence[str], today: Sequence[str]) -> None:
    """Raises UserError where a data set's landmarks are not those that a run learned, in their order."""
    known = [*record_names, *left_out]
    missing = [name for name in known if name not in today]
    unknown = [name for name in today if name not in known]
    cure = "bring the annotations back as they were, or start a new run"
    if missing or unknown:
        what = " and ".join(
            f"{verb} {', '.join(names)}" for verb, names in (("lacks", missing), ("adds", unknown)) if names
        )
        raise UserError(
            f"the run was trained on other landmarks: the data set now {what}",
            field="dataset_path",
            cure=cure,
        )
    order = [name for name in today if name in record_names]
    if order != list(record_names):
        raise UserError(
            f"the data set's landmarks are in another order ({', '.join(order)}) than the run's "
            f"({', '.join(record_names)})",
            field="dataset_path",
            cure=cure,
        )


def restore_splits(record: DataRecord, today: SampleSplits) -> tuple[SampleSplits, Changes]:
    """The run's train and valid splits from a data set as it is today, in their order, and how it differs.

    `today` holds every image and landmark, without a validation split of ours. An image is found by its id,
    else by its fingerprint. New images are in neither split. Raises UserError for other landmarks, where no
    training image is left, and for another folder than the recorded one that does not hold the run's files.
    """
    annotations = today.annotations
    check_landmarks(record.landmark_names, record.left_out, annotations.landmark_names)
    columns = [annotations.landmark_names.index(name) for name in record.landmark_names]
    pool = pool_splits(today, columns)
    digests = read_digests(pool.paths, annotations.root)
    row_of = _find_rows(record, pool, digests)
    changes = _compare(record, pool, digests, row_of)
    if annotations.root.resolve() != Path(record.source_folder).resolve():
        _require_same_files(record, changes, annotations.root)
    found = {
        split: pool.take([row_of[image] for image in record.of_split(split) if image in row_of])
        for split in LEARNED_SPLITS
    }
    if not len(found[TRAIN]):
        raise UserError(
            f"none of the {len(record.of_split(TRAIN))} training images is in {annotations.root} any more",
            field="dataset_path",
            cure="bring them back, or give the folder that they were moved to",
        )
    by_split = name_splits(found)
    others = {
        split: Samples(samples.images, samples.points_xy_image[:, columns])
        for split, samples in today.by_split.items()
        if split not in LEARNED_SPLITS
    }
    fewer = replace(
        annotations,
        landmark_names=record.landmark_names,
        points_xy_image=annotations.points_xy_image[:, :, columns],
    )
    return SampleSplits(fewer, by_split | others, record.left_out), changes


def name_splits(found: Mapping[str, Samples]) -> dict[str, Samples]:
    """The splits that hold any image, with that name in their tables."""
    return {
        split: replace(samples, images=samples.images.assign(split=split))
        for split, samples in found.items()
        if len(samples)
    }


def pool_splits(splits: SampleSplits, columns: Sequence[int]) -> Samples:
    """All images of a data set, split after split."""
    parts = list(splits.by_split.values())
    images = pd.concat([part.images for part in parts], ignore_index=True)
    return Samples(images, np.concatenate([part.points_xy_image for part in parts])[:, columns])


def _find_rows(record: DataRecord, pool: Samples, digests: Sequence[str]) -> dict[ImageRecord, int]:
    """The row of each recorded image that still exists: the one with its id, else one with its bytes."""
    by_id = {str(image_id): row for row, image_id in enumerate(pool.images["image_id"])}
    rows = {image: by_id[image.image_id] for image in record.images if image.image_id in by_id}
    claimed = {*rows.values()}
    by_digest = {digest: row for row, digest in enumerate(digests) if digest and row not in claimed}
    renamed = {
        image: by_digest[image.fingerprint]
        for image in record.images
        if image not in rows and image.fingerprint in by_digest
    }
    return rows | renamed


def _compare(
    record: DataRecord, pool: Samples, digests: Sequence[str], row_of: Mapping[ImageRecord, int]
) -> Changes:
    spacings = pool.mm_per_px_xy
    taken = {*row_of.values()}
    learned = pool.images["split"].isin(LEARNED_SPLITS)
    return Changes(
        gone=tuple(image.image_id for image in record.images if image not in row_of),
        changed=tuple(image.image_id for image, row in row_of.items() if digests[row] != image.fingerprint),
        annotated_anew=tuple(
            image.image_id
            for image, row in row_of.items()
            if hash_annotations(pool.points_xy_image[row], spacings[row]) != image.annotations
        ),
        new=tuple(
            str(image_id)
            for row, image_id in enumerate(pool.images["image_id"])
            if learned.iloc[row] and row not in taken
        ),
    )


def _require_same_files(record: DataRecord, changes: Changes, root: Path) -> None:
    """Moved data has the same files: a folder with the same names only is another data set."""
    differing = [*changes.changed, *changes.gone]
    if changes.changed or 2 * len(changes.gone) > len(record.images):
        raise UserError(
            f"{root} is not the data that this run learned from: of its {len(record.images)} images "
            f"{len(differing)} are missing or changed ({name_some(differing)})",
            field="dataset_path",
            cure="give the folder to which the files were moved or copied, unchanged",
        )


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def to_dict(record: DataRecord) -> dict[str, Any]:
    """Plain values for `data.json`."""
    splits = {
        split: [
            {name: value for name, value in asdict(image).items() if name != "split"}
            for image in record.of_split(split)
        ]
        for split in LEARNED_SPLITS
    }
    return {
        "format_version": FORMAT_VERSION,
        "source_folder": record.source_folder,
        "dataset_format": record.dataset_format,
        "annotation_type": record.annotation_type,
        "reader_names": list(record.reader_names),
        "landmark_names": list(record.landmark_names),
        "landmarks_left_out": list(record.left_out),
        "chosen": {name: asdict(choice) for name, choice in record.chosen.items()},
        "splits": splits,
    }


def from_dict(raw: Mapping[str, Any]) -> DataRecord:
    """Inverse of `to_dict`. Raises UserError for a damaged record or another format."""
    cure = "restore the run's own data.json; without one, today's folder is read"
    version = raw.get("format_version")
    if version != FORMAT_VERSION:
        raise UserError(
            f"data.json has format_version {version}, this program reads {FORMAT_VERSION}",
            field="run",
            cure=cure,
        )
    try:
        images = [
            ImageRecord(split=split, **image) for split in LEARNED_SPLITS for image in raw["splits"][split]
        ]
        return DataRecord(
            raw["source_folder"],
            raw["dataset_format"],
            raw["annotation_type"],
            tuple(raw["reader_names"]),
            tuple(raw["landmark_names"]),
            tuple(raw["landmarks_left_out"]),
            tuple(images),
            {name: Choice(**choice) for name, choice in raw["chosen"].items()},
        )
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(f"data.json is damaged ({error!r:.80})", field="run", cure=cure) from error
