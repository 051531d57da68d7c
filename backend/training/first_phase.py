"""Build the trainer of the first network, on whole images."""

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
from backend.training.resume import align_with_folder
from backend.training.run_data import RunData

log = logging.getLogger(__name__)


def build_first_trainer(data: RunData, last: dict[str, Any] | None) -> Trainer:
    """Build the trainer of a new network, or of that in the checkpoint `last`, in the state saved there."""
    config, settings = data.config, data.config.settings
    task = build.build_task(config, data.landmark_names)
    num_refine_epochs = settings.refine_epochs if settings.refine else 0
    share = settings.epochs / (settings.epochs + num_refine_epochs)
    phase = Phase(TRAIN, build.first_schedule(settings), share_before=0.0, share=share)
    preview_images = build.build_images(settings, data.previews.samples, data.previews.store)
    previews = PreviewImages(data.previews.samples, load_preview_batch(preview_images), data.preview_split)
    recorder = Recorder(data, phase, task, previews)
    network = _build_network(data, resumes=last is not None)
    augmentation = build.build_augmentation(settings, data.landmark_names)
    train = build.build_batches(config, data.train.samples, data.train.store, augmentation)
    valid = None
    if data.valid is not None:
        valid = build.build_batches(config, data.valid.samples, data.valid.store)
    trainer = build.build_trainer(
        config,
        phase.schedule,
        network=network,
        task=task,
        train=train,
        valid=valid,
        observer=recorder,
    )
    if last is not None:
        trainer.load_state_dict(last)
    align_with_folder(data, TRAIN, recorder, trainer, last)
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
