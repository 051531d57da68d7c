"""What a run does, phase by phase: `train`, the chosen network on whole images; then `refine`, a second network on
crops about the points that the first one finds.

Builds each phase, loads the state to go on from. Knows the run folder; must not know processes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from backend.config import RunConfig
from backend.data.crops import CropDataset
from backend.data.dataset import Batches
from backend.data.provenance import check_landmarks
from backend.data.samples import Samples
from backend.data.trained_on import ids_in_training
from backend.errors import UserError
from backend.geometry import FloatArray
from backend.run.best import REFINE, TRAIN, BestWeights, MeanError
from backend.training import build
from backend.training.checkpoint import (
    first_network_alone,
    load_best,
    load_checkpoint,
    load_resumable,
    save_checkpoint,
    shape_prior_content,
)
from backend.training.engine import Metrics, Trainer
from backend.training.events import (
    Event,
    did_not_learn,
    prediction_retry,
    retried_after_divergence,
    without_progress,
)
from backend.training.first_network import read_first_network
from backend.training.inference import predict_batches
from backend.training.loop_state import Best, Ending, Request, StopAskedError
from backend.training.metrics import guess_mean_positions, mean_error, radial_errors
from backend.training.micro_batch import WHOLE_BATCHES
from backend.training.origin import find_trained_on
from backend.training.out_of_memory import Shortage, ShortOfMemoryError, attempt
from backend.training.recorder import (
    FirstNetwork,
    Phase,
    PreviewImages,
    Recorder,
    load_preview_batch,
    requests_of,
)
from backend.training.run_data import Job, Stored
from backend.training.stability import lower_lr

# torch's words where a lone image is brought down to one cell
NO_STATISTICS = "Expected more than 1 value per channel when training"
# shares of a crop's side, so that a finer crop of the same stretch is jittered by as much
DEFAULT_JITTER = 1 / 8  # where no validation image says how far off the first network is
JITTER_LIMITS = (1 / 32, 3 / 16)
JITTER_OF_ERROR = 1.5  # the network must also find its way back from rare, large errors
MIN_ERRORS = 20  # fewer measured errors say little of their spread

GOES_ON_AFTER = (Ending.COMPLETED, Ending.EARLY_STOPPED)  # the first network is as good as it gets

Checkpoint = dict[str, Any]


def train_phases(job: Job) -> tuple[Ending, str]:
    """Train what is not trained yet. Returns how it ended and a line on it."""
    last_path = job.folder.checkpoint_path("last")
    last_path.parent.mkdir(exist_ok=True)
    last = load_resumable(last_path) if last_path.is_file() else None
    if last is not None:
        check_landmarks(last["landmark_names"], (), job.landmark_names)
    if last is None and job.config.settings.first_network:
        if (
            load_best(job.folder.checkpoint_path("best")) is None
        ):  # else killed before last.pt was first saved
            _adopt_first(job)
    elif last is None or last["phase"] == TRAIN:
        trainer = _build_first(job, last)
        ending = _fit(job, trainer)
        if ending is Ending.COMPLETED and job.config.settings.refine and job.folder.requested("finish"):
            ending = Ending.FINISHED_EARLY  # asked for in the last epoch, where nothing was left to cut short
        if ending not in GOES_ON_AFTER or not job.config.settings.refine:
            return _conclude(job, TRAIN, ending, trainer)
        last = None
        del trainer  # its memory is free before the second network takes its own
    try:
        trainer = _build_refinement(job, last)
    except StopAskedError:
        goes_on = "resume goes on from there" if last_path.is_file() else "nothing was trained yet"
        return Ending.STOPPED, f"stopped in the predictions of the first network; {goes_on}"
    return _conclude(job, REFINE, _fit(job, trainer), trainer)


def _fit(job: Job, trainer: Trainer) -> Ending:
    try:
        return trainer.fit()
    except ValueError as error:
        if NO_STATISTICS not in str(error):
            raise
        raise UserError(
            "batch normalisation takes no statistics of a single image that the network brings down to one cell",
            field="batch_size",
            cure="take a batch size that leaves no image of an epoch alone, or larger images",
        ) from error


def _adopt_first(job: Job) -> None:
    """Take the first network from another run's checkpoint. Raises UserError where it does not fit this run."""
    path = Path(job.config.value("first_network"))
    content, theirs = read_first_network(job.config, job.landmark_names)
    first_args = content.get("first_args") or content["args"]
    _require_unseen_validation(job, content, path, theirs)
    ours = {
        **job.origin,
        "args": job.config.to_dict(),
        "first_args": first_args,
        "first_learned_from": content.get("first_learned_from") or content.get("learned_from", {}),
        "shape_prior": shape_prior_content(job.shape_prior),
    }
    save_checkpoint(job.folder.checkpoint_path("best"), {**first_network_alone(content), **ours})
    job.folder.append_event("first_network", f"the first network is that of {path}", phase=REFINE)


def _require_unseen_validation(job: Job, content: Checkpoint, path: Path, theirs: RunConfig) -> None:
    """Raises UserError where the first network was trained on images by which this run would choose and report; where
    that cannot be known, it is an event."""
    if job.valid is None:
        return
    try:
        trained_on = find_trained_on(path, content)[-1]  # whoever trained its first network
    except UserError as error:
        message = f"whether {path} was trained on validation images of this run is not known: {error.what}"
        job.folder.append_event("first_network", message, phase=REFINE)
        return
    seen = ids_in_training(job.valid.samples, job.splits, trained_on, is_own=True)
    if seen:
        raise UserError(
            f"{path} was trained on {len(seen)} of the {len(job.valid.samples)} validation images of this run, "
            f"so its errors there say nothing: {', '.join(seen[:3])}{' ...' if len(seen) > 3 else ''}",
            field="first_network",
            cure=f"take its data set, seed {theirs.settings.seed} and val_fraction {theirs.settings.val_fraction:g}",
        )
    if trained_on.num_unseen:
        message = (
            f"of the images that {path} was trained on, {trained_on.num_unseen} are not there any more: among them "
            "only files equal to this run's validation images could be looked for"
        )
        job.folder.append_event("first_network", message, phase=REFINE)


def _build_first(job: Job, last: Checkpoint | None) -> Trainer:
    """The trainer of the first network, on whole images."""
    config, settings = job.config, job.config.settings
    task = build.build_task(config, job.landmark_names)
    shown = build.build_images(settings, job.previews.samples, job.previews.store)
    share = settings.epochs / (settings.epochs + settings.refine_epochs * settings.refine)
    phase = Phase(TRAIN, build.first_schedule(settings), 0.0, share)
    previews = PreviewImages(job.previews.samples, load_preview_batch(shown), job.preview_split)
    recorder = Recorder(job.folder, config, phase, task, previews, job.shape_prior, job.origin, job.stop)
    network = _build_network(job, resumes=last is not None)
    augmentation = build.build_augmentation(settings, job.landmark_names)
    train = build.build_batches(config, job.train.samples, job.train.store, augmentation)
    valid = _plain_batches(job, job.valid) if job.valid is not None else None
    trainer = build.build_trainer(config, phase.schedule, network, task, train, valid, recorder)
    if last is not None:
        trainer.load_state_dict(last)
        _tell_resumed(job, TRAIN, trainer)
    _take_bar_from_best(job, TRAIN, trainer, last)
    if last is not None:
        _retry_after_divergence(job, recorder, trainer)
    recorder.write_preview_images()
    return trainer


def _build_refinement(job: Job, last: Checkpoint | None) -> Trainer:
    """The trainer of the second network, on crops about the truth; validated about the first one's points."""
    config, settings = job.config, job.config.settings
    task = build.build_refiner_task(config, job.landmark_names)
    source = last or load_checkpoint(job.folder.checkpoint_path("best"))
    first = _FirstPoints.of(job, source["model_state_dict"])
    jitter_px = last["networks"][REFINE]["jitter_px"] if last is not None else _choose_jitter(job, first)
    share = settings.refine_epochs / (settings.epochs + settings.refine_epochs)
    of_another: Checkpoint = {
        name: source[name] for name in ("first_args", "first_learned_from") if name in source
    }
    stand_on = FirstNetwork(source["model_state_dict"], first.errors, jitter_px, of_another)
    phase = Phase(REFINE, build.refine_schedule(settings), 1.0 - share, share, stand_on)
    crops = CropDataset(job.previews.samples, config.crop_frame, first.previews, store=job.previews.store)
    previews = PreviewImages(job.previews.samples, load_preview_batch(crops), job.preview_split)
    recorder = Recorder(job.folder, config, phase, task, previews, job.shape_prior, job.origin, job.stop)
    samples, store = job.train.samples, job.train.store
    augmentation = build.build_augmentation(settings, job.landmark_names)
    train = build.build_crop_batches(config, samples, store, samples.points_xy_image, augmentation, jitter_px)
    valid = None
    if job.valid is not None and first.valid is not None:
        valid = build.build_crop_batches(config, job.valid.samples, job.valid.store, first.valid)
    network = build.build_refiner(config, len(job.landmark_names))
    trainer = build.build_trainer(config, phase.schedule, network, task, train, valid, recorder)
    if last is not None:
        trainer.load_state_dict({**last, "model_state_dict": last["networks"][REFINE]["model_state_dict"]})
        _tell_resumed(job, REFINE, trainer)
    # a refiner is better only once it beats the first network
    trainer.loop.best = Best(error=MeanError(first.errors.get("mre_px"), first.errors.get("mre_mm")))
    _take_bar_from_best(job, REFINE, trainer, last)
    if last is not None:
        _retry_after_divergence(job, recorder, trainer)
    recorder.write_preview_images()
    return trainer


def _take_bar_from_best(job: Job, phase: str, trainer: Trainer, last: Checkpoint | None) -> None:
    """What is to be beaten is what best.pt holds of this phase: after a kill it may be newer than last.pt."""
    content = load_best(job.folder.checkpoint_path("best"))
    if content is None and last is not None and (phase == REFINE or trainer.loop.best.epoch):
        content = _restore_best(job, phase, last)
    if content is None:
        return
    weights = BestWeights.of(content)
    if weights.phase == phase:
        trainer.loop.best = Best(weights.epoch or 0, weights.error)
        if weights.error.px is not None:
            trainer.loop.own_best = trainer.loop.best


def _restore_best(job: Job, phase: str, last: Checkpoint) -> Checkpoint:
    """In place of a best.pt that is gone or damaged: the first network of last.pt, until there is a better one."""
    content = first_network_alone(last)
    save_checkpoint(job.folder.checkpoint_path("best"), content)
    message = "best.pt was missing or damaged: the first network of last.pt took its place until there is a better one"
    print(message, flush=True)
    job.folder.append_event("best_restored", message, phase=phase)
    return content


@dataclass(frozen=True)
class _FirstPoints:
    """Where the trained first network sees the landmarks, (N, K, 2) in original pixels, and its errors."""

    valid: FloatArray | None
    previews: FloatArray
    errors: Metrics

    @classmethod
    def of(cls, job: Job, state: dict[str, Any]) -> _FirstPoints:
        network = build.build_network(job.config, len(job.landmark_names))
        network.load_state_dict(state)
        network = network.to(job.config.value("device")).eval()
        previews = _predict(job, network, job.previews)
        if job.valid is None:
            return cls(None, previews, {})
        valid = _predict(job, network, job.valid)
        samples = job.valid.samples
        error = mean_error(radial_errors(valid, samples.points_xy_image, samples.mm_per_px_xy))
        return cls(valid, previews, {"mre_px": error.px, "mre_mm": error.mm})


def _predict(job: Job, network: nn.Module, stored: Stored) -> FloatArray:
    """In smaller parts where memory runs out. Raises ShortOfMemoryError and StopAskedError."""
    task = build.build_task(job.config, job.landmark_names)
    batches, device = _plain_batches(job, stored), torch.device(job.config.value("device"))
    micro_batch, size = WHOLE_BATCHES, batches.largest_batch
    while isinstance(
        found := attempt(
            partial(
                predict_batches,
                network,
                task,
                batches,
                device,
                micro_batch,
                before_part=partial(_heed_stop, job),
            ),
            device,
        ),
        Shortage,
    ):
        where, finer = (
            "predictions of the first network",
            micro_batch.halved(size, 1, job.config.settings.on_oom),
        )
        if finer is None:
            raise ShortOfMemoryError(where, micro_batch.largest_part(size), micro_batch.num_retries, found)
        micro_batch = finer
        event = prediction_retry(where, micro_batch, found.error)
        print(event.message, flush=True)
        job.folder.append_event(event.kind, event.message, phase=REFINE, **event.values)
    return found.points_xy_image


def _heed_stop(job: Job) -> None:
    if Request.STOP in requests_of(job.folder, job.stop):
        raise StopAskedError


def _choose_jitter(job: Job, first: _FirstPoints) -> float:
    """As asked, or half as much again as the first network's errors on images that it has not seen."""
    asked = job.config.settings.crop_jitter
    if asked != "auto":
        return float(asked)
    side_px = job.config.settings.crop_size
    jitter_px, why = (
        DEFAULT_JITTER * side_px,
        "too few validation images say how far off the first network is",
    )
    if job.valid is not None and first.valid is not None:
        errors = _errors_in_crop_px(job, job.valid.samples, first.valid)
        if errors.size >= MIN_ERRORS:
            # the middle half of the errors gives the spread of a Gaussian, whatever the outliers
            spread = float(np.median(np.abs(errors))) / 0.6745
            least, most = (share * side_px for share in JITTER_LIMITS)
            jitter_px = min(max(JITTER_OF_ERROR * spread, least), most)
            why = f"the first network is {spread:.1f} crop pixels off an axis (one sd) on validation images"
    job.folder.append_event("crop_jitter", f"crops stand {jitter_px:.1f} crop pixels off in training: {why}")
    return jitter_px


def _errors_in_crop_px(job: Job, samples: Samples, points_xy_image: FloatArray) -> FloatArray:
    """Known differences to the truth along both axes, flat."""
    scale = build.image_px_per_crop_px(samples, job.config.crop_frame)
    differences = (points_xy_image - samples.points_xy_image) / scale
    known: FloatArray = differences[np.isfinite(differences)]
    return known


def _plain_batches(job: Job, stored: Stored) -> Batches:
    return build.build_batches(job.config, stored.samples, stored.store)


def _build_network(job: Job, *, resumes: bool) -> nn.Module:
    config = job.config
    network = build.build_network(config, len(job.landmark_names))
    if config.settings.pretrained and not resumes:
        loaded, not_fitting = build.load_pretrained(network, Path(config.value("pretrained")))
        print(f"pretrained: {len(loaded)} weights loaded; not fitting: {', '.join(not_fitting) or 'none'}")
    return network


def _tell_resumed(job: Job, phase: str, trainer: Trainer) -> None:
    loop = trainer.loop
    print(f"resumed after epoch {loop.epoch} of phase {phase}, step {loop.global_step}", flush=True)
    where = {"phase": phase, "epoch": loop.epoch, "step": loop.global_step}
    job.folder.append_event("resumed", f"resumed after epoch {loop.epoch} of phase {phase}", **where)


def _retry_after_divergence(job: Job, recorder: Recorder, trainer: Trainer) -> None:
    """Lower the learning rate once where the run had ended as diverged, and let it recover as often as a new one."""
    number, outcome = job.folder.read_outcome_aside()
    is_done = any(event.get("after_outcome") == number for event in job.folder.read_events()[0])
    old_lr = trainer.options.lr * trainer.loop.lr_scale
    new_lr = lower_lr(old_lr, num_recoveries=0)
    if outcome.get("state") != "diverged" or is_done or new_lr is None:
        return
    trainer.loop.lr_scale, trainer.loop.num_recoveries = new_lr / trainer.options.lr, 0
    trainer.set_lr()
    recorder.save_last(
        trainer
    )  # before it is an event: a kill in between lowers the rate again, and loses nothing
    recorder.on_event(retried_after_divergence(trainer.loop, old_lr, new_lr, number))


def _conclude(job: Job, phase: str, ending: Ending, trainer: Trainer) -> tuple[Ending, str]:
    """How it ended and a line on it, which tells where nothing was learned."""
    reason = _reason(phase, ending, trainer)
    alarm = None if ending is Ending.STOPPED else _find_nothing_learned(job, trainer)
    if alarm is None:
        return ending, reason
    job.folder.append_event(alarm.kind, alarm.message, phase=phase, **alarm.values)
    return ending, f"{reason}; {alarm.message}"


def _find_nothing_learned(job: Job, trainer: Trainer) -> Event | None:
    loop = trainer.loop
    best = loop.best.error
    if job.valid is None or best.px is None:
        return None
    valid = job.valid.samples
    points = guess_mean_positions(job.train.samples, valid)
    guess = mean_error(radial_errors(points, valid.points_xy_image, valid.mm_per_px_xy))
    if guess.px is None or best.is_below(guess):
        return None
    if best.mm is not None and guess.mm is not None:
        return did_not_learn(loop.epoch, f"{best.mm:.2f} mm", f"{guess.mm:.2f} mm")
    return did_not_learn(loop.epoch, f"{best.px:.1f} px", f"{guess.px:.1f} px")


def _reason(phase: str, ending: Ending, trainer: Trainer) -> str:
    loop, name = trainer.loop, {TRAIN: "training", REFINE: "refinement"}[phase]
    if ending is Ending.STOPPED:
        is_between = loop.epoch and not loop.batch_index
        where = f"after epoch {loop.epoch}" if is_between else f"in epoch {loop.epoch + 1}"
        return f"stopped {where} of {name} at step {loop.global_step}; resume goes on from there"
    where = f"best in epoch {loop.best.epoch}" if loop.best.epoch else "no better than the first network"
    error = loop.best.error
    best = "" if error.px is None else f"; {where}: {error.px:.2f} px"
    if error.mm is not None:
        best += f", {error.mm:.2f} mm"
    done = f"{loop.epoch} of {trainer.options.epochs} epochs of {name}{best}"
    if ending is Ending.EARLY_STOPPED:
        return f"{without_progress(loop)}: ended early after {done}"
    return done
