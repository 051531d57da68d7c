"""A phase of a run: the training of one network, and its share of the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backend.training.build import Schedule
from backend.training.protocols import Metrics


@dataclass(frozen=True)
class FirstNetwork:
    """The start of a refinement: trained weights, their errors, and how far crops are therefore shifted."""

    weights: Mapping[str, Any]
    errors: Metrics  # mre_px, mre_mm on the validation images; empty without any
    jitter_px: float  # by which the crops are shifted in training, crop pixels
    origin: Mapping[str, Any]  # `first_args` and `first_learned_from` if another run trained it, else empty


@dataclass(frozen=True)
class Phase:
    """A part of a run that trains one network: `train` the first one, `refine` the second."""

    name: str
    schedule: Schedule
    share_before: float  # of the run's epochs, done before this phase
    share: float
    first: FirstNetwork | None = None
