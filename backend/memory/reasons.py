"""The reasons of a batch recommendation, each as a key and the values of its sentence.

`ENGLISH` holds the sentences that the command line prints and a run records; the page has its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

GIB = 2**30
ENGLISH = {
    "unknown": "the free memory of {device} is unknown: neither the driver nor torch reports it",
    "too_few_fit": "not even {least} images fit: {need} GiB needed, {free} GiB free less a reserve of "
    "{reserve} GiB",
    "fits": "{batch}: {need} of {free} GiB free",
    "allocator_margin": "with a margin of {percent}% for CUDA's memory allocator, which was not measured",
    "more_than_free": "{more} would leave less than the reserve of {reserve} GiB",
    "too_few_steps": "more than {most} would leave too few steps per epoch",
    "few_images": "with only {images} training images, no more than the minimum for batch normalization",
    "share_of_images": "more than a tenth of the {images} training images would leave too few steps per "
    "epoch",
    "no_faster": "larger batches are not faster, as measured",
    "wanted_does_not_fit": "a batch of {wanted} needs {need} GiB and does not fit",
    "accumulate_instead": (
        "a batch of {wanted} needs {need} GiB and does not fit: {batch} with an accumulation of {steps} is "
        "{images} images per step"
    ),
    "image_fits": "images of {height} x {width} ({image_need} GiB) would fit",
    "model_fits": "the model {model} ({model_need} GiB) would fit",
    "image_or_model_fits": (
        "images of {height} x {width} ({image_need} GiB) or the model {model} ({model_need} GiB) would fit"
    ),
    "nothing_fits": "no smaller image and no other model fits either: free some memory",
}
# the reasons that say what to change if no batch fits
CURES = frozenset({"image_fits", "model_fits", "image_or_model_fits", "nothing_fits"})


@dataclass(frozen=True)
class Reason:
    """A key of `ENGLISH` and the values for its sentence."""

    key: str
    values: Mapping[str, str | int]


def reason(key: str, **values: str | int) -> Reason:
    """Build a reason from its key and values."""
    return Reason(key, values)


def in_english(reasons: Iterable[Reason]) -> str:
    """Join all reasons in one sentence."""
    return "; ".join(ENGLISH[reason.key].format(**reason.values) for reason in reasons)


def in_gib(num_bytes: float) -> str:
    """Format bytes as a number of GiB with one decimal."""
    return f"{num_bytes / GIB:.1f}"
