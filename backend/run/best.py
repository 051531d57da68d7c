"""The best epoch of a run: the rule that training and page share, and what best.pt records of its weights."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backend.run.folder import RunFolder
from backend.run.previews import PHASES

TRAIN, REFINE = PHASES
Row = Mapping[str, Any]


@dataclass(frozen=True)
class MeanError:
    """Mean error on the validation images; `mm` is known only if each of them has a pixel size.

    If mm is known, it is what is reported, and so it decides which epoch is best; otherwise px does.
    """

    px: float | None = None
    mm: float | None = None

    @classmethod
    def of(cls, values: Row) -> MeanError:
        """Take the errors from the values of an epoch; None if it was not validated."""
        return cls(values.get("val/mre_px"), values.get("val/mre_mm"))

    def is_below(self, other: MeanError) -> bool:
        """Whether this error is lower, in mm if both are known in mm; an unknown error is below none."""
        if self.mm is not None and other.mm is not None:
            return self.mm < other.mm
        return self.px is not None and other.px is not None and self.px < other.px


UNKNOWN_ERROR = MeanError()


@dataclass(frozen=True)
class BestWeights:
    """Phase and epoch of the weights in a best.pt, and their metrics on the validation images."""

    phase: str
    epoch: int | None
    metrics: Row
    num_landmarks: int = 0

    @classmethod
    def of(cls, content: Row) -> BestWeights:
        """Read them from a checkpoint's plain values.

        A file of the phase refine that holds only one network was copied from another run by an older
        version, with the error of both networks: its epoch and metrics are unknown.
        """
        if content.get("phase") == REFINE and REFINE not in content.get("networks", {}):
            return cls(TRAIN, None, {}, len(content["landmark_names"]))
        error = {"val/mre_px": content.get("best_mre"), "val/mre_mm": content.get("best_mre_mm")}
        metrics = {**content.get("val_metrics", {}), **error}
        phase = str(content.get("phase", TRAIN))
        return cls(phase, content["epoch"], metrics, len(content["landmark_names"]))

    @property
    def error(self) -> MeanError:
        return MeanError.of(self.metrics)


class _WithoutTensors(pickle.Unpickler):
    """An unpickler that imports nothing: a tensor, and any other object of a class, becomes None."""

    def persistent_load(self, _pid: Any) -> None:
        return None

    def find_class(self, module: str, name: str) -> Any:
        return OrderedDict if (module, name) == ("collections", "OrderedDict") else _nothing


def _nothing(*_arguments: Any) -> None:
    return None


def read_best_weights(folder: RunFolder) -> BestWeights | None:
    """Read phase, epoch and metrics from the run's best.pt; None if it is absent or damaged.

    Needs no torch, and does not load the weights.
    """
    try:
        with zipfile.ZipFile(folder.checkpoint_path("best")) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
            content = _WithoutTensors(io.BytesIO(archive.read(name))).load()
        return BestWeights.of(content)
    except Exception:  # noqa: BLE001 (a damaged file makes the unpickler raise anything)
        return None


def error_unit(rows: Sequence[Row]) -> str:
    """Return "mm" if every validated row has it, otherwise "px": the two never share an axis."""
    validated = [row for row in rows if row.get("val/mre_px") is not None]
    return "mm" if validated and all(row.get("val/mre_mm") is not None for row in validated) else "px"


def best_row(rows: Sequence[Row]) -> Row | None:
    """Return the validated row with the lowest error, the first of equal ones; None without one."""
    key = f"val/mre_{error_unit(rows)}"
    return min(
        (row for row in rows if row.get("val/mre_px") is not None),
        key=lambda row: float(row[key]),
        default=None,
    )
