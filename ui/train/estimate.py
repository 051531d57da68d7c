"""What the Train tab says about the cost of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backend.config import Settings
from backend.data.samples import SampleSplits
from ui.text.say import in_time, say, say_count


def estimate_words(settings: Settings, splits: SampleSplits, answer: Mapping[str, Any], *, busy: bool) -> str:
    """Say how many parameters and how much time a run takes, from an answer of `ui.torch_queries`.

    `busy`: a run is training here.
    """
    if answer["seconds_per_image"] is None:
        time = say("estimate_time_busy") if busy else say("estimate_time_none")
    else:
        time = _time_words(settings, splits, answer)
    return say(
        "estimate",
        parameters=f"{answer['num_parameters'] / 1e6:.2f} M",
        time=time,
    )


def _time_words(settings: Settings, splits: SampleSplits, answer: Mapping[str, Any]) -> str:
    """Say the time per epoch and in total, over both phases."""
    num_valid = len(splits.valid) if splits.valid is not None else 0

    def epoch_seconds(prefix: str) -> float:
        validation = answer[f"{prefix}validation_seconds_per_image"] * num_valid
        return float(answer[f"{prefix}seconds_per_image"] * len(splits.train) + validation)

    epoch_s = epoch_seconds("")
    refinement_s = epoch_seconds("refine_") * settings.refine_epochs if settings.refine else 0.0
    text = say(
        "estimate_time",
        epoch=in_time(epoch_s),
        total=in_time(epoch_s * settings.epochs + refinement_s),
        epochs=say_count("num_epochs", settings.epochs),
    )
    return text + (say("estimate_time_refine", time=in_time(refinement_s)) if settings.refine else "")
