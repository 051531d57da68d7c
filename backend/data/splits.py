"""Splits validation images off from the training images."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable

import pandas as pd

from backend.errors import UserError

TRAIN = "train"
VALID = "valid"


def assign_validation(images: pd.DataFrame, val_fraction: float, seed: int) -> pd.DataFrame:
    """Copy `images` (columns image_id, split, group), with "valid" in `split` for the validation images.

    The rule:

    1. Images that are "valid" already stay the only ones: nothing is split off. No other split is ever
       touched.
    2. Else the target is round(val_fraction * number of "train" images): at least 1 if the fraction is above
       0 and there are 2 images to choose from, and never the last one.
    3. If "train" holds more than one named group (patients, videos), whole groups are split off; an image
       without a group is a group of its own. This must take between half and one and a half times the target
       (or one image more or less) and at most half of "train".
    4. Else (no groups, a single one, or groups too large for rule 3, such as machines) images are split off
       one by one, from each group in proportion to its size.

    The choice depends on (seed, image ids, groups) alone, not on the order of the rows. Raises UserError if
    there is no "train" row or the fraction is not in [0, 1).
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
    target = _target_size(len(train), val_fraction)
    carved = _choose_groups(train, target, seed)
    if carved is None:
        carved = _choose_images(train, target, seed)
    images.loc[images["image_id"].isin(carved) & (images["split"] == TRAIN), "split"] = VALID
    return images


def _target_size(num_train: int, val_fraction: float) -> int:
    if val_fraction == 0:
        return 0
    return min(max(1, round(val_fraction * num_train)), num_train - 1)


def _choose_groups(train: pd.DataFrame, target: int, seed: int) -> set[str] | None:
    """Choose the images of whole groups, in number near `target`; None if that is impossible."""
    if target == 0 or train.loc[train["group"] != "", "group"].nunique() < 2:
        return None
    members: dict[Hashable, list[str]] = {}
    for image_id, group in zip(train["image_id"], train["group"], strict=True):
        key: Hashable = ("group", group) if group else ("image", image_id)
        members.setdefault(key, []).append(image_id)
    carved: set[str] = set()
    for key in sorted(members, key=lambda key: _shuffle_key(seed, repr(key))):
        num_carved = len(carved) + len(members[key])
        is_nearer = abs(num_carved - target) <= abs(len(carved) - target)
        if is_nearer and num_carved <= len(train) // 2:
            carved.update(members[key])
    return carved if carved and abs(len(carved) - target) <= max(1, target / 2) else None


def _choose_images(train: pd.DataFrame, target: int, seed: int) -> set[str]:
    """Choose exactly `target` images, spread over the groups in proportion (Sainte-Lague's divisors)."""
    ranked: list[tuple[float, str, str]] = []
    for _, group_rows in train.groupby("group"):
        ids = sorted(group_rows["image_id"], key=lambda image_id: _shuffle_key(seed, image_id))
        ranked += [
            ((rank + 0.5) / len(ids), _shuffle_key(seed, image_id), image_id)
            for rank, image_id in enumerate(ids)
        ]
    return {image_id for _, _, image_id in sorted(ranked)[:target]}


def _shuffle_key(seed: int, name: str) -> str:
    # A hash of the name, not a draw from a generator: adding an image leaves the order of the others alone.
    return hashlib.sha256(f"{seed}\0{name}".encode()).hexdigest()
