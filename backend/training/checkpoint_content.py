"""The content of a run's checkpoints, from the state of its training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backend.config import RunConfig
from backend.data.shape_prior import ShapePrior
from backend.training.build import build_task
from backend.training.checkpoint import WITHOUT_RESUME, shape_prior_content
from backend.training.phase import Phase
from backend.training.protocols import Metrics, Training
from backend.training.task import LandmarkTask


@dataclass(frozen=True)
class CheckpointContent:
    """What a checkpoint of a phase holds beside the state of the training."""

    config: RunConfig
    phase: Phase
    task: LandmarkTask
    shape_prior: ShapePrior | None
    origin: Mapping[str, Any]  # `learned_from` and `made_with`

    def build(self, training: Training, metrics: Metrics, *, resumable: bool) -> dict[str, Any]:
        """The checkpoint's keys; `metrics` are those of the last epoch.

        What only a resume needs is left empty in `best.pt`, a quarter of the size. `model_state_dict` is
        always the first network; the second one is kept under `networks`.
        """
        state = training.state_dict()
        if not resumable:
            state |= WITHOUT_RESUME
        networks = {}
        if self.phase.first is not None:
            networks = {self.phase.name: self._second_network(state["model_state_dict"])}
            state["model_state_dict"] = self.phase.first.state
            state |= self.phase.first.of_another
        loop, first_task = training.loop, build_task(self.config, self.task.landmark_names)
        return {
            **state,
            **self.origin,
            "phase": self.phase.name,
            "epoch": loop.epoch,
            "best_mre": loop.best.error.px,
            "best_mre_mm": loop.best.error.mm,
            "val_metrics": {k: v for k, v in metrics.items() if k.startswith("val/")},
            "args": self.config.to_dict(),
            "landmark_names": list(self.task.landmark_names),
            "preprocessing": {
                "image_size": list(first_task.input_hw),
                "resize": self.config.settings.resize,
                "normalize": "each image by its own mean and standard deviation",
                "channels": "RGB; greyscale repeated",
            },
            "sigma": first_task.sigma_px,
            "output_stride": first_task.stride,
            "networks": networks,
            "shape_prior": shape_prior_content(self.shape_prior),
        }

    def _second_network(self, weights: Mapping[str, Any]) -> dict[str, Any]:
        assert self.phase.first is not None
        return {
            "model_state_dict": weights,
            "jitter_px": self.phase.first.jitter_px,
            "sigma": self.task.sigma_px,
            "output_stride": self.task.stride,
            "unrefined": dict(self.phase.first.errors),
        }
