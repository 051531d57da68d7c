"""The texts of figures and reports, and numbers as text. A page with its own texts passes its own `say`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

WORDS: dict[str, str] = {
    "figure_error": "error, {unit}",
    "figure_mean_error": "mean error, {unit}",
    "figure_share_within": "share of landmarks, %",
    "figure_prediction": "prediction",
    "figure_unrefined": "before refinement",
    "figure_readers": "inter-reader distance",
    "figure_interval": "prediction, 95 % interval",
    "figure_confidence": "mean confidence",
    "figure_rank": "% of landmarks, least confident first",
    "figure_single": "a landmark",
    "figure_bin": "mean of a bin of equal counts",
    "figure_unknown": "unknown",
    "figure_images": "{value} (n = {num})",
    "interval_from_to": "{low} to {high} {unit}",
}
LEAKED: dict[str, str] = {
    "leaked_unknown": "Whether any image is in the training data is unknown: it could not be read.",
    "leaked_none": "None of the images is in the training data.",
    "leaked_out": "{leaked} images left out: they are in the training data.",
    "leaked_unseen": "{unseen} training images no longer exist: only identical files could be found.",
    "leaked_made_before": "The run was made before its images were recorded: the folder was read as it is "
    "today.",
    "leaked_kept": "{leaked} of the {num} images are in the training data: the error looks too small.",
}


CASES: dict[str, tuple[str, str]] = {
    "image": ("image", "images"),
    "patient": ("patient", "patients"),
    "video": ("video", "videos"),
    "group": ("patient or video", "patients or videos"),
}


class Say(Protocol):
    """A text by its name, its places filled in."""

    def __call__(self, key: str, **values: object) -> str: ...


def say_english(key: str, **values: object) -> str:
    """The words of this room."""
    return WORDS[key].format(**values)


def in_unit(value: float | None, unit: str) -> str:
    """ "1.59 mm", "16.2 px", "-" where nothing is known."""
    return "-" if value is None else f"{value:.{_decimals(unit)}f} {unit}"


def in_percent(share: float | None, places: int = 1) -> str:
    """ "72.3 %", "-" where nothing is known."""
    return "-" if share is None else f"{100 * share:.{places}f} %"


def with_spread(described: Any, unit: str) -> str:
    """MRE and its SD: "1.59 ± 1.43 mm"."""
    mean, spread = described[f"mre_{unit}"], described[f"sd_{unit}"]
    if mean is None or spread is None:
        return in_unit(mean, unit)
    places = _decimals(unit)
    return f"{mean:.{places}f} ± {spread:.{places}f} {unit}"


def as_interval(interval: Sequence[float] | None, unit: str, say: Say = say_english) -> str:
    """ "1.48 to 1.71 mm"; a share where the unit is "%"."""
    if interval is None:
        return "-"
    scale, places = (100, 1) if unit == "%" else (1, _decimals(unit))
    low, high = (f"{scale * value:.{places}f}" for value in interval)
    return say("interval_from_to", low=low, high=high, unit=unit)


def count_cases(num: int, kind: str) -> str:
    """ "12 images", "1 patient"."""
    one, several = CASES[kind]
    return f"{num} {one if num == 1 else several}"


def find_leaked(record: Mapping[str, Any]) -> tuple[str, dict[str, int]]:
    """A key of `LEAKED`, what is known of images that stand in the run's training data too, and its numbers.

    A record of an older version does not know.
    """
    leaked = record["about"].get("leaked")
    if leaked is None:
        return "leaked_unknown", {}
    num = len(leaked["image_ids"])
    if not num:
        return "leaked_none", {}
    if leaked["left_out"]:
        return "leaked_out", {"leaked": num}
    return "leaked_kept", {"leaked": num, "num": record["num_images"]}


def find_leak_limits(record: Mapping[str, Any]) -> list[tuple[str, dict[str, int]]]:
    """Keys of `LEAKED` for what limits that knowledge, with their numbers."""
    leaked = record["about"].get("leaked") or {}
    limits: list[tuple[str, dict[str, int]]] = []
    if leaked.get("known_by") == "folder":
        limits.append(("leaked_made_before", {}))
    if leaked.get("num_unseen"):
        limits.append(("leaked_unseen", {"unseen": leaked["num_unseen"]}))
    return limits


def describe_leaked(record: Mapping[str, Any]) -> str:
    """How many of the images stand in the run's training data too, what was done about it, and how that is
    known."""
    found = [find_leaked(record), *find_leak_limits(record)]
    return " ".join(LEAKED[key].format(**numbers) for key, numbers in found)


def _decimals(unit: str) -> int:
    return 2 if unit == "mm" else 1
