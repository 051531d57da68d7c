"""The pairs of landmarks that change places in a mirror."""

from __future__ import annotations

from collections.abc import Sequence

from backend.errors import UserError


def flip_order(landmark_names: Sequence[str], flip_pairs: str) -> tuple[int, ...] | None:
    """Read from "left=right, ..." the landmark that each one becomes in a mirror; None if no pair is given.

    Raises UserError for a name that the data set does not have, or that is in two pairs.
    """
    if not flip_pairs.strip():
        return None
    index_of = {name: number for number, name in enumerate(landmark_names)}
    order = list(range(len(landmark_names)))
    paired: set[str] = set()
    for pair in flip_pairs.split(","):
        names = [name.strip() for name in pair.split("=")]
        if len(names) != 2 or any(name not in index_of or name in paired for name in names):
            raise UserError(
                f"{pair.strip()!r} is not a pair of two landmarks that are in no other pair",
                field="flip_pairs",
                cure=f"write left=right, separated by commas, of {', '.join(landmark_names)}",
            )
        paired.update(names)
        left, right = (index_of[name] for name in names)
        order[left], order[right] = right, left
    return tuple(order)
