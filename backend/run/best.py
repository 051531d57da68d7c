"""Which epoch of a run is the best one: the rule that training and page share, and what best.pt says of its weights."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backend.run.folder import PHASES, RunFolder

TRAIN, REFINE = PHASES
Row = Mapping[str, Any]


@dataclass(frozen=True)
class MeanError:
    """The mean error on the validation images; `mm` only where each of them has a pixel size.

    Then mm is what is reported, and so what decides; else px.
    """

    px: float | None = None
    mm: float | None = None

    @classmethod
    def of(cls, values: Row) -> MeanError:
        """From the values of an epoch; unknown without a validation."""
        return cls(values.get("val/mre_px"), values.get("val/mre_mm"))

    def is_below(self, other: MeanError) -> bool:
        """Whether it is lower, in mm where both are known in mm; an unknown error is below none."""
        if self.mm is not None and other.mm is not None:
            return self.mm < other.mm
        return self.px is not None and other.px is not None and self.px < other.px


UNKNOWN_ERROR = MeanError()


@dataclass(frozen=True)
class BestWeights:
    """What is known of the weights in a best.pt: their phase, their epoch in it, their values on validation images."""

    phase: str
    epoch: int | None
    metrics: Row
    num_landmarks: int = 0

    @classmethod
    def of(cls, content: Row) -> BestWeights:
        """From a checkpoint's plain values. A file that says it is refined and holds one network alone was taken over
        from another run by an older version, with the error of both."""
        if content.get("phase") == REFINE and REFINE not in content.get("networks", {}):
            return cls(TRAIN, None, {}, len(content["landmark_names"]))
        error = {"val/mre_px": content.get("best_mre"), "val/mre_mm": content.get("best_mre_mm")}
        metrics = {**content.get("val_metrics", {}), **error}
        return cls(
            str(content.get("phase", TRAIN)), content["epoch"], metrics, len(content["landmark_names"])
        )

    @property
    def error(self) -> MeanError:
        return MeanError.of(self.metrics)


class _WithoutTensors(pickle.Unpickler):
    """Reads a checkpoint's plain values: a tensor, or what else needs code, becomes None; nothing is imported."""

    def persistent_load(self, _pid: Any) -> None:
        return None

    def find_class(self, module: str, name: str) -> Any:
        return OrderedDict if (module, name) == ("collections", "OrderedDict") else _nothing


def _nothing(*_arguments: Any) -> None:
    return None


def read_best_weights(folder: RunFolder) -> BestWeights | None:
    """What the run's best.pt says of its weights, read without torch and without them; None where there is no such
    file or it cannot be read."""
    try:
        with zipfile.ZipFile(folder.checkpoint_path("best")) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
            content = _WithoutTensors(io.BytesIO(archive.read(name))).load()
        return BestWeights.of(content)
    except Exception:  # noqa: BLE001 (a damaged file makes the unpickler raise anything)
        return None


def error_unit(rows: Sequence[Row]) -> str:
    """`mm` where every validated row has it, else `px`: the two never share an axis."""
    validated = [row for row in rows if row.get("val/mre_px") is not None]
    return "mm" if validated and all(row.get("val/mre_mm") is not None for row in validated) else "px"


def best_row(rows: Sequence[Row]) -> Row | None:
    """The validated row with the lowest error, the first of equal ones."""
    key = f"val/mre_{error_unit(rows)}"
    return min(
        (row for row in rows if row.get("val/mre_px") is not None),
        key=lambda row: float(row[key]),
        default=None,
    )
