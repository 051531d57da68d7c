"""Runs that were stopped or killed in either phase, and resumed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from backend.files import Row
from backend.run.folder import RunFolder
from backend.training import phases
from backend.training.engine import Trainer
from backend.training.recorder import Recorder
from backend.worker import train_run
from tests.training.tiny_runs import (
    LONG,
    assert_same_weights,
    best_of,
    die,
    events_of,
    first_of,
    last_of,
    losses,
    new_run,
    outcome_of,
    resume,
    rows_by_phase,
    stop_at,
)

pytestmark = [pytest.mark.usefixtures("tiny_network"), pytest.mark.slow]  # trains


@pytest.mark.parametrize(
    ("phase", "global_step"),
    [("train", 2), ("train", 3), ("train", 6), ("refine", 1), ("refine", 7), ("refine", 10)],
    ids=[
        "in the first phase",
        "at its epoch's end",
        "at its end",
        "refining",
        "in its middle",
        "at an epoch's end",
    ],
)
def test_a_run_stopped_in_either_phase_goes_on_with_exactly_the_losses_of_an_undisturbed_one(
    completed: RunFolder, tmp_path: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch, phase: str,
    global_step: int,
) -> None:  # fmt: skip
    folder = new_run(tmp_path, tiny_dataset)
    with monkeypatch.context() as patch:
        stop_at(patch, phase, global_step)
        assert train_run(folder) == 130
    last = last_of(folder)
    assert (last["phase"], last["loop"]["global_step"]) == (phase, global_step)
    resume(folder)
    assert events_of(folder, "resumed")[0].endswith(f"of phase {phase}")
    assert losses(folder) == losses(completed)
    assert_same_weights(
        best_of(folder)["networks"]["refine"]["model_state_dict"],
        best_of(completed)["networks"]["refine"]["model_state_dict"],
    )


def ask_in_a_pass(patch: pytest.MonkeyPatch, phase: str, epoch: int, owner: Any, name: str, ask: Any) -> None:
    """Ask for something at the beginning of a pass of an epoch: `Trainer.validate` or
    `Recorder.write_preview`."""
    run = getattr(owner, name)

    def asked(first: Any, *rest: Any) -> Any:
        recorder = first if isinstance(first, Recorder) else first._observer
        trainer = rest[0] if rest else first
        if (recorder._phase.name, trainer.loop.epoch) == (phase, epoch):
            ask(recorder)
        return run(first, *rest)

    patch.setattr(owner, name, asked)


ASKS = [
    pytest.param(lambda recorder: recorder._folder.request("stop"), id="request"),
    pytest.param(lambda recorder: recorder._stop.set(), id="signal"),
]


@pytest.mark.parametrize("ask", ASKS)
@pytest.mark.parametrize(("phase", "epoch"), [("train", 0), ("train", 1), ("refine", 1)])
def test_cancel_during_a_validation_gives_it_up_and_loses_no_step(
    completed: RunFolder, tmp_path: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch, phase: str,
    epoch: int, ask: Any,
) -> None:  # fmt: skip
    folder = new_run(tmp_path, tiny_dataset)
    with monkeypatch.context() as patch:
        ask_in_a_pass(patch, phase, epoch, Trainer, "validate", ask)
        assert train_run(folder) == 130
    before = losses(folder)
    assert before == losses(completed)[: len(before)] and len(before) == epoch + 2 * (phase == "refine")
    last = last_of(folder)
    assert last["loop"]["global_step"] == (epoch + 1) * {"train": 3, "refine": 5}[phase]
    assert outcome_of(folder)["reason"].startswith(f"stopped in epoch {epoch + 1} of ")
    resume(folder)
    assert losses(folder) == losses(completed) and len(folder.read_metrics()[0]) == 5
    assert best_of(folder)["best_mre"] == best_of(completed)["best_mre"]
    assert_same_weights(last_of(folder)["raw_model_state_dict"], last_of(completed)["raw_model_state_dict"])


@pytest.mark.parametrize("phase", ["train", "refine"])
def test_cancel_during_a_preview_closes_the_epoch_without_it(
    completed: RunFolder, tmp_path: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    folder = new_run(tmp_path, tiny_dataset)
    with monkeypatch.context() as patch:
        stop = lambda recorder: recorder._folder.request("stop")  # noqa: E731
        ask_in_a_pass(patch, phase, 1, Recorder, "write_preview", stop)
        assert train_run(folder) == 130
    assert losses(folder) == losses(completed)[: 1 if phase == "train" else 3]
    assert (phase, 1) not in folder.previews.list_keys() and last_of(folder)["epoch"] == 1
    assert outcome_of(folder)["reason"].startswith("stopped after epoch 1 of ")
    resume(folder)
    assert losses(folder) == losses(completed) and len(folder.read_metrics()[0]) == 5


def killed_between_the_phases(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(phases, "build_refine_trainer", die)


def killed_before_the_refiner_was_saved(patch: pytest.MonkeyPatch) -> None:
    """Its first epoch is in the metrics and maybe in best.pt, but last.pt is the first phase's."""
    save_last = Recorder.save_last

    def save_or_die(recorder: Recorder, trainer: Any) -> None:
        if recorder._phase.name == "refine":
            die()
        save_last(recorder, trainer)

    patch.setattr(Recorder, "save_last", save_or_die)


@pytest.mark.parametrize("killed", [killed_between_the_phases, killed_before_the_refiner_was_saved])
def test_a_run_killed_about_the_change_of_phase_goes_on_as_if_nothing_had_happened(
    completed: RunFolder, tmp_path: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch,
    killed: Callable[[pytest.MonkeyPatch], None],
) -> None:  # fmt: skip
    folder = new_run(tmp_path, tiny_dataset)
    with monkeypatch.context() as patch:
        killed(patch)
        assert train_run(folder) == 1
    last = last_of(folder)
    assert (last["phase"], last["epoch"]) == ("train", 2)
    resume(folder)
    assert losses(folder) == losses(completed)
    assert best_of(folder)["best_mre"] == best_of(completed)["best_mre"]


def killed_with_an_old_last(patch: pytest.MonkeyPatch, phase: str, saved: int, killed: int) -> None:
    """Killed when an epoch of a phase has its best.pt but no row yet; last.pt was not written after epoch
    `saved`."""
    save_last, append = Recorder.save_last, RunFolder.append_metrics

    def save_first_ones(recorder: Recorder, trainer: Any) -> None:
        if recorder._phase.name != phase or trainer.loop.epoch <= saved:
            save_last(recorder, trainer)

    def append_or_die(folder: RunFolder, row: Row) -> None:
        if (row["phase"], row["epoch"]) == (phase, killed):
            die()
        append(folder, row)

    patch.setattr(Recorder, "save_last", save_first_ones)
    patch.setattr(RunFolder, "append_metrics", append_or_die)


@pytest.mark.parametrize("saved", [0, 1])
@pytest.mark.parametrize("phase", ["train", "refine"])
def test_a_killed_run_never_replaces_its_best_weights_by_worse_ones(
    undisturbed: RunFolder, tmp_path: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch, phase: str,
    saved: int,
) -> None:  # fmt: skip
    """last.pt is two or three epochs older than best.pt; then stopped after the next epoch, and gone on
    with."""
    folder = new_run(tmp_path, tiny_dataset, **LONG)
    with monkeypatch.context() as patch:
        killed_with_an_old_last(patch, phase, saved, killed=3)
        assert train_run(folder) == 1
    held = best_of(folder)
    assert (held["phase"], held["epoch"]) == (phase, 3), "else this run shows nothing"
    folder.archive_outcome()
    folder.clear_requests()
    with monkeypatch.context() as patch:
        steps = {"train": 3, "refine": 5}[phase]
        stop_at(patch, phase, (saved + 1) * steps + 1)
        assert train_run(folder) == 130
    assert best_of(folder)["best_mre"] == held["best_mre"] and best_of(folder)["epoch"] == 3
    resume(folder)
    ours, theirs = best_of(folder), best_of(undisturbed)
    for key in ("phase", "epoch", "best_mre", "best_mre_mm", "val_metrics"):
        assert ours[key] == theirs[key], key
    assert_same_weights(ours["model_state_dict"], theirs["model_state_dict"])
    assert_same_weights(*(c["networks"]["refine"]["model_state_dict"] for c in (ours, theirs)))
    assert losses(folder) == losses(undisturbed)
    assert last_of(folder)["loop"] == last_of(undisturbed)["loop"]
    assert outcome_of(folder)["reason"] == outcome_of(undisturbed)["reason"]


@pytest.mark.parametrize("phase", ["train", "refine"])
def test_without_validation_a_killed_run_ends_with_the_last_weights(
    tmp_path: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    folder = new_run(tmp_path, tiny_dataset, val_fraction=0, epochs=4, refine_epochs=4)
    with monkeypatch.context() as patch:
        killed_with_an_old_last(patch, phase, saved=1, killed=3)
        assert train_run(folder) == 1
    resume(folder)
    best, last = best_of(folder), last_of(folder)
    assert (best["phase"], best["epoch"]) == (last["phase"], last["epoch"]) == ("refine", 4)
    assert_same_weights(*(c["networks"]["refine"]["model_state_dict"] for c in (best, last)))


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:500])])
@pytest.mark.parametrize("phase", ["train", "refine"])
def test_a_best_file_that_is_gone_or_damaged_is_made_anew_from_the_last(
    undisturbed: RunFolder, tmp_path: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch, phase: str,
    damage: Callable[[Path], Any],
) -> None:  # fmt: skip
    """Stopped in epoch 3; what comes after it is the best that is left, whatever was lost."""
    folder = new_run(tmp_path, tiny_dataset, **LONG)
    with monkeypatch.context() as patch:
        stop_at(patch, phase, {"train": 7, "refine": 11}[phase])
        assert train_run(folder) == 130
    damage(folder.checkpoint_path("best"))
    resume(folder)
    assert len(events_of(folder, "best_restored")) == 1
    rows = rows_by_phase(folder)["refine"]
    assert (
        losses(folder)[: 5 if phase == "train" else 7] == losses(undisturbed)[: 5 if phase == "train" else 7]
    )
    expected = min(rows[2 if phase == "refine" else 0 :], key=lambda row: row["val/mre_mm"])
    assert (best_of(folder)["epoch"], best_of(folder)["best_mre"]) == (
        expected["epoch"],
        expected["val/mre_px"],
    )


def test_a_best_file_that_cannot_be_read_at_this_moment_is_not_replaced(
    tmp_path: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = new_run(tmp_path, tiny_dataset)
    with monkeypatch.context() as patch:
        stop_at(patch, "train", 4)
        assert train_run(folder) == 130
    before, load = folder.checkpoint_path("best").read_bytes(), torch.load

    def refuse(path: Path, **more: Any) -> Any:
        if path.name == "best.pt":
            raise PermissionError("another program holds it")
        return load(path, **more)

    folder.archive_outcome()
    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", refuse)
        assert train_run(folder) == 2
    assert folder.checkpoint_path("best").read_bytes() == before


def test_a_refinement_killed_before_it_was_first_saved_keeps_what_it_has_on_anothers_first_network(
    undisturbed: RunFolder, tmp_path: Path, tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no last.pt yet: the first network is not taken over once more in place of the refined one."""
    folder = new_run(tmp_path, tiny_dataset, **LONG, **first_of(undisturbed))
    with monkeypatch.context() as patch:
        killed_with_an_old_last(patch, "refine", saved=0, killed=3)
        assert train_run(folder) == 1
    held = best_of(folder)
    assert held["phase"] == "refine" and not folder.checkpoint_path("last").exists()
    folder.archive_outcome()
    with monkeypatch.context() as patch:
        stop_at(patch, "refine", 6)
        assert train_run(folder) == 130
    assert best_of(folder)["best_mre"] == held["best_mre"]
    resume(folder)
    assert best_of(folder)["best_mre"] == best_of(undisturbed)["best_mre"]
