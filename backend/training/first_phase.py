"""The trainer of the first network, on whole images."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from torch import nn

from backend.run.best import TRAIN
from backend.training import build
from backend.training.engine import Trainer
from backend.training.phase import Phase
from backend.training.previews import PreviewImages, load_preview_batch
from backend.training.recorder import Recorder
from backend.training.resume import continue_from
from backend.training.run_data import RunData

log = logging.getLogger(__name__)


def build_first_trainer(data: RunData, last: dict[str, Any] | None) -> Trainer:
    """New, or in the state of the checkpoint `last`."""
    config, settings = data.config, data.config.settings
    task = build.build_task(config, data.landmark_names)
    shown = build.build_images(settings, data.previews.samples, data.previews.store)
    share = settings.epochs / (settings.epochs + settings.refine_epochs * settings.refine)
    phase = Phase(TRAIN, build.first_schedule(settings), 0.0, share)
    previews = PreviewImages(data.previews.samples, load_preview_batch(shown), data.preview_split)
    recorder = Recorder(data.folder, config, phase, task, previews, data.shape_prior, data.origin, data.stop)
    network = _build_network(data, resumes=last is not None)
    augmentation = build.build_augmentation(settings, data.landmark_names)
    train = build.build_batches(config, data.train.samples, data.train.store, augmentation)
    valid = None
    if data.valid is not None:
        valid = build.build_batches(config, data.valid.samples, data.valid.store)
    trainer = build.build_trainer(config, phase.schedule, network, task, train, valid, recorder)
    if last is not None:
        trainer.load_state_dict(last)
    continue_from(data, TRAIN, recorder, trainer, last)
    recorder.write_preview_images()
    return trainer


def _build_network(data: RunData, *, resumes: bool) -> nn.Module:
    config = data.config
    network = build.build_network(config, len(data.landmark_names))
    if config.settings.pretrained and not resumes:
        loaded, not_fitting = build.load_pretrained(network, Path(config.value("pretrained")))
        log.info(
            "pretrained: %d weights loaded; not fitting: %s", len(loaded), ", ".join(not_fitting) or "none"
        )
    return network
