"""The rows and the line that an epoch leaves, and the time left."""

from __future__ import annotations

import pytest
import torch

from backend.run.best import MeanError
from backend.training.build import Schedule
from backend.training.loop_state import Best, LoopState
from backend.training.phase import FirstNetwork, Phase
from backend.training.progress import PhaseProgress, describe_epoch, metrics_row
from backend.training.protocols import Metrics

SCHEDULE = Schedule(epochs=4, lr=1e-3, warmup_epochs=0, accumulation=2)
FIRST = Phase("train", SCHEDULE, 0.0, 0.8)
SECOND = Phase("refine", SCHEDULE, 0.8, 0.2, FirstNetwork({}, {"mre_px": 5.0, "mre_mm": None}, 4.0, {}))
METRICS: Metrics = {
    "train/loss": 0.5, "lr": 1e-3, "images_per_s": 12.0, "epoch_s": 3.0, "val/loss": 0.25, "val/mre_px": 4.0,
    "val/mre_mm": None,
}  # fmt: skip


def test_steps_are_counted_from_batches() -> None:
    progress = PhaseProgress(FIRST)
    assert [progress.steps_done(LoopState(batch_index=n), 3) for n in range(6)] == [0, 1, 1, 2, 2, 3]


def test_a_status_names_the_epoch_under_way_and_the_share_of_the_whole_run() -> None:
    loop = LoopState(epoch=1, batch_index=2, global_step=4, num_samples=8, best=Best(1, MeanError(4.0, 0.4)))
    status = PhaseProgress(SECOND).status(loop, step=1, num_steps=2, images_per_s=4.0)
    assert (status["phase"], status["epoch"], status["step"], status["num_epochs"]) == ("refine", 2, 1, 4)
    assert status["share_done"] == pytest.approx(0.8 + 0.2 * 1.5 / 4) and not status["refinement_follows"]
    assert (status["best_epoch"], status["best_mre_px"], status["best_mre_mm"]) == (1, 4.0, 0.4)
    assert PhaseProgress(FIRST).status(loop, 1, 2, 4.0)["refinement_follows"]


def test_the_time_left_comes_from_the_first_steps_then_from_whole_epochs() -> None:
    progress = PhaseProgress(FIRST)
    start = LoopState(num_samples=8)
    assert progress.status(LoopState(), 0, 2, 0.0)["seconds_left"] is None
    # half an epoch of 8 images at 4 images per second is done: 3.5 epochs of 16 images are left
    assert progress.status(start, 1, 2, 4.0)["seconds_left"] == pytest.approx(3.5 * 4)
    for _ in range(2):
        progress.note_step()
    progress.note_epoch(2, epoch_s=10.0)
    assert progress.status(LoopState(epoch=1), 0, 2, 4.0)["seconds_left"] == pytest.approx(30)
    assert progress.status(LoopState(epoch=4), 0, 2, 4.0)["seconds_left"] == 0


def test_an_epoch_that_was_resumed_in_its_middle_is_not_timed() -> None:
    progress = PhaseProgress(FIRST)
    progress.note_step()
    progress.note_epoch(2, epoch_s=1000.0)
    assert progress.status(LoopState(epoch=1), 0, 2, 4.0)["seconds_left"] is None


def test_a_row_has_the_metrics_and_in_the_refinement_the_first_networks_errors() -> None:
    loop, cpu = LoopState(epoch=2, global_step=6), torch.device("cpu")
    row = metrics_row(FIRST, loop, METRICS, cpu)
    assert row.items() >= {"epoch": 2, "global_step": 6, "phase": "train", "val/mre_px": 4.0}.items()
    assert row["memory_bytes"] > 2**20 and not [name for name in row if "unrefined" in name]
    row = metrics_row(SECOND, loop, METRICS, cpu)
    assert (row["val/unrefined_mre_px"], row["val/unrefined_mre_mm"]) == (5.0, None)


def test_the_line_of_an_epoch_leaves_out_what_is_unknown() -> None:
    loop = LoopState(epoch=2)
    assert describe_epoch(FIRST, loop, METRICS, is_best=True) == (
        "train, epoch 2/4, loss 0.5000, val loss 0.2500, MRE 4.00 px, 12.0 images/s, best so far"
    )
    alone: Metrics = {"train/loss": 0.5, "images_per_s": None}
    assert describe_epoch(FIRST, loop, alone, is_best=False) == "train, epoch 2/4, loss 0.5000, 0.0 images/s"
