"""What the recommendation of a batch says, as facts: a key and its values, so that a page can say it in its language.

`ENGLISH` holds the sentences of the command line and of what a run records. Must not know how a fact was found.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

GIB = 2**30
ENGLISH = {
    "unknown": "how much memory is free on {device} is unknown: neither the driver nor torch says",
    "too_few_fit": "not even {least} images fit: {need} GiB needed, {free} GiB free less a reserve of {reserve} GiB",
    "fits": "{batch}: {need} of {free} GiB free",
    "more_than_free": "{more} would leave less than the reserve of {reserve} GiB",
    "too_few_steps": "more than {most} would leave an epoch too few steps",
    "few_images": "with only {images} training images, no more than the least that batch normalisation can use",
    "share_of_images": "more than a tenth of the {images} training images would leave an epoch too few steps",
    "no_faster": "larger batches are no faster, as measured",
    "wanted_does_not_fit": "a batch of {wanted} needs {need} GiB and does not fit",
    "accumulate_instead": (
        "a batch of {wanted} needs {need} GiB and does not fit: {batch} with an accumulation of {steps} takes "
        "{images} images a step"
    ),
    "size_would_fit": "images of about {height} x {width} would fit, or another model",
    "choose_less": "choose another model, or free some memory",
    "image_fits": "images of {height} x {width} ({image_need} GiB) would fit",
    "model_fits": "the model {model} ({model_need} GiB) would fit",
    "image_or_model_fits": (
        "images of {height} x {width} ({image_need} GiB) or the model {model} ({model_need} GiB) would fit"
    ),
    "nothing_fits": "no smaller image and no other model fits either: free some memory",
}


@dataclass(frozen=True)
class Remark:
    """One fact: a key of `ENGLISH` and what stands at the places of its sentence."""

    key: str
    values: Mapping[str, str | int]


def remark(key: str, **values: str | int) -> Remark:
    return Remark(key, values)


def in_english(remarks: Iterable[Remark]) -> str:
    """One sentence of all."""
    return "; ".join(ENGLISH[each.key].format(**each.values) for each in remarks)


def in_gib(num_bytes: float) -> str:
    """Bytes as a number of GiB with one decimal."""
    return f"{num_bytes / GIB:.1f}"
