"""Build the trainer of the second network.

It is trained on crops about the annotated points, and validated on crops about the first network's points.
"""

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
from backend.training.resume import align_with_folder
from backend.training.run_data import RunData


def build_refine_trainer(data: RunData, last: dict[str, Any] | None) -> Trainer:
    """Build the trainer of a new network, or of that in the checkpoint `last`, in the state saved there.

    The first network is that of best.pt, or of `last`. It predicts the points that the crops of validation
    and preview images lie about. Raises MemoryShortageError and StopAskedError in these predictions.
    """
    config, settings = data.config, data.config.settings
    task = build.build_refiner_task(config, data.landmark_names)
    source = last or load_checkpoint(data.folder.checkpoint_path("best"))
    first_points = FirstPoints.predict(data, source["model_state_dict"])
    jitter_px = choose_jitter(data, first_points) if last is None else last["networks"][REFINE]["jitter_px"]
    first_network = FirstNetwork(
        source["model_state_dict"],
        first_points.errors,
        jitter_px,
        origin={name: source[name] for name in ("first_args", "first_learned_from") if name in source},
    )
    share = settings.refine_epochs / (settings.epochs + settings.refine_epochs)
    schedule = build.refine_schedule(settings)
    phase = Phase(REFINE, schedule, share_before=1.0 - share, share=share, first=first_network)
    crops = CropDataset(
        data.previews.samples, config.crop_frame, first_points.previews, store=data.previews.store
    )
    previews = PreviewImages(data.previews.samples, load_preview_batch(crops), data.preview_split)
    recorder = Recorder(data, phase, task, previews)
    samples, store = data.train.samples, data.train.store
    train = build.build_crop_batches(
        config,
        samples,
        store,
        centres_xy_image=samples.points_xy_image,
        augmentation=build.build_augmentation(settings, data.landmark_names),
        jitter_px=jitter_px,
    )
    valid = None
    if data.valid is not None and first_points.valid is not None:
        valid = build.build_crop_batches(config, data.valid.samples, data.valid.store, first_points.valid)
    trainer = build.build_trainer(
        config,
        schedule,
        network=build.build_refiner(config, len(data.landmark_names)),
        task=task,
        train=train,
        valid=valid,
        observer=recorder,
    )
    if last is not None:
        trainer.load_state_dict({**last, "model_state_dict": last["networks"][REFINE]["model_state_dict"]})
    # a refiner is better only once it beats the first network
    errors = first_points.errors
    trainer.loop.best = Best(error=MeanError(errors.get("mre_px"), errors.get("mre_mm")))
    align_with_folder(data, REFINE, recorder, trainer, last)
    recorder.write_preview_images()
    return trainer
