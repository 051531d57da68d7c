"""The images that a run learned from, as its `data.json` records them.

A digest of its bytes identifies an image file, and a digest of points and pixel size its annotations, so that
a later change of either is noticed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from backend.config import Choice
from backend.data.fingerprints import read_digests
from backend.data.samples import Samples, SampleSplits
from backend.data.splits import TRAIN, VALID
from backend.errors import UserError
from backend.geometry import FloatArray
from backend.run.folder import RunFolder

FORMAT_VERSION = 1
LEARNED_SPLITS = (TRAIN, VALID)


@dataclass(frozen=True, kw_only=True)
class ImageRecord:
    """One image. `path` has forward slashes, and is relative to the source folder if it is inside."""

    image_id: str
    split: str
    group: str
    path: str
    digest: str
    annotations_digest: str

    def to_dict(self) -> dict[str, str]:
        """Return plain values for `data.json`, which lists the images by split."""
        return {
            "image_id": self.image_id,
            "group": self.group,
            "path": self.path,
            "fingerprint": self.digest,
            "annotations": self.annotations_digest,
        }

    @classmethod
    def from_dict(cls, split: str, raw: Mapping[str, str]) -> ImageRecord:
        """Undo `to_dict`."""
        return cls(
            image_id=raw["image_id"],
            split=split,
            group=raw["group"],
            path=raw["path"],
            digest=raw["fingerprint"],
            annotations_digest=raw["annotations"],
        )


@dataclass(frozen=True, kw_only=True)
class DataRecord:
    """The data of a run.

    `landmark_names` are in the order of its heatmaps; the data set's others are `left_out`.

    `chosen` are the settings that the training images decided.
    """

    source_folder: str
    dataset_format: str
    annotation_type: str
    reader_names: tuple[str, ...]
    landmark_names: tuple[str, ...]
    left_out: tuple[str, ...]
    images: tuple[ImageRecord, ...]
    chosen: Mapping[str, Choice] = field(default_factory=dict)

    def images_in_split(self, split: str) -> list[ImageRecord]:
        """List the images of one split, in the order of training."""
        return [image for image in self.images if image.split == split]

    def digests_by_split(self) -> dict[str, list[str]]:
        """Return the digests of the images, sorted: all that a checkpoint keeps of them."""
        return {
            split: sorted(image.digest for image in self.images_in_split(split)) for split in LEARNED_SPLITS
        }

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for `data.json`."""
        return {
            "format_version": FORMAT_VERSION,
            "source_folder": self.source_folder,
            "dataset_format": self.dataset_format,
            "annotation_type": self.annotation_type,
            "reader_names": list(self.reader_names),
            "landmark_names": list(self.landmark_names),
            "landmarks_left_out": list(self.left_out),
            "chosen": {name: asdict(choice) for name, choice in self.chosen.items()},
            "splits": {
                split: [image.to_dict() for image in self.images_in_split(split)] for split in LEARNED_SPLITS
            },
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> DataRecord:
        """Undo `to_dict`. Raises UserError for a damaged record or another format."""
        cure = "restore the run's own data.json; without one, today's folder is read"
        version = raw.get("format_version")
        if version != FORMAT_VERSION:
            raise UserError(
                f"data.json has format_version {version}, this program reads {FORMAT_VERSION}",
                field="run",
                cure=cure,
            )
        try:
            return cls(
                source_folder=raw["source_folder"],
                dataset_format=raw["dataset_format"],
                annotation_type=raw["annotation_type"],
                reader_names=tuple(raw["reader_names"]),
                landmark_names=tuple(raw["landmark_names"]),
                left_out=tuple(raw["landmarks_left_out"]),
                images=tuple(
                    ImageRecord.from_dict(split, image)
                    for split in LEARNED_SPLITS
                    for image in raw["splits"][split]
                ),
                chosen={name: Choice(**choice) for name, choice in raw["chosen"].items()},
            )
        except (AttributeError, KeyError, TypeError) as error:
            raise UserError(f"data.json is damaged ({error!r:.80})", field="run", cure=cure) from error


def read_record(folder: RunFolder) -> DataRecord | None:
    """Read the run's record; None if it has none. Raises UserError for a damaged one."""
    raw = folder.read_data()
    return None if raw is None else DataRecord.from_dict(raw)


def record_data(splits: SampleSplits, annotation_type: str, chosen: Mapping[str, Choice]) -> DataRecord:
    """Return the record of a run that starts now with the splits train and valid of `splits`."""
    annotations = splits.annotations
    images = [
        image
        for split in LEARNED_SPLITS
        if split in splits.by_split
        for image in _record_images(splits.by_split[split], split, annotations.root)
    ]
    return DataRecord(
        source_folder=str(annotations.root.absolute()),
        dataset_format=annotations.format,
        annotation_type=annotation_type,
        reader_names=annotations.reader_names,
        landmark_names=annotations.landmark_names,
        left_out=splits.left_out,
        images=tuple(images),
        chosen=chosen,
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
            image_id=str(image_id),
            split=split,
            group=str(group),
            path=path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix(),
            digest=digest,
            annotations_digest=hash_annotations(points, spacing),
        )
        for image_id, group, path, digest, points, spacing in rows
    ]


def hash_annotations(points_xy_image: FloatArray, mm_per_px_xy: FloatArray) -> str:
    """Hash the points (K, 2) of one image, in the order of the landmarks, and its pixel size (2,).

    NaN is missing.
    """
    # NaN has many bit patterns: use one
    points = np.where(np.isnan(points_xy_image), np.nan, points_xy_image).astype("<f4")
    spacing = np.where(np.isnan(mm_per_px_xy), np.nan, mm_per_px_xy).astype("<f8")
    return hashlib.blake2b(points.tobytes() + spacing.tobytes(), digest_size=8).hexdigest()
