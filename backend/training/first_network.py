"""Use the first network that another run trained.

It is read and checked before a run is created and again when it starts, and saved as the run's best.pt.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from backend.config import RunConfig, settings_affecting
from backend.data.trained_on import ids_in_training
from backend.errors import UserError
from backend.run.best import REFINE
from backend.training import build
from backend.training.checkpoint import (
    keep_first_network,
    load_checkpoint,
    save_checkpoint,
    shape_prior_content,
)
from backend.training.checkpoint_checks import check_weights, parse_config
from backend.training.origin import find_trained_on
from backend.training.run_data import RunData

FIELD = "first_network"


def read_first_network(config: RunConfig, landmark_names: Sequence[str]) -> tuple[dict[str, Any], RunConfig]:
    """Read the checkpoint that a run's `first_network` names, and the configuration that trained its network.

    Raises UserError, at that field, if it cannot be read or does not fit this run and its landmarks.
    """
    path = Path(config.value(FIELD))
    try:
        content = load_checkpoint(path)
        first_config = parse_config(path, content.get("first_args") or content["args"])
        _require_same_input(path, first_config, config)
        if tuple(content["landmark_names"]) != tuple(landmark_names):
            raise UserError(
                f"{path} was trained on other landmarks than those of this data set",
                cure="give one that was trained on them",
            )
        with torch.device("meta"):
            network = build.build_network(config, len(landmark_names))
        check_weights(path, content["model_state_dict"], network, config.settings.model)
    except UserError as error:
        raise UserError(error.what, field=FIELD, cure=error.cure) from error
    return content, first_config


def _require_same_input(path: Path, first_config: RunConfig, config: RunConfig) -> None:
    """Raise UserError if the network that another run trained would see other input in this run."""
    for field in settings_affecting("first_network"):
        first_value, value = (
            getattr(settings, field) for settings in (first_config.settings, config.settings)
        )
        if first_value != value:
            raise UserError(
                f"{path} was trained with {field} {first_value}, this run has {value}",
                cure=f"give the same {field}",
            )


def adopt_first_network(data: RunData) -> None:
    """Save another run's first network as this run's best.pt. Raises UserError if it does not fit."""
    path = Path(data.config.value(FIELD))
    content, first_config = read_first_network(data.config, data.landmark_names)
    _require_unseen_validation(data, content, path, first_config)
    best = {
        **keep_first_network(content),
        **data.origin,
        "args": data.config.to_dict(),
        "first_args": content.get("first_args") or content["args"],
        "first_learned_from": content.get("first_learned_from") or content.get("learned_from", {}),
        "shape_prior": shape_prior_content(data.shape_prior),
    }
    save_checkpoint(data.folder.checkpoint_path("best"), best)
    _report(data, f"the first network is that of {path}")


def _require_unseen_validation(
    data: RunData, content: dict[str, Any], path: Path, first_config: RunConfig
) -> None:
    """Raise UserError if the first network was trained on this run's validation images.

    Its errors on them would mean nothing. If that cannot be checked, an event says so.
    """
    if data.valid is None:
        return
    try:
        trained_on = find_trained_on(path, content)[-1]  # the run that trained its first network
    except UserError as error:
        _report(
            data, f"cannot check whether {path} was trained on validation images of this run: {error.what}"
        )
        return
    seen = ids_in_training(data.valid.samples, data.splits, trained_on, is_own=True)
    if seen:
        raise UserError(
            f"{path} was trained on {len(seen)} of the {len(data.valid.samples)} validation images of this "
            "run, so its errors on them mean nothing: "
            f"{', '.join(seen[:3])}{' ...' if len(seen) > 3 else ''}",
            field=FIELD,
            cure=f"use its data set, seed {first_config.settings.seed} and val_fraction "
            f"{first_config.settings.val_fraction:g}",
        )
    if trained_on.num_unseen:
        _report(
            data,
            f"of the images that {path} was trained on, {trained_on.num_unseen} no longer exist: among "
            "them, only files identical to this run's validation images could be found",
        )


def _report(data: RunData, message: str) -> None:
    data.folder.append_event(FIELD, message, phase=REFINE)
