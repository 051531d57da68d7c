"""Records a training in its run folder: status, metrics, events, previews and checkpoints."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from backend.config import RunConfig
from backend.data.shape_prior import ShapePrior
from backend.run.folder import CheckpointKind, RunFolder
from backend.run.rows import merge_metrics
from backend.training.checkpoint import save_checkpoint
from backend.training.checkpoint_content import CheckpointContent
from backend.training.control import read_requests
from backend.training.events import Event, answered
from backend.training.health import HealthWatch
from backend.training.loop_state import LoopState, Request, StopAskedError
from backend.training.phase import Phase
from backend.training.previews import PreviewImages, build_preview, build_preview_images
from backend.training.progress import PhaseProgress, describe_epoch, metrics_row
from backend.training.progress_bar import ProgressBar
from backend.training.protocols import Metrics, Training
from backend.training.task import LandmarkScorer, LandmarkTask

log = logging.getLogger(__name__)

STATUS_PERIOD_S = 1.0
SAVE_SHARE = 0.1  # last.pt may cost at most this share of the time since it was last written


class Recorder:
    """The observer of a phase's training; `stop` is set by a signal handler."""

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
        self._stop = stop
        self._content = CheckpointContent(config, phase, task, shape_prior, origin)
        self._progress = PhaseProgress(phase)
        self._bar = ProgressBar(phase)
        # on crops nearly all points lie in the middle, which on whole images would be a sign of collapse
        self._health = _build_health_watch(folder, config, task) if phase.first is None else None
        self._status_time = -math.inf
        self._last_saved = time.monotonic()
        self._save_cost_s = 0.0
        self._last_metrics: Metrics = {}

    def poll(self) -> set[Request]:
        return read_requests(self._folder, self._stop)

    def on_step(self, loop: LoopState, num_steps: int, loss: float, images_per_s: float) -> None:
        step = self._progress.steps_done(loop, num_steps)
        self._progress.note_step()
        self._bar.draw(loop.epoch + 1, step, num_steps, loss, images_per_s)
        now = time.monotonic()
        if now - self._status_time >= STATUS_PERIOD_S:
            self._status_time = now
            self._folder.write_status(self._progress.status(loop, step, num_steps, images_per_s))

    def on_epoch(self, training: Training, metrics: Metrics, is_best: bool) -> None:
        self._bar.close()
        self._progress.note_epoch(training.steps_per_epoch, float(metrics["epoch_s"] or 0))
        loop = training.loop
        self._last_metrics = metrics
        row = metrics_row(self._phase, loop, metrics, training.device)
        log.info("%s", describe_epoch(self._phase, loop, metrics, is_best=is_best))
        if is_best:
            self._save("best", training, resumable=False)
        try:
            if loop.epoch % self._config.settings.preview_every == 0 or self._is_last_epoch(loop):
                with suppress(StopAskedError):  # then this epoch has none
                    self.write_preview(training)
        finally:  # the epoch is done, even if its preview failed
            self._write_epoch(training, row)
        if self._is_last_epoch(loop) or self._save_is_due():
            self.save_last(training)

    def _is_last_epoch(self, loop: LoopState) -> bool:
        return loop.epoch == self._phase.schedule.epochs

    def _write_epoch(self, training: Training, row: Mapping[str, Any]) -> None:
        num_steps, images_per_s = training.steps_per_epoch, float(row["images_per_s"] or 0)
        self._folder.write_status(self._progress.status(training.loop, 0, num_steps, images_per_s))
        # after best.pt and the preview, so that a reader of this row finds them; before last.pt, so that a
        # kill in between repeats the epoch and its row instead of losing it
        self._folder.append_metrics(row)
        self._watch_health(training, row)

    def on_event(self, event: Event) -> None:
        self._bar.close()
        log.info("%s", event.message)
        self._folder.append_event(event.kind, event.message, phase=self._phase.name, **event.values)

    def answer(self, training: Training, requests: set[Request]) -> None:
        """Carry out what is requested between two steps and changes no weights, and record it."""
        for request, do in ((Request.SAVE_NOW, self.save_last), (Request.PREVIEW_NOW, self.write_preview)):
            if request in requests:
                self._folder.clear_request(request.value)  # a request is carried out once
                with suppress(StopAskedError):
                    do(training)
                    self.on_event(answered(request, training.loop))

    def _watch_health(self, training: Training, row: Mapping[str, Any]) -> None:
        if self._health is not None and isinstance(training.last_scorer, LandmarkScorer):
            for event in self._health.look(row, training.last_scorer.evidence()):
                self.on_event(event)

    def save_last(self, training: Training) -> None:
        """Write last.pt, from which the run can be resumed as if nothing had happened."""
        started = time.monotonic()
        self._save("last", training, resumable=True)
        self._last_saved = time.monotonic()
        self._save_cost_s = self._last_saved - started

    def _save(self, kind: CheckpointKind, training: Training, *, resumable: bool) -> None:
        content = self._content.build(training, self._last_metrics, resumable=resumable)
        save_checkpoint(self._folder.checkpoint_path(kind), content)

    def _save_is_due(self) -> bool:
        """Small runs would spend their time on the disk: save only where that costs a tenth of the time at
        most."""
        return time.monotonic() - self._last_saved >= self._save_cost_s / SAVE_SHARE

    def write_preview(self, training: Training) -> None:
        """Points and heatmaps of the preview images by the averaged weights, after an epoch or in the middle
        of one."""
        maps = training.predict(self._previews.batch)
        loop, num_steps = training.loop, training.steps_per_epoch
        is_within = loop.batch_index > 0
        step = self._progress.steps_done(loop, num_steps) if is_within else num_steps
        preview = build_preview(self._task, self._previews.batch, maps)
        self._folder.previews.write(
            self._phase.name,
            loop.epoch + is_within,
            {"step": step, "steps_per_epoch": num_steps, **preview},
        )
        self._folder.previews.prune()

    def write_preview_images(self) -> None:
        """The preview images and their annotated points."""
        self._folder.previews.write_images(build_preview_images(self._previews, self._task.landmark_names))


def _build_health_watch(folder: RunFolder, config: RunConfig, task: LandmarkTask) -> HealthWatch:
    """A watch that knows what the run has recorded so far."""
    rows = merge_metrics(folder.read_metrics()[0])
    return HealthWatch(task.landmark_names, config.settings.warmup_epochs, rows, folder.read_events()[0])
