from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from backend.run.best import BestWeights, MeanError, best_row, error_unit, read_best_weights
from backend.run.folder import RunFolder


@pytest.mark.parametrize(
    ("error", "other", "is_below"),
    [
        (MeanError(5.0, 0.4), MeanError(4.0, 0.5), True),
        (MeanError(4.0, 0.5), MeanError(5.0, 0.4), False),
        (MeanError(4.0, 0.5), MeanError(5.0), True),  # one of them is known in px alone
        (MeanError(5.0), MeanError(4.0, 0.5), False),
        (MeanError(4.0, 0.4), MeanError(4.0, 0.4), False),
        (MeanError(), MeanError(4.0), False),
        (MeanError(4.0), MeanError(), False),
    ],
)
def test_errors_are_compared_in_mm_if_both_are_known(
    error: MeanError, other: MeanError, is_below: bool
) -> None:
    assert error.is_below(other) is is_below


def rows(*errors: tuple[float | None, float | None]) -> list[dict[str, Any]]:
    return [{"epoch": i, "val/mre_px": px, "val/mre_mm": mm} for i, (px, mm) in enumerate(errors, start=1)]


@pytest.mark.parametrize(
    ("errors", "unit", "epoch"),
    [
        ([(5.0, 0.4), (4.0, 0.5)], "mm", 1),
        ([(5.0, None), (4.0, 0.5), (3.0, 0.6)], "px", 3),
        ([(5.0, 0.4), (None, None), (5.0, 0.4)], "mm", 1),
        ([(None, None)], "px", None),
        ([], "px", None),
    ],
)
def test_best_row_has_the_lowest_error_in_the_common_unit(
    errors: list[tuple[float | None, float | None]], unit: str, epoch: int | None
) -> None:
    known = rows(*errors)
    best = best_row(known)
    assert error_unit(known) == unit and (best and best["epoch"]) == epoch


CONTENT: dict[str, Any] = {
    "phase": "refine",
    "epoch": 7,
    "model_state_dict": torch.nn.Linear(2, 2).state_dict(),
    "networks": {"refine": {"model_state_dict": {"weight": torch.rand(2)}}},
    "best_mre": 4.0,
    "best_mre_mm": 0.4,
    "val_metrics": {"val/mre_px": 4.0, "val/mre_mm": 0.4, "val/loss": 2.5},
    "landmark_names": ["Sella", "Pog`"],
}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    (tmp_path / "checkpoints").mkdir()
    return RunFolder(tmp_path)


def test_best_weights_are_read_without_tensors(folder: RunFolder) -> None:
    torch.save(CONTENT, folder.checkpoint_path("best"))
    weights = read_best_weights(folder)
    assert weights == BestWeights("refine", 7, CONTENT["val_metrics"], 2) == BestWeights.of(CONTENT)
    assert weights.error == MeanError(4.0, 0.4)


def test_refined_error_of_a_single_network_is_ignored(folder: RunFolder) -> None:
    """As older versions took over the first network of a refined run."""
    torch.save({**CONTENT, "networks": {}}, folder.checkpoint_path("best"))
    assert read_best_weights(folder) == BestWeights("train", None, {}, 2)


@pytest.mark.parametrize("damage", [None, b"", b"no archive", "cut", "empty archive"])
def test_missing_or_damaged_checkpoint_has_no_best_weights(folder: RunFolder, damage: Any) -> None:
    path = folder.checkpoint_path("best")
    torch.save(CONTENT, path)
    content = path.read_bytes()
    if damage is None:
        path.unlink()
    elif damage == "empty archive":
        zipfile.ZipFile(path, "w").close()
    else:
        path.write_bytes(content[: len(content) // 2] if damage == "cut" else damage)
    assert read_best_weights(folder) is None


def test_no_code_of_a_file_is_run(folder: RunFolder, tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "harm"),)

    torch.save({**CONTENT, "args": Harmful()}, folder.checkpoint_path("best"))
    weights = read_best_weights(folder)
    assert weights is not None and weights.epoch == 7 and not (tmp_path / "harm").exists()
