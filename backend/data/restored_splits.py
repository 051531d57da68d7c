"""The splits of an earlier run, rebuilt from its data set as it is today, and what has changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from backend.config import RunConfig
from backend.data.fingerprints import read_digests
from backend.data.provenance import LEARNED_SPLITS, DataRecord, ImageRecord, hash_annotations
from backend.data.samples import (
    Samples,
    SampleSplits,
    load_splits,
    pool_splits,
    replace_splits,
    select_landmarks,
)
from backend.data.splits import TRAIN
from backend.errors import UserError

MAX_NAMES_IN_MESSAGE = 5


@dataclass(frozen=True)
class Changes:
    """The ids of the images in which a data set differs from a run's record.

    An event holds them under these names.
    """

    gone: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()  # the file has other bytes
    annotated_anew: tuple[str, ...] = ()  # other points, or another pixel size
    new: tuple[str, ...] = ()  # in train or valid today; not added to either

    def __bool__(self) -> bool:
        return any(asdict(self).values())

    def __str__(self) -> str:
        lists = (
            (self.gone, "gone"),
            (self.changed, "changed"),
            (self.annotated_anew, "annotated again"),
            (self.new, "new and in neither split"),
        )
        return "; ".join(f"{len(ids)} {kind}: {_join_names(ids)}" for ids, kind in lists if ids)


def _join_names(names: Sequence[str]) -> str:
    """Join the first names, and say how many follow."""
    text = ", ".join(names[:MAX_NAMES_IN_MESSAGE])
    num_more = len(names) - MAX_NAMES_IN_MESSAGE
    return f"{text} and {num_more} more" if num_more > 0 else text


def require_data(config: RunConfig) -> None:
    """Raise UserError if the run's data set does not exist any more."""
    path = Path(config.value("dataset_path"))
    if not path.exists():
        raise UserError(
            f"{path} does not exist any more",
            field="dataset_path",
            cure="resume with the folder that the data was moved to "
            "(--dataset_path, on the page Resume with changes)",
        )


def read_whole_data(config: RunConfig) -> SampleSplits:
    """Read every image and landmark of the run's data set as it is today, with nothing split off.

    Raises UserError if it does not exist, or cannot be read.
    """
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


def restore_splits(record: DataRecord, today: SampleSplits) -> tuple[SampleSplits, Changes]:
    """Rebuild a run's train and valid splits from `today`, the whole data set as it is now.

    Returns also what has changed. An image is found by id, otherwise by digest; new images go into neither
    split. The splits keep the order of the training. Raises UserError if the landmarks differ, no training
    image is left, or another folder holds other files.
    """
    # The run's landmarks, in its order.
    check_landmarks(record.landmark_names, record.left_out, today.annotations.landmark_names)
    today = replace(select_landmarks(today, record.landmark_names), left_out=record.left_out)

    # Where each recorded image is today.
    root = today.annotations.root
    pool = pool_splits(today)
    digests = read_digests(pool.paths, root)
    row_of = _find_rows(record, pool, digests)

    # What has changed.
    changes = _compare(record, pool, digests, row_of)
    if root.resolve() != Path(record.source_folder).resolve():
        _require_same_files(record, changes, root)

    # The splits from the rows.
    rows_by_split = {
        split: [row_of[image] for image in record.images_in_split(split) if image in row_of]
        for split in LEARNED_SPLITS
    }
    if not rows_by_split[TRAIN]:
        raise UserError(
            f"none of the {len(record.images_in_split(TRAIN))} training images is in {root} any more",
            field="dataset_path",
            cure="bring them back, or give the folder that they were moved to",
        )
    return replace_splits(today, pool, rows_by_split), changes


def check_landmarks(names: Sequence[str], left_out: Sequence[str], names_today: Sequence[str]) -> None:
    """Check that the data set has the run's landmarks, in the same order; raises UserError otherwise.

    `left_out` are landmarks of the run's data set that it did not learn; they must be there still.
    """
    recorded = [*names, *left_out]
    missing = [name for name in recorded if name not in names_today]
    added = [name for name in names_today if name not in recorded]
    cure = "bring the annotations back as they were, or start a new run"
    if missing or added:
        differences = [
            f"{verb} {', '.join(landmarks)}"
            for verb, landmarks in (("lacks", missing), ("adds", added))
            if landmarks
        ]
        raise UserError(
            f"the run was trained on other landmarks: the data set now {' and '.join(differences)}",
            field="dataset_path",
            cure=cure,
        )
    order = [name for name in names_today if name in names]
    if order != list(names):
        raise UserError(
            f"the data set's landmarks are in another order ({', '.join(order)}) than the run's "
            f"({', '.join(names)})",
            field="dataset_path",
            cure=cure,
        )


def _find_rows(record: DataRecord, pool: Samples, digests: Sequence[str]) -> dict[ImageRecord, int]:
    """Return the row of each recorded image that still exists, found by its id, otherwise by its digest."""
    row_by_id = {str(image_id): row for row, image_id in enumerate(pool.images["image_id"])}
    rows = {image: row_by_id[image.image_id] for image in record.images if image.image_id in row_by_id}
    claimed = {*rows.values()}
    row_by_digest = {digest: row for row, digest in enumerate(digests) if digest and row not in claimed}
    renamed = {
        image: row_by_digest[image.digest]
        for image in record.images
        if image not in rows and image.digest in row_by_digest
    }
    return rows | renamed


def _compare(
    record: DataRecord, pool: Samples, digests: Sequence[str], row_of: Mapping[ImageRecord, int]
) -> Changes:
    spacings = pool.mm_per_px_xy
    claimed = {*row_of.values()}
    is_learned = pool.images["split"].isin(LEARNED_SPLITS)
    return Changes(
        gone=tuple(image.image_id for image in record.images if image not in row_of),
        changed=tuple(image.image_id for image, row in row_of.items() if digests[row] != image.digest),
        annotated_anew=tuple(
            image.image_id
            for image, row in row_of.items()
            if hash_annotations(pool.points_xy_image[row], spacings[row]) != image.annotations_digest
        ),
        new=tuple(
            str(image_id)
            for row, image_id in enumerate(pool.images["image_id"])
            if is_learned.iloc[row] and row not in claimed
        ),
    )


def _require_same_files(record: DataRecord, changes: Changes, root: Path) -> None:
    """Raise UserError if a folder has the same names but other files: moved data has the same files."""
    differing = [*changes.changed, *changes.gone]
    if changes.changed or 2 * len(changes.gone) > len(record.images):
        raise UserError(
            f"{root} is not the data that this run learned from: of its {len(record.images)} images "
            f"{len(differing)} are missing or changed ({_join_names(differing)})",
            field="dataset_path",
            cure="give the folder to which the files were moved or copied, unchanged",
        )
