"""Text of figures and reports, and numbers as text; English unless a `Translate` is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

TEXTS: dict[str, str] = {
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


class Translate(Protocol):
    """Return the text of a key of `TEXTS` in some language, with its placeholders filled in.

    The page shows these figures in its own language and passes the function that looks up its texts, since
    the backend may not import the page. The report and the command line are always in English.
    """

    def __call__(self, key: str, **values: object) -> str: ...


def to_english(key: str, **values: object) -> str:
    """Return the English text of a key of `TEXTS`, with its placeholders filled in."""
    return TEXTS[key].format(**values)


def in_unit(value: float | None, unit: str) -> str:
    """Format a distance: "1.59 mm", "16.2 px", "-" for None."""
    return "-" if value is None else f"{value:.{_decimals(unit)}f} {unit}"


def in_percent(share: float | None, places: int = 1) -> str:
    """Format a share: "72.3 %", "-" for None."""
    return "-" if share is None else f"{100 * share:.{places}f} %"


def with_spread(statistics: Mapping[str, Any], unit: str) -> str:
    """Format the MRE and its SD: "1.59 ± 1.43 mm"."""
    mean, spread = statistics[f"mre_{unit}"], statistics[f"sd_{unit}"]
    if mean is None or spread is None:
        return in_unit(mean, unit)
    places = _decimals(unit)
    return f"{mean:.{places}f} ± {spread:.{places}f} {unit}"


def as_interval(interval: Sequence[float] | None, unit: str, translate: Translate = to_english) -> str:
    """Format an interval: "1.48 to 1.71 mm", "-" for None; of a share if the unit is "%"."""
    if interval is None:
        return "-"
    scale, places = (100, 1) if unit == "%" else (1, _decimals(unit))
    low, high = (f"{scale * value:.{places}f}" for value in interval)
    return translate("interval_from_to", low=low, high=high, unit=unit)


def count_cases(num: int, kind: str) -> str:
    """Format a number of cases: "12 images", "1 patient"."""
    singular, plural = CASES[kind]
    return f"{num} {singular if num == 1 else plural}"


def find_leaked(record: Mapping[str, Any]) -> tuple[str, dict[str, int]]:
    """Return a key of `LEAKED` for the images that are also in the training data, and its numbers.

    Records of older versions do not say whether there are any.
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
    """Return keys of `LEAKED` for what limits that knowledge, with their numbers."""
    leaked = record["about"].get("leaked") or {}
    limits: list[tuple[str, dict[str, int]]] = []
    if leaked.get("known_by") == "folder":
        limits.append(("leaked_made_before", {}))
    if leaked.get("num_unseen"):
        limits.append(("leaked_unseen", {"unseen": leaked["num_unseen"]}))
    return limits


def describe_leaked(record: Mapping[str, Any]) -> str:
    """Say how many images are also in the training data, and whether they were left out."""
    sentences = [find_leaked(record), *find_leak_limits(record)]
    return " ".join(LEAKED[key].format(**numbers) for key, numbers in sentences)


def _decimals(unit: str) -> int:
    return 2 if unit == "mm" else 1
