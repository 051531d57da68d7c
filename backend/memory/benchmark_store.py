"""Memory and time of real steps by batch, kept in the user's cache folder.

`backend.memory.benchmark` runs the steps, in a process that this module starts.
"""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from backend.cache import cache_file
from backend.config import Settings
from backend.device.gpu import GpuReading
from backend.device.machine import cpu_identity
from backend.errors import UserError
from backend.files import REPOSITORY, write_json_atomic
from backend.memory.cache import torch_version
from backend.memory.step_memory import TRACED_FIELDS

TIMEOUT_S = 600
FAST_ENOUGH = 0.95  # of the images/s that an infinite batch would reach
KILLED = -int(getattr(signal, "SIGKILL", 9))  # how the kernel ends a process that takes too much memory


@dataclass(frozen=True)
class MeasuredBatch:
    """The measured steps of all phases of a run at one batch; seconds are a step's, divided by its images.

    `peak_bytes` is None if memory ran out, and then so are the seconds. `context_bytes` is the part of it
    that CUDA's context takes; None on a CPU, and if the driver did not say, so that it is not in the peak.
    """

    batch_size: int
    peak_bytes: int | None
    context_bytes: int | None = None
    training_s: float | None = None
    validation_s: float | None = None
    refine_training_s: float | None = None
    refine_validation_s: float | None = None

    @property
    def images_per_s(self) -> float | None:
        """The speed of the first network's training steps, without reading the images."""
        return None if self.training_s is None else 1 / self.training_s


@dataclass(frozen=True)
class Measured:
    """The batches that were measured for the same settings on the same device, by growing size."""

    batches: tuple[MeasuredBatch, ...] = ()

    def at(self, batch_size: int) -> MeasuredBatch | None:
        """Return the measured batch nearest to a batch size, of those that fitted."""
        return min(self._fitted, key=lambda batch: abs(batch.batch_size - batch_size), default=None)

    def correct(self, bytes_at: Callable[[int], int]) -> Callable[[int], int]:
        """Correct a prediction so that the largest batch needs what it really took; unchanged if none fitted.

        From there it grows as predicted, or, if that was more, as measured between the smallest and the
        largest.
        """
        if not self._fitted:
            return bytes_at
        small, large = self._fitted[0], self._fitted[-1]
        taken, predicted = large.peak_bytes or 0, bytes_at(large.batch_size)
        grown = predicted - bytes_at(small.batch_size)
        growth = max(1.0, (taken - (small.peak_bytes or 0)) / grown) if grown > 0 else 1.0
        return lambda batch_size: round(taken + growth * (bytes_at(batch_size) - predicted))

    @property
    def plateau(self) -> int | None:
        """The batch above which images/s hardly grows; None if unknown.

        It is below any batch that did not fit. A step takes `a + c * batch` seconds, by least squares through
        what was measured: images/s tends to 1 / c, and reaches a share s of it at the batch `a / c * s / (1 -
        s)`. Below the smallest batch nothing is known.
        """
        too_large = [batch.batch_size for batch in self.batches if batch.peak_bytes is None]
        limit = min(too_large) - 1 if too_large else None
        points = [(b.batch_size, b.training_s * b.batch_size) for b in self._fitted if b.training_s]
        if len(points) < 2:
            return limit
        mean_x = sum(x for x, _ in points) / len(points)
        mean_y = sum(y for _, y in points) / len(points)
        slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / sum(
            (x - mean_x) ** 2 for x, _ in points
        )
        if slope <= 0:
            return limit  # larger batches take no longer: no limit is known
        enough = (mean_y - slope * mean_x) / slope * FAST_ENOUGH / (1 - FAST_ENOUGH)
        plateau = max(points[0][0], math.ceil(enough))
        return plateau if limit is None else min(plateau, limit)

    def with_batch(self, batch: MeasuredBatch) -> Measured:
        """Add one more batch, which replaces an earlier one of its size."""
        by_size = {earlier.batch_size: earlier for earlier in self.batches} | {batch.batch_size: batch}
        return Measured(tuple(by_size[size] for size in sorted(by_size)))

    @property
    def _fitted(self) -> list[MeasuredBatch]:
        return [batch for batch in self.batches if batch.peak_bytes is not None]


NOTHING_MEASURED = Measured()


def identify(device: str, gpus: Sequence[GpuReading]) -> str:
    """Return what tells a device from others.

    That is a GPU's UUID, or its title if it has none, or its name if it is not listed; or the `cpu_identity`.
    """
    if device == "cpu":
        return json.dumps(cpu_identity())
    number = int(device.partition(":")[2] or 0)
    gpu = next((gpu for gpu in gpus if gpu.index == number), None)
    return device if gpu is None else gpu.uuid or gpu.title


@dataclass(frozen=True)
class Bench:
    """The settings, the number of landmarks and the device ("cpu", "cuda:N") that are measured.

    `identity` is that of the device, see `identify`.
    """

    settings: Settings
    num_landmarks: int
    device: str
    identity: str

    def measure(self, batch_size: int) -> MeasuredBatch:
        """Run real steps of every phase at one batch, in a process of its own.

        Raises UserError if that process fails.
        """
        request = {
            "settings": self.settings.model_dump(mode="json"),
            "num_landmarks": self.num_landmarks,
            "device": self.device,
            "batch_size": batch_size,
        }
        done = subprocess.run(
            [sys.executable, "-m", "backend.memory.benchmark"],
            cwd=REPOSITORY,
            input=json.dumps(request),
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=TIMEOUT_S,
            check=False,
        )
        if done.returncode == KILLED:
            return MeasuredBatch(batch_size, peak_bytes=None)
        if done.returncode != 0:
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            why = lines[-1] if lines else f"exit code {done.returncode}"
            raise UserError(f"steps of {batch_size} images could not be measured ({why})")
        return MeasuredBatch(**json.loads(done.stdout))

    def read(self) -> Measured:
        """Return what was measured before; nothing if the file is missing or cannot be read."""
        try:
            rows: list[Mapping[str, Any]] = json.loads(self._path.read_text(encoding="utf-8"))
            return Measured(tuple(MeasuredBatch(**row) for row in rows))
        except (OSError, ValueError, TypeError):
            return NOTHING_MEASURED

    def save(self, measured: Measured) -> None:
        """Keep the results for every process of this user, if the cache folder can be written.

        A batch that did not fit is not kept: that depends on what else used the memory.
        """
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_json_atomic(
                self._path, [asdict(batch) for batch in measured.batches if batch.peak_bytes is not None]
            )

    @property
    def _path(self) -> Path:
        settings = self.settings.model_dump(mode="json", include=set(TRACED_FIELDS))
        kind = self.device.partition(":")[0]
        return cache_file("measured", [settings, self.num_landmarks, kind, self.identity, torch_version()])
