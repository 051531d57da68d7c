"""Predict the memory of a run's steps without running them: traced once, then read from the user's cache.

Nothing is measured on a device: the bytes alive are traced, and what CUDA needs beside them is estimated
(traced_memory.py). Imports torch only to trace.
"""

from __future__ import annotations

from backend.config import Settings
from backend.device.machine import cpu_identity
from backend.memory.cache import load_prediction, save_prediction
from backend.memory.step_memory import TRACED_FIELDS, StepMemory, memory_from_dict, memory_to_dict


def predict_step_memory(settings: Settings, num_landmarks: int, device: str) -> StepMemory:
    """Predict what a run needs on `device`, "cpu" or "cuda:N", which this machine may lack.

    The settings are those in effect on the device; see `resolve.settings_in_force`. Takes some seconds if no
    earlier answer is in the cache, most of them to import torch.
    """
    kind = device.partition(":")[0]
    traced = _select_traced(settings)
    key = {"settings": traced.model_dump(mode="json"), "num_landmarks": num_landmarks, "kind": kind}
    if kind == "cpu":
        key["cpu"] = cpu_identity()
    cached = load_prediction(key)
    if cached is not None:
        try:
            return memory_from_dict(cached)
        except (AttributeError, KeyError, TypeError, ValueError):  # damaged: traced again
            pass
    from backend.memory.traced_memory import trace_step_memory

    memory = trace_step_memory(traced, num_landmarks, kind)
    save_prediction(key, memory_to_dict(memory))
    return memory


def _select_traced(settings: Settings) -> Settings:
    """Return the settings that a trace depends on; all others have their defaults."""
    chosen = {name: getattr(settings, name) for name in TRACED_FIELDS}
    # the second batch of a step finds the gradients of the first; a third changes nothing
    chosen["gradient_accumulation_steps"] = min(2, settings.gradient_accumulation_steps)
    return Settings.model_validate(chosen)
