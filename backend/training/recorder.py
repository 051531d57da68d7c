"""What a training leaves in its run folder while it runs: status, metrics, previews, checkpoints.

The Trainer's observer. Writes through RunFolder; must not know how weights are trained.
"""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
import torch
from tqdm import tqdm

from backend.config import RunConfig
from backend.data.crops import CropDataset
from backend.data.dataset import Batch, LandmarkDataset
from backend.data.image_store import reduce_image
from backend.data.images import read_image
from backend.data.samples import Samples
from backend.data.shape_prior import ShapePrior
from backend.run.folder import RunFolder, merge_metrics
from backend.training.build import Schedule, build_task
from backend.training.checkpoint import WITHOUT_RESUME, save_checkpoint, shape_prior_content
from backend.training.engine import Metrics, Trainer
from backend.training.events import Event, answered
from backend.training.health import HealthWatch
from backend.training.loop_state import LoopState, Request, StopAskedError
from backend.training.task import LandmarkScorer, LandmarkTask

NUM_PREVIEW_IMAGES = 4
PREVIEW_SIDE_PX = 768
STATUS_PERIOD_S = 1.0
SAVE_SHARE = 0.1  # last.pt may cost at most this share of the time since it was last written


@dataclass(frozen=True)
class PreviewImages:
    """The fixed images that every preview shows."""

    samples: Samples
    batch: Batch
    split: str  # that they are of: `valid`, or `train` where nothing validates


@dataclass(frozen=True)
class FirstNetwork:
    """What the refinement stands on: the first network's weights, and how far off it is where that was measured."""

    state: Mapping[str, Any]
    errors: Metrics  # mre_px, mre_mm on the validation images; empty without any
    jitter_px: float  # by which the crops are moved in training, crop pixels
    of_another: Mapping[str, Any]  # `first_args` and `first_learned_from`, where another run trained it


@dataclass(frozen=True)
class Phase:
    """A part of a run that trains one network: `train` the first one, `refine` the second."""

    name: str
    schedule: Schedule
    share_before: float  # of the run's epochs, done before this phase
    share: float
    first: FirstNetwork | None = None


def choose_preview_samples(samples: Samples) -> Samples:
    """Up to four, evenly spread: the same ones for the life of the run."""
    num = min(NUM_PREVIEW_IMAGES, len(samples))
    return samples.take([int(i) for i in np.linspace(0, len(samples) - 1, num).round()])


def requests_of(folder: RunFolder, stop: threading.Event) -> set[Request]:
    """What the control folder asks for, and a stop where the event is set."""
    requests = {request for request in Request if folder.requested(request.value)}
    return requests | ({Request.STOP} if stop.is_set() else set())


class Recorder:
    """Writes the run folder of one phase; `stop` is set by a signal handler."""

    def __init__(
        self,
        folder: RunFolder,
        config: RunConfig,
        phase: Phase,
        task: LandmarkTask,
        previews: PreviewImages,
        shape_prior: ShapePrior | None,
        origin: Mapping[str, Any],
        stop: threading.Event,
    ) -> None:
        self._folder = folder
        self._config = config
        self._phase = phase
        self._task = task
        self._previews = previews
        self._shape_prior = shape_prior
        self._origin = origin
        self._stop = stop
        self._status_time = -math.inf
        self._epoch_seconds: list[float] = []  # of whole epochs since this process started
        self._num_steps_seen = 0  # of the epoch under way
        self._epoch_ended: float | None = None
        self._last_saved = time.monotonic()
        self._save_cost_s = 0.0
        self._last_metrics: Metrics = {}
        self._bar: tqdm[Any] | None = None
        # on crops nearly all points lie in the middle, which on whole images would be a sign of collapse
        self._health = _build_health_watch(folder, config, task) if phase.first is None else None

    def poll(self) -> set[Request]:
        return requests_of(self._folder, self._stop)

    def on_step(self, loop: LoopState, num_steps: int, loss: float, images_per_s: float) -> None:
        step = self._steps_done(loop, num_steps)
        self._num_steps_seen += 1
        self._draw_bar(loop.epoch + 1, step, num_steps, loss, images_per_s)
        now = time.monotonic()
        if now - self._status_time >= STATUS_PERIOD_S:
            self._status_time = now
            self._write_status(loop, step, num_steps, images_per_s)

    def on_epoch(self, trainer: Trainer, metrics: Metrics, is_best: bool) -> None:
        self._close_bar()
        self._note_seconds(trainer, metrics)
        loop = trainer.loop
        self._last_metrics = metrics
        row: Mapping[str, Any] = {
            "epoch": loop.epoch,
            "global_step": loop.global_step,
            "time": time.time(),
            "phase": self._phase.name,
            "micro_batch": loop.micro_batch.limit,
            "pass_micro_batch": loop.pass_micro_batch.limit,
            **metrics,
            **self._unrefined(),
            **self._memory(trainer),
        }
        self._print_epoch(loop, metrics, is_best)
        if is_best:
            save_checkpoint(self._folder.checkpoint_path("best"), self._content(trainer, resumable=False))
        try:
            if loop.epoch % self._config.settings.preview_every == 0 or self._is_last_epoch(loop):
                with suppress(StopAskedError):  # then this epoch has none
                    self.write_preview(trainer)
        finally:  # the epoch is done, whatever became of its preview
            self._write_epoch(trainer, row)
        if self._is_last_epoch(loop) or self._save_is_due():
            self.save_last(trainer)

    def _is_last_epoch(self, loop: LoopState) -> bool:
        return loop.epoch == self._phase.schedule.epochs

    def _write_epoch(self, trainer: Trainer, row: Mapping[str, Any]) -> None:
        loop = trainer.loop
        self._write_status(loop, 0, trainer.steps_per_epoch, float(row["images_per_s"] or 0))
        # after best.pt and the preview, which whoever reads this row finds; before last.pt, so that a kill in between
        # repeats the epoch and its row instead of losing it
        self._folder.append_metrics(row)
        self._watch_health(trainer, row)

    def on_event(self, event: Event) -> None:
        self._close_bar()
        print(event.message, flush=True)
        self._folder.append_event(event.kind, event.message, phase=self._phase.name, **event.values)

    def answer(self, trainer: Trainer, requests: set[Request]) -> None:
        """Do what is asked for between two steps and changes no weights, and tell it."""
        for request, do in ((Request.SAVE_NOW, self.save_last), (Request.PREVIEW_NOW, self.write_preview)):
            if request in requests:
                self._folder.clear_request(request.value)  # what is asked for once is done once
                with suppress(StopAskedError):
                    do(trainer)
                    self.on_event(answered(request, trainer.loop))

    def _watch_health(self, trainer: Trainer, row: Mapping[str, Any]) -> None:
        if self._health is not None and isinstance(trainer.last_scorer, LandmarkScorer):
            for event in self._health.look(row, trainer.last_scorer.evidence()):
                self.on_event(event)

    def save_last(self, trainer: Trainer) -> None:
        """Write last.pt, from which the run can go on as if nothing had happened."""
        started = time.monotonic()
        save_checkpoint(self._folder.checkpoint_path("last"), self._content(trainer, resumable=True))
        self._last_saved = time.monotonic()
        self._save_cost_s = self._last_saved - started

    def write_preview(self, trainer: Trainer) -> None:
        """Points and heatmaps of the fixed images by the averaged weights, after an epoch or in the middle of one."""
        maps = trainer.predict(self._previews.batch)
        batch = self._previews.batch
        predictions = self._task.predict(maps, batch)
        heatmaps, affines = self._task.small_maps(maps, batch)
        loop, num_steps = trainer.loop, trainer.steps_per_epoch
        is_within = loop.batch_index > 0
        self._folder.write_preview(
            self._phase.name,
            loop.epoch + is_within,
            {
                "step": self._steps_done(loop, num_steps) if is_within else num_steps,
                "steps_per_epoch": num_steps,
                "points_xy_image": predictions.points_xy_image.astype(np.float32),
                "confidence": predictions.confidence.astype(np.float32),
                "heatmaps": heatmaps,
                "affine_heatmap_to_image": affines,
            },
        )
        self._folder.prune_previews()

    def write_preview_images(self) -> None:
        """The fixed images as a person sees them, and their truth."""
        samples = self._previews.samples
        arrays: dict[str, Any] = {
            "image_ids": np.array([str(name) for name in samples.images["image_id"]]),
            "split": np.array(self._previews.split),
            "landmark_names": np.array(list(self._task.landmark_names)),
            "truth_xy_image": samples.points_xy_image.astype(np.float32),
            "mm_per_px_xy": samples.mm_per_px_xy,
        }
        for number, (path, size_hw) in enumerate(zip(samples.paths, samples.sizes_hw, strict=True)):
            display = reduce_image(read_image(path), PREVIEW_SIDE_PX / max(size_hw))
            arrays[f"display_{number}"] = display.pixels
            arrays[f"affine_image_to_display_{number}"] = display.affine_from_image
        self._folder.write_preview_images(arrays)

    def _write_status(self, loop: LoopState, step: int, num_steps: int, images_per_s: float) -> None:
        """`epoch` is the one under way, `step` of `steps_per_epoch` the steps of it that are done."""
        phase, num_epochs = self._phase, self._phase.schedule.epochs
        done = min(1.0, (loop.epoch + step / num_steps) / num_epochs)
        self._folder.write_status(
            {
                "phase": phase.name,
                "share_done": phase.share_before + phase.share * done,
                "refinement_follows": phase.share_before + phase.share < 1,
                "epoch": min(loop.epoch + 1, num_epochs),
                "num_epochs": num_epochs,
                "step": step,
                "steps_per_epoch": num_steps,
                "global_step": loop.global_step,
                "micro_batch": loop.micro_batch.limit,
                "pass_micro_batch": loop.pass_micro_batch.limit,
                "images_per_s": images_per_s,
                "seconds_left": self._seconds_left(loop, step, num_steps, images_per_s),
                "best_epoch": loop.best.epoch or None,
                "best_mre_px": loop.best.error.px,
                "best_mre_mm": loop.best.error.mm,
            }
        )

    def _content(self, trainer: Trainer, *, resumable: bool) -> dict[str, Any]:
        """The checkpoint's keys. What only a resume needs is left empty in `best.pt`, a quarter of the size.

        `model_state_dict` is always the first network; the second one stands under `networks`.
        """
        state = trainer.state_dict()
        if not resumable:
            state |= WITHOUT_RESUME
        networks = {}
        if self._phase.first is not None:
            networks = {
                self._phase.name: {
                    "model_state_dict": state["model_state_dict"],
                    "jitter_px": self._phase.first.jitter_px,
                    "sigma": self._task.sigma_px,
                    "output_stride": self._task.stride,
                    "unrefined": dict(self._phase.first.errors),
                }
            }
            state["model_state_dict"] = self._phase.first.state
            state |= self._phase.first.of_another
        loop, first_task = trainer.loop, build_task(self._config, self._task.landmark_names)
        return {
            **state,
            **self._origin,
            "phase": self._phase.name,
            "epoch": loop.epoch,
            "best_mre": loop.best.error.px,
            "best_mre_mm": loop.best.error.mm,
            "val_metrics": {k: v for k, v in self._last_metrics.items() if k.startswith("val/")},
            "args": self._config.to_dict(),
            "landmark_names": list(self._task.landmark_names),
            "preprocessing": {
                "image_size": list(first_task.input_hw),
                "resize": self._config.settings.resize,
                "normalize": "each image by its own mean and standard deviation",
                "channels": "RGB; greyscale repeated",
            },
            "sigma": first_task.sigma_px,
            "output_stride": first_task.stride,
            "networks": networks,
            "shape_prior": shape_prior_content(self._shape_prior),
        }

    def _unrefined(self) -> Metrics:
        """The first network's errors, beside those after refinement."""
        errors = self._phase.first.errors if self._phase.first is not None else {}
        return {f"val/unrefined_{name}": value for name, value in errors.items()}

    def _save_is_due(self) -> bool:
        """Small runs would spend their time on the disk: save at once only where that costs a tenth at most."""
        return time.monotonic() - self._last_saved >= self._save_cost_s / SAVE_SHARE

    def _memory(self, trainer: Trainer) -> dict[str, int]:
        """What the training holds: on a GPU its allocator's peak so far, else this process's memory now."""
        if trainer.device.type == "cuda":
            return {"memory_bytes": torch.cuda.max_memory_reserved(trainer.device)}
        return {"memory_bytes": psutil.Process().memory_info().rss}

    def _steps_done(self, loop: LoopState, num_steps: int) -> int:
        """Steps of the epoch under way."""
        return min(num_steps, math.ceil(loop.batch_index / self._phase.schedule.accumulation))

    def _note_seconds(self, trainer: Trainer, metrics: Metrics) -> None:
        """How long an epoch took, with what was saved and drawn before it; one that was resumed in its middle, or cut
        short, tells nothing."""
        now, before = time.monotonic(), self._epoch_ended
        if self._num_steps_seen >= trainer.steps_per_epoch:
            self._epoch_seconds.append(now - before if before is not None else float(metrics["epoch_s"] or 0))
        self._num_steps_seen, self._epoch_ended = 0, now

    def _seconds_left(self, loop: LoopState, step: int, num_steps: int, images_per_s: float) -> float | None:
        """From the epochs done since this process started, else from the steps of the first one."""
        epochs_left = self._phase.schedule.epochs - loop.epoch - step / num_steps
        if self._epoch_seconds:
            return epochs_left * float(np.median(self._epoch_seconds[-20:]))
        if not step or images_per_s <= 0:
            return None if epochs_left else 0.0
        return epochs_left * num_steps * (loop.num_samples / step) / images_per_s

    def _draw_bar(self, epoch: int, step: int, num_steps: int, loss: float, images_per_s: float) -> None:
        if self._bar is None:
            self._bar = tqdm(
                total=num_steps,
                desc=f"{self._phase.name} {epoch}/{self._phase.schedule.epochs}",
                unit="step",
                file=sys.stderr,
                mininterval=1.0,
                leave=False,
                dynamic_ncols=True,
            )
        self._bar.set_postfix_str(f"loss {loss:.4f}, {images_per_s:.1f} images/s", refresh=False)
        self._bar.update(step - self._bar.n)

    def _close_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _print_epoch(self, loop: LoopState, metrics: Metrics, is_best: bool) -> None:
        parts = [
            f"{self._phase.name}, epoch {loop.epoch}/{self._phase.schedule.epochs}",
            f"loss {metrics['train/loss']:.4f}",
        ]
        if metrics.get("val/loss") is not None:
            parts.append(f"val loss {metrics['val/loss']:.4f}")
        for unit in ("px", "mm"):
            if metrics.get(f"val/mre_{unit}") is not None:
                parts.append(f"MRE {metrics[f'val/mre_{unit}']:.2f} {unit}")
        parts.append(f"{metrics['images_per_s'] or 0:.1f} images/s")
        print(", ".join(parts) + (", best so far" if is_best else ""), flush=True)


def _build_health_watch(folder: RunFolder, config: RunConfig, task: LandmarkTask) -> HealthWatch:
    """A watch that knows what the run has shown and told so far."""
    rows = merge_metrics(folder.read_metrics()[0])
    return HealthWatch(task.landmark_names, config.settings.warmup_epochs, rows, folder.read_events()[0])


def load_preview_batch(dataset: LandmarkDataset | CropDataset) -> Batch:
    """All samples of a small data set as one batch."""
    batch: Batch = torch.utils.data.default_collate([dataset[(0, row)] for row in range(len(dataset))])
    return batch
