"""The images of a data set by split, with the ground truth of the chosen reader."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from backend.config import Settings
from backend.data.annotations import Annotations, read_annotations, select_reader
from backend.data.annotations.table import Problem
from backend.data.splits import TRAIN, VALID, assign_validation
from backend.errors import UserError
from backend.geometry import FloatArray, Size


@dataclass(frozen=True)
class Samples:
    """N images: rows of the table in `Annotations`, and their ground truth (N, K, 2) in original pixels."""

    images: pd.DataFrame
    points_xy_image: FloatArray

    def __len__(self) -> int:
        return len(self.images)

    @property
    def mm_per_px_xy(self) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
        """The pixel sizes (N, 2), NaN if unknown."""
        return self.images[["mm_per_px_x", "mm_per_px_y"]].to_numpy(np.float64, copy=True)

    @property
    def sizes_hw(self) -> list[Size]:
        """The (height, width) of every original image."""
        return [(int(h), int(w)) for h, w in zip(self.images["height"], self.images["width"], strict=True)]

    @property
    def paths(self) -> list[Path]:
        return [Path(path) for path in self.images["path"]]

    def take(self, rows: list[int]) -> Samples:
        """Select samples by position."""
        return Samples(self.images.iloc[rows].reset_index(drop=True), self.points_xy_image[rows])


@dataclass(frozen=True)
class SampleSplits:
    """A data set ready to train on: its splits by name, first train and valid, then the data set's others."""

    annotations: Annotations
    by_split: Mapping[str, Samples]
    left_out: tuple[str, ...] = ()  # landmarks of the data set that are on no training image

    @property
    def train(self) -> Samples:
        return self.by_split[TRAIN]

    @property
    def valid(self) -> Samples | None:
        return self.by_split.get(VALID)


def points_of_readers(
    annotations: Annotations, samples: Samples, landmark_names: Sequence[str]
) -> FloatArray:
    """Return each reader's points (N, R, K, 2) on the samples' images, landmarks in the order given."""
    row_of = {str(image_id): row for row, image_id in enumerate(annotations.images["image_id"])}
    rows = [row_of[str(image_id)] for image_id in samples.images["image_id"]]
    columns = [annotations.landmark_names.index(name) for name in landmark_names]
    points: FloatArray = np.take(annotations.points_xy_image[rows], columns, axis=2)
    return points


def read_splits(settings: Settings, dataset_path: str | None = None) -> SampleSplits:
    """Read the data set of a training with these settings, or the one at `dataset_path` if it is given.

    Raises UserError as `load_splits` does.
    """
    return load_splits(
        Path(settings.dataset_path if dataset_path is None else dataset_path),
        dataset_format=settings.dataset_format,
        annotation_type=settings.annotation_type,
        val_fraction=settings.val_fraction,
        seed=settings.seed,
    )


def load_splits(
    path: Path,
    *,
    dataset_format: str,
    annotation_type: str,
    val_fraction: float,
    seed: int,
    for_training: bool = True,
) -> SampleSplits:
    """Read a data set, and split off validation images from its training images if it has any.

    Images on which the chosen reader marked nothing are left out first. With `for_training`, landmarks that
    are marked on no training image are left out too, and reported among the problems. Raises UserError if no
    image is left or, with `for_training`, no training image.
    """
    annotations = read_annotations(path, dataset_format)
    points = select_reader(annotations, annotation_type)
    annotated = np.flatnonzero(np.isfinite(points).all(-1).any(-1))
    images, points = annotations.images.iloc[annotated].reset_index(drop=True), points[annotated]
    if for_training or (images["split"] == TRAIN).any():
        images = assign_validation(images, val_fraction, seed)
    by_split: dict[str, Samples] = {}
    names = dict.fromkeys(images["split"])
    for split in dict.fromkeys([*(name for name in (TRAIN, VALID) if name in names), *names]):
        rows = np.flatnonzero((images["split"] == split).to_numpy())
        by_split[str(split)] = Samples(images.iloc[rows].reset_index(drop=True), points[rows])
    if not by_split:
        raise UserError(
            f"no image of {path} has a landmark by {annotation_type!r}",
            field="annotation_type",
            cure=f"choose mean, {', '.join(annotations.reader_names)}",
        )
    splits = SampleSplits(annotations, by_split)
    return _drop_unlearnable(splits) if for_training else splits


def _drop_unlearnable(splits: SampleSplits) -> SampleSplits:
    """Leave out the landmarks that no training image shows: predictions of them would be noise."""
    is_shown = np.isfinite(splits.train.points_xy_image).all(-1).any(0)
    if is_shown.all():
        return splits
    names = np.array(splits.annotations.landmark_names)
    left_out = tuple(names[~is_shown].tolist())
    problem = Problem(
        splits.annotations.root.name,
        f"marked on no training image, so not learned: {', '.join(left_out)}",
        "mark them on training images, or remove them from the data set",
    )
    selected = select_landmarks(splits, names[is_shown].tolist())
    annotations = replace(selected.annotations, problems=(problem, *splits.annotations.problems))
    return replace(selected, annotations=annotations, left_out=left_out)


def select_landmarks(splits: SampleSplits, names: Sequence[str]) -> SampleSplits:
    """Keep only the named landmarks, in the order given."""
    annotations = splits.annotations
    columns = [annotations.landmark_names.index(name) for name in names]
    selected_annotations = replace(
        annotations,
        landmark_names=tuple(names),
        points_xy_image=annotations.points_xy_image[:, :, columns],
    )
    by_split = {
        split: replace(samples, points_xy_image=samples.points_xy_image[:, columns])
        for split, samples in splits.by_split.items()
    }
    return replace(splits, annotations=selected_annotations, by_split=by_split)


def pool_splits(splits: SampleSplits) -> Samples:
    """Join all images of a data set, split after split."""
    parts = list(splits.by_split.values())
    images = pd.concat([part.images for part in parts], ignore_index=True)
    return Samples(images, np.concatenate([part.points_xy_image for part in parts]))


def replace_splits(
    splits: SampleSplits, pool: Samples, rows_by_split: Mapping[str, list[int]]
) -> SampleSplits:
    """Build the named splits from rows of the pool, first in order; a split without rows is removed."""
    rebuilt: dict[str, Samples] = {}
    for split, rows in rows_by_split.items():
        if rows:
            samples = pool.take(rows)
            rebuilt[split] = replace(samples, images=samples.images.assign(split=split))
    others = {split: samples for split, samples in splits.by_split.items() if split not in rows_by_split}
    return replace(splits, by_split=rebuilt | others)


def find_implausible(splits: SampleSplits) -> list[Problem]:
    """List the problems that stop a training: coordinates that cannot be pixels of the images."""
    return [problem for problem in splits.annotations.problems if problem.stops_training]


def require_plausible(splits: SampleSplits, *, accepted: bool) -> None:
    """Raise UserError, in one line, for coordinates that cannot be pixels, unless the user accepts them."""
    problems = find_implausible(splits)
    if problems and not accepted:
        raise UserError(
            "; ".join(f"{problem.where}: {problem.what}" for problem in problems),
            field="accept_implausible",
            cure=f"{problems[0].cure}, or train anyway (--accept_implausible, on the page the checkbox "
            "beside the problem)",
        )


def require_validation(splits: SampleSplits, patience: int) -> None:
    """Raise UserError if patience (0: none) has no validation images to watch."""
    if patience and splits.valid is None:
        raise UserError(
            "there are no validation images, so it has no error to watch",
            field="patience",
            cure="give --val_fraction above 0, or --patience 0",
        )
