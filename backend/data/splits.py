"""Splits off validation images from the training images."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable

import pandas as pd

from backend.errors import UserError

TRAIN = "train"
VALID = "valid"


def assign_validation(images: pd.DataFrame, val_fraction: float, seed: int) -> pd.DataFrame:
    """A copy of `images` (columns image_id, split, group) in which `split` has "valid" rows.

    The rule:

    1. Images that are "valid" already stay the only ones: nothing is split off. No other split is ever
       touched.
    2. Else round(val_fraction * number of "train" images) of them are wanted: at least 1 when the fraction is
       above 0 and there are 2 images to choose from, and never the last one.
    3. Where "train" holds more than one named group (patients, videos), whole groups are split off, an image
       without a group counting as a group of its own, provided that this takes between half and one and a
       half times as many images as wanted (one more or less is near enough) and at most half of "train".
    4. Else (no groups, a single one, or groups too large for rule 3, such as machines) images are split off
       one by one, from each group in proportion to its size.

    The choice depends on (seed, image ids, groups) alone, not on the order of the rows.
    Raises UserError when there is no "train" row or the fraction is not in [0, 1).
    """
    if not 0 <= val_fraction < 1:
        raise UserError(
            f"{val_fraction} is not a share", field="val_fraction", cure="give a share from 0 to below 1"
        )
    images = images.copy()
    train = images[images["split"] == TRAIN]
    if train.empty:
        present = ", ".join(sorted(set(images["split"]))) or "none"
        raise UserError(
            f"no image is in the split 'train' (splits there: {present})",
            field="dataset_path",
            cure="name the training images' split 'train'",
        )
    if (images["split"] == VALID).any():
        return images
    num_wanted = _num_wanted(len(train), val_fraction)
    carved = _choose_groups(train, num_wanted, seed)
    if carved is None:
        carved = _choose_images(train, num_wanted, seed)
    images.loc[images["image_id"].isin(carved) & (images["split"] == TRAIN), "split"] = VALID
    return images


def _num_wanted(num_train: int, val_fraction: float) -> int:
    if val_fraction == 0:
        return 0
    return min(max(1, round(val_fraction * num_train)), num_train - 1)


def _choose_groups(train: pd.DataFrame, num_wanted: int, seed: int) -> set[str] | None:
    """Ids of the images of whole groups, in number near `num_wanted`; None where that cannot be."""
    if num_wanted == 0 or train.loc[train["group"] != "", "group"].nunique() < 2:
        return None
    members: dict[Hashable, list[str]] = {}
    for image_id, group in zip(train["image_id"], train["group"], strict=True):
        key: Hashable = ("group", group) if group else ("image", image_id)
        members.setdefault(key, []).append(image_id)
    carved: set[str] = set()
    for key in sorted(members, key=lambda key: _shuffle_key(seed, repr(key))):
        num_carved = len(carved) + len(members[key])
        no_farther = abs(num_carved - num_wanted) <= abs(len(carved) - num_wanted)
        if no_farther and num_carved <= len(train) // 2:
            carved.update(members[key])
    return carved if carved and abs(len(carved) - num_wanted) <= max(1, num_wanted / 2) else None


def _choose_images(train: pd.DataFrame, num_wanted: int, seed: int) -> set[str]:
    """Ids of exactly `num_wanted` images, spread over the groups in proportion (Sainte-Lague's divisors)."""
    ranked: list[tuple[float, str, str]] = []
    for _, group_rows in train.groupby("group"):
        ids = sorted(group_rows["image_id"], key=lambda image_id: _shuffle_key(seed, image_id))
        ranked += [
            ((rank + 0.5) / len(ids), _shuffle_key(seed, image_id), image_id)
            for rank, image_id in enumerate(ids)
        ]
    return {image_id for _, _, image_id in sorted(ranked)[:num_wanted]}


def _shuffle_key(seed: int, name: str) -> str:
    # A hash of the name, not a draw from a generator: adding an image leaves the order of the others alone.
    return hashlib.sha256(f"{seed}\0{name}".encode()).hexdigest()
