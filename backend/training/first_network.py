"""The first network that another run trained, as far as this run can use it: read and checked, before a run is made and
again when it begins."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from backend.config import RunConfig
from backend.errors import UserError
from backend.training import build
from backend.training.checkpoint import load_checkpoint
from backend.training.checkpoint_checks import check_weights, config_of

FIELD = "first_network"
# what must agree for a first network to see in this run what it saw in its own
SAME_FIELDS = ("model", "image_size", "output_stride", "resize", "loss", "decoder")


def read_first_network(config: RunConfig, landmark_names: Sequence[str]) -> tuple[dict[str, Any], RunConfig]:
    """The checkpoint that a run's `first_network` names, and the configuration that trained its first network.

    Raises UserError, at that field, where it cannot be read or does not fit this run and its landmarks.
    """
    path = Path(config.value(FIELD))
    try:
        content = load_checkpoint(path)
        theirs = config_of(path, content.get("first_args") or content["args"])
        _require_same(path, theirs, config)
        if tuple(content["landmark_names"]) != tuple(landmark_names):
            raise UserError(
                f"{path} knows other landmarks than this data set", cure="give one that was trained on them"
            )
        with torch.device("meta"):
            network = build.build_network(config, len(landmark_names))
        check_weights(path, content["model_state_dict"], network, config.settings.model)
    except UserError as error:
        raise UserError(error.what, field=FIELD, cure=error.cure) from error
    return content, theirs


def _require_same(path: Path, theirs: RunConfig, ours: RunConfig) -> None:
    for field in SAME_FIELDS:
        their, our = (getattr(one.settings, field) for one in (theirs, ours))
        if their != our:
            raise UserError(
                f"{path} was trained with {field} {their}, this run has {our}", cure=f"give the same {field}"
            )
