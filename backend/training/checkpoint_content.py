"""The content of a run's checkpoints, from the state of its training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backend.config import RunConfig
from backend.data.shape_prior import ShapePrior
from backend.training.build import build_task
from backend.training.checkpoint import WITHOUT_RESUME, shape_prior_content
from backend.training.phase import FirstNetwork, Phase
from backend.training.protocols import Metrics, Training
from backend.training.task import LandmarkTask


@dataclass(frozen=True)
class CheckpointContent:
    """The parts of a phase's checkpoints that stay the same throughout its training."""

    config: RunConfig
    phase: Phase
    task: LandmarkTask
    shape_prior: ShapePrior | None
    origin: Mapping[str, Any]  # `learned_from` and `made_with`

    def build(self, training: Training, metrics: Metrics, *, resumable: bool) -> dict[str, Any]:
        """Return a checkpoint's content by key; `metrics` are those of the last epoch.

        What only a resume needs is left empty in best.pt, which is a quarter of the size. `model_state_dict`
        is always the first network; the second one is kept under `networks`.
        """
        state = training.state_dict()
        if not resumable:
            state |= WITHOUT_RESUME
        networks = {}
        first = self.phase.first
        if first is not None:
            networks = {self.phase.name: self._second_network(first, state["model_state_dict"])}
            state["model_state_dict"] = first.weights
            state |= first.origin
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

    def _second_network(self, first: FirstNetwork, weights: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "model_state_dict": weights,
            "jitter_px": first.jitter_px,
            "sigma": self.task.sigma_px,
            "output_stride": self.task.stride,
            "unrefined": dict(first.errors),
        }
