"""Checks of a run's settings against its data, before a folder is created for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from backend.config import RunConfig
from backend.data.flip_pairs import flip_order
from backend.training import build
from backend.training.first_network import read_first_network


def check_start(config: RunConfig, landmark_names: Sequence[str]) -> None:
    """Raise UserError, at its field, for flip pairs or files of weights that the run could not use."""
    flip_order(landmark_names, config.settings.flip_pairs)
    if config.settings.first_network:
        read_first_network(config, landmark_names)
    if config.settings.pretrained:
        network = build.build_network(config, len(landmark_names))
        build.load_pretrained(network, Path(config.value("pretrained")))
