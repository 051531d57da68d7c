"""Detect a network that has collapsed from its validations; each alarm names the landmarks and a cure.

A network early in training shows the same symptoms: its maps are nearly flat, it predicts the mean position
everywhere, the error of a landmark has not started to fall. So nothing is checked before GRACE_EPOCHS after
the warm-up, a symptom counts only when IN_A_ROW validations in a row show it (STUCK_IN_A_ROW for a single
landmark), and each cause is reported once per run.

N validation images, K landmarks; points are in input pixels, in which a network that ignores its image always
predicts the same place.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from backend.geometry import FloatArray
from backend.training.events import Event

Row = Mapping[str, Any]

GRACE_EPOCHS = 5
IN_A_ROW = 3
STUCK_IN_A_ROW = 10  # some landmarks are found many epochs later than the others
MIN_IMAGES = 3  # on one or two images, equal or crossed predictions may be chance
FLAT_CONTRAST = 0.05  # a map with a peak has more than 0.5, an uncertain one more than 0.2
SAME_SHARE = 0.02  # predictions vary less than this share of the variation of the annotations
MIN_SPREAD_PX = 1.0  # if the annotations hardly vary, equal predictions are right
FIRST_EPOCHS = 3
STUCK_SHARE = 0.8  # of the first error
OTHERS_SHARE = 0.5  # the median of the others has halved
STUCK_FACTOR = 3.0  # and is this many times lower: an easy landmark that was good at once is not stuck
SWAP_RADIUS = 0.25  # of the distance between the two annotated points
SWAP_SHARE = 0.8  # of the images that show both


@dataclass(frozen=True)
class Evidence:
    """The points and maps of one validation."""

    predicted_xy_input: FloatArray  # (N, K, 2)
    true_xy_input: FloatArray  # (N, K, 2), NaN if missing
    contrast: FloatArray  # (N, K), a map's peak over its mean, 0 (flat) to 1


def are_all_flat(contrast: FloatArray) -> bool:
    """Whether no map of any image has a peak."""
    return bool(contrast.size) and bool((contrast < FLAT_CONTRAST).all())


def are_all_equal(predicted_xy: FloatArray, true_xy: FloatArray) -> bool:
    """Whether every landmark is predicted at the same place in all images, although the annotations vary."""
    if len(predicted_xy) < MIN_IMAGES:
        return False
    counts = np.isfinite(true_xy).all(-1).sum(0)
    varied = [
        k
        for k in range(true_xy.shape[1])
        if counts[k] >= MIN_IMAGES and _spread(true_xy[:, k]) > MIN_SPREAD_PX
    ]
    return bool(varied) and all(
        _spread(predicted_xy[:, k]) < SAME_SHARE * _spread(true_xy[:, k]) for k in varied
    )


def find_stuck(errors: FloatArray) -> list[int]:
    """Find landmarks whose error is as large as in the first epochs while that of the others fell.

    `errors` (epochs, K) px, NaN if unknown; medians of three epochs at each end, so that no single epoch
    decides.
    """
    if len(errors) < 2 * FIRST_EPOCHS:
        return []
    first, last = _median(errors[:FIRST_EPOCHS]), _median(errors[-FIRST_EPOCHS:])
    measured = np.flatnonzero(np.isfinite(first) & np.isfinite(last))
    stuck = []
    for k in map(int, measured):
        rest = measured[measured != k]
        if not rest.size:
            continue
        stays = last[k] > STUCK_SHARE * first[k]
        rest_fell = np.median(last[rest] / np.maximum(first[rest], 1e-9)) < OTHERS_SHARE
        if stays and rest_fell and last[k] > STUCK_FACTOR * np.median(last[rest]):
            stuck.append(k)
    return stuck


def find_swapped(predicted_xy: FloatArray, true_xy: FloatArray) -> list[tuple[int, int]]:
    """Find pairs of landmarks, each of which is predicted where the other is annotated.

    That is within a quarter of the distance between the two. So predictions midway between both, as a network
    makes them early in training, are not a swap, and of some ten thousand random predictions one is.
    """
    pairs = []
    for i, j in combinations(range(true_xy.shape[1]), 2):
        points = np.concatenate([true_xy[:, [i, j]], predicted_xy[:, [i, j]]], axis=1)
        has_both = np.isfinite(points).all((-1, -2))
        if has_both.sum() < MIN_IMAGES:
            continue
        radius = SWAP_RADIUS * _distance(true_xy[has_both, i], true_xy[has_both, j])
        i_at_j = _distance(predicted_xy[has_both, i], true_xy[has_both, j]) < radius
        j_at_i = _distance(predicted_xy[has_both, j], true_xy[has_both, i]) < radius
        if (i_at_j & j_at_i).mean() >= SWAP_SHARE:
            pairs.append((i, j))
    return pairs


@dataclass
class HealthWatch:
    """Follows a run's validations and returns new alarms.

    `rows` and `events` are those that the run has so far: after a resume nothing is reported twice.
    """

    names: Sequence[str]
    warmup_epochs: float
    rows: Iterable[Row] = ()
    events: Iterable[Row] = ()
    _errors: dict[int, list[float]] = field(default_factory=dict)  # by epoch, of each landmark, px
    _in_a_row: dict[tuple[str, ...], int] = field(default_factory=dict)  # validations, by cause
    _reported: set[tuple[str, ...]] = field(default_factory=set)

    def __post_init__(self) -> None:
        for row in self.rows:
            self._remember(row)
        self._reported |= {
            (event["kind"], *event["landmarks"]) for event in self.events if "landmarks" in event
        }

    def look(self, row: Row, evidence: Evidence) -> list[Event]:
        """Return the new alarms of one epoch; `row` holds `epoch` and `val/mre_px/<landmark>`."""
        epoch = row["epoch"]
        # epochs that a recovery repeats count once
        self._errors = {number: errors for number, errors in self._errors.items() if number < epoch}
        self._remember(row)
        has_grace = epoch <= math.ceil(self.warmup_epochs) + GRACE_EPOCHS
        alarms = [] if has_grace else self._find_alarms(epoch, evidence)
        by_cause = {(alarm.kind, *alarm.values["landmarks"]): alarm for alarm in alarms}
        self._in_a_row = {cause: self._in_a_row.get(cause, 0) + 1 for cause in by_cause}
        new_causes = [
            cause
            for cause in by_cause
            if self._in_a_row[cause] >= _least_in_a_row(cause[0]) and cause not in self._reported
        ]
        self._reported |= set(new_causes)
        return [by_cause[cause] for cause in new_causes]

    def _remember(self, row: Row) -> None:
        errors = [row.get(f"val/mre_px/{name}") for name in self.names]
        self._errors[row["epoch"]] = [math.nan if error is None else float(error) for error in errors]

    def _find_alarms(self, epoch: int, evidence: Evidence) -> list[Event]:
        """Return what is wrong in one validation; what an earlier check explains is not checked further."""
        if are_all_flat(evidence.contrast):  # the points of flat maps mean nothing
            return [flat_heatmaps(epoch)]
        if are_all_equal(evidence.predicted_xy_input, evidence.true_xy_input):
            return [equal_predictions(epoch, len(evidence.predicted_xy_input))]
        pairs = find_swapped(evidence.predicted_xy_input, evidence.true_xy_input)
        errors = np.array([self._errors[number] for number in sorted(self._errors)])
        stuck = [k for k in find_stuck(errors) if not any(k in pair for pair in pairs)]
        return [
            *(landmarks_swapped(epoch, self.names[i], self.names[j]) for i, j in pairs),
            *(landmark_stuck(epoch, self.names[k], float(_median(errors[-FIRST_EPOCHS:])[k])) for k in stuck),
        ]


def flat_heatmaps(epoch: int) -> Event:
    """Report that all heatmaps are flat."""
    return Event(
        "flat_heatmaps",
        f"epoch {epoch}: the heatmaps of all landmarks are flat in every image; start a new run with "
        "the loss kl, a larger sigma or a lower learning rate (1e-4)",
        {"epoch": epoch, "landmarks": []},
    )


def equal_predictions(epoch: int, num_images: int) -> Event:
    """Report that all images get the same points."""
    return Event(
        "equal_predictions",
        f"epoch {epoch}: the same points are predicted on all {num_images} validation images; "
        "check that each image has its own annotations, and start a new run with a lower learning rate "
        "(1e-4)",
        {"epoch": epoch, "landmarks": []},
    )


def landmark_stuck(epoch: int, name: str, error_px: float) -> Event:
    """Report that one landmark is not learned."""
    return Event(
        "landmark_stuck",
        f"epoch {epoch}: {name} does not improve ({error_px:.1f} px, as in the first epochs) while the "
        f"others do; check how {name} is annotated in the training images: a wrong column, the other side, "
        "too few images; if that is right, start a new run with the loss kl, which finds the most landmarks",
        {"epoch": epoch, "landmarks": [name]},
    )


def landmarks_swapped(epoch: int, first: str, second: str) -> Event:
    """Report that two landmarks are interchanged."""
    return Event(
        "landmarks_swapped",
        f"epoch {epoch}: {first} is predicted where {second} is annotated, and {second} where {first} is; "
        "check the two names in the annotations of the training and of the validation images",
        {"epoch": epoch, "landmarks": [first, second]},
    )


def _least_in_a_row(kind: str) -> int:
    return STUCK_IN_A_ROW if kind == "landmark_stuck" else IN_A_ROW


def _spread(points_xy: FloatArray) -> float:
    """Return the root of the summed variances of points (N, 2); NaN left out."""
    return float(np.sqrt(np.nanvar(points_xy, axis=0).sum()))


def _distance(first_xy: FloatArray, second_xy: FloatArray) -> FloatArray:
    difference = first_xy - second_xy
    return np.hypot(difference[..., 0], difference[..., 1])


def _median(errors: FloatArray) -> FloatArray:
    """Return the median of each column, NaN left out; NaN for a column without a number."""
    has_numbers = np.isfinite(errors).any(0)
    result = np.full(errors.shape[1], np.nan)
    result[has_numbers] = np.nanmedian(errors[:, has_numbers], axis=0)
    return result
