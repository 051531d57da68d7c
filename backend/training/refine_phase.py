"""The trainer of the second network, on crops about the annotated points; validated on crops about the first
network's points."""

from __future__ import annotations

from typing import Any

from backend.data.crops import CropDataset
from backend.run.best import REFINE, MeanError
from backend.training import build
from backend.training.checkpoint import load_checkpoint
from backend.training.engine import Trainer
from backend.training.first_points import FirstPoints, choose_jitter
from backend.training.loop_state import Best
from backend.training.phase import FirstNetwork, Phase
from backend.training.previews import PreviewImages, load_preview_batch
from backend.training.recorder import Recorder
from backend.training.resume import continue_from
from backend.training.run_data import RunData


def build_refine_trainer(data: RunData, last: dict[str, Any] | None) -> Trainer:
    """New, for the first network of best.pt, or in the state of the checkpoint `last`.

    Raises MemoryShortageError and StopAskedError, in the predictions of the first network.
    """
    config, settings = data.config, data.config.settings
    task = build.build_refiner_task(config, data.landmark_names)
    source = last or load_checkpoint(data.folder.checkpoint_path("best"))
    first = FirstPoints.of(data, source["model_state_dict"])
    jitter_px = last["networks"][REFINE]["jitter_px"] if last is not None else choose_jitter(data, first)
    share = settings.refine_epochs / (settings.epochs + settings.refine_epochs)
    of_another: dict[str, Any] = {
        name: source[name] for name in ("first_args", "first_learned_from") if name in source
    }
    first_network = FirstNetwork(source["model_state_dict"], first.errors, jitter_px, of_another)
    phase = Phase(REFINE, build.refine_schedule(settings), 1.0 - share, share, first_network)
    crops = CropDataset(data.previews.samples, config.crop_frame, first.previews, store=data.previews.store)
    previews = PreviewImages(data.previews.samples, load_preview_batch(crops), data.preview_split)
    recorder = Recorder(data.folder, config, phase, task, previews, data.shape_prior, data.origin, data.stop)
    samples, store = data.train.samples, data.train.store
    augmentation = build.build_augmentation(settings, data.landmark_names)
    train = build.build_crop_batches(config, samples, store, samples.points_xy_image, augmentation, jitter_px)
    valid = None
    if data.valid is not None and first.valid is not None:
        valid = build.build_crop_batches(config, data.valid.samples, data.valid.store, first.valid)
    network = build.build_refiner(config, len(data.landmark_names))
    trainer = build.build_trainer(config, phase.schedule, network, task, train, valid, recorder)
    if last is not None:
        trainer.load_state_dict({**last, "model_state_dict": last["networks"][REFINE]["model_state_dict"]})
    # a refiner is better only once it beats the first network
    trainer.loop.best = Best(error=MeanError(first.errors.get("mre_px"), first.errors.get("mre_mm")))
    continue_from(data, REFINE, recorder, trainer, last)
    recorder.write_preview_images()
    return trainer
