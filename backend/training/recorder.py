"""Records a training in its run folder: status, metrics, events, previews and checkpoints."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from backend.config import RunConfig
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
from backend.training.run_data import RunData
from backend.training.task import LandmarkScorer, LandmarkTask

log = logging.getLogger(__name__)

STATUS_PERIOD_S = 1.0
SAVE_SHARE = 0.1  # last.pt may cost at most this share of the time since it was last written


class Recorder:
    """Writes one phase's training into its run folder. Implements `Observer` (protocols.py)."""

    def __init__(self, data: RunData, phase: Phase, task: LandmarkTask, previews: PreviewImages) -> None:
        self._folder = data.folder
        self._config = data.config
        self._phase = phase
        self._task = task
        self._previews = previews
        self._stop = data.stop
        self._content = CheckpointContent(data.config, phase, task, data.shape_prior, data.origin)
        self._progress = PhaseProgress(phase)
        self._bar = ProgressBar(phase)
        # a refinement is not watched: on crops nearly all points lie in the middle, which the watch would
        # take for a network that predicts the same place in every image
        self._health = _build_health_watch(data.folder, data.config, task) if phase.first is None else None
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
        """Write, in this order: best.pt, the preview, the status, the metrics row, alarms, and last.pt.

        best.pt and the preview come before the metrics row, so that a page that shows the row finds them.
        last.pt comes after it: after a kill in between, a resume repeats the epoch and writes its row again;
        the other way round, the epoch would have no row.
        """
        self._bar.close()
        self._progress.note_epoch(training.steps_per_epoch, float(metrics["epoch_s"] or 0))
        self._last_metrics = metrics
        loop = training.loop
        is_last_epoch = loop.epoch == self._phase.schedule.epochs
        row = metrics_row(self._phase, loop, metrics, training.device)
        log.info("%s", describe_epoch(self._phase, loop, metrics, is_best=is_best))
        if is_best:
            self._save("best", training, resumable=False)
        try:
            if is_last_epoch or loop.epoch % self._config.settings.preview_every == 0:
                with suppress(StopAskedError):  # then this epoch has no preview
                    self.write_preview(training)
        finally:  # if memory ran out in the preview, the epoch is done nevertheless
            images_per_s = float(metrics["images_per_s"] or 0)
            status = self._progress.status(loop, 0, training.steps_per_epoch, images_per_s)
            self._folder.write_status(status)
            self._folder.append_metrics(row)
            self._report_alarms(training, row)
        if is_last_epoch or self._is_save_due():
            self.save_last(training)

    def on_event(self, event: Event) -> None:
        self._bar.close()
        log.info("%s", event.message)
        self._folder.append_event(event.kind, event.message, phase=self._phase.name, **event.values)

    def save_last(self, training: Training) -> None:
        """Write last.pt, from which the run can be resumed as if nothing had happened."""
        started = time.monotonic()
        self._save("last", training, resumable=True)
        self._last_saved = time.monotonic()
        self._save_cost_s = self._last_saved - started

    def answer(self, training: Training, requests: set[Request]) -> None:
        """Save last.pt or write a preview, if requested, and record it. A request is carried out once."""
        if Request.SAVE_NOW in requests:
            self._folder.clear_request(Request.SAVE_NOW.value)
            self.save_last(training)
            self.on_event(answered(Request.SAVE_NOW, training.loop))
        if Request.PREVIEW_NOW in requests:
            self._folder.clear_request(Request.PREVIEW_NOW.value)
            with suppress(StopAskedError):  # then there is neither a preview nor an event
                self.write_preview(training)
                self.on_event(answered(Request.PREVIEW_NOW, training.loop))

    def write_preview_images(self) -> None:
        """Write the preview images and their annotated points."""
        self._folder.previews.write_images(build_preview_images(self._previews, self._task.landmark_names))

    def write_preview(self, training: Training) -> None:
        """Write points and heatmaps of the preview images by the averaged weights."""
        maps = training.predict(self._previews.batch)
        loop, num_steps = training.loop, training.steps_per_epoch
        if loop.batch_index > 0:  # in the middle of an epoch, which the loop counts once it is closed
            epoch, step = loop.epoch + 1, self._progress.steps_done(loop, num_steps)
        else:
            epoch, step = loop.epoch, num_steps
        preview = build_preview(self._task, self._previews.batch, maps)
        content = {"step": step, "steps_per_epoch": num_steps, **preview}
        self._folder.previews.write(self._phase.name, epoch, content)
        self._folder.previews.prune()

    def _save(self, kind: CheckpointKind, training: Training, *, resumable: bool) -> None:
        content = self._content.build(training, self._last_metrics, resumable=resumable)
        save_checkpoint(self._folder.checkpoint_path(kind), content)

    def _report_alarms(self, training: Training, row: Mapping[str, Any]) -> None:
        if self._health is not None and isinstance(training.last_scorer, LandmarkScorer):
            for event in self._health.look(row, training.last_scorer.evidence()):
                self.on_event(event)

    def _is_save_due(self) -> bool:
        """Whether enough time has passed that saving last.pt costs at most SAVE_SHARE of it."""
        return time.monotonic() - self._last_saved >= self._save_cost_s / SAVE_SHARE


def _build_health_watch(folder: RunFolder, config: RunConfig, task: LandmarkTask) -> HealthWatch:
    """Build a watch that knows what the run has recorded so far."""
    rows = merge_metrics(folder.read_metrics()[0])
    return HealthWatch(task.landmark_names, config.settings.warmup_epochs, rows, folder.read_events()[0])
