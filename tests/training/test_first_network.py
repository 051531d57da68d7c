"""Taking over the first network of another run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from backend.run.folder import RunFolder
from backend.training.checkpoint import load_checkpoint
from backend.training.inference import load_predictor
from backend.worker import train_run
from tests.training.tiny_runs import (
    assert_same_weights,
    best_of,
    copy_of,
    events_of,
    first_of,
    new_run,
    outcome_of,
    rows_by_phase,
    rows_of,
    with_brow,
)

pytestmark = [pytest.mark.usefixtures("tiny_network"), pytest.mark.slow]  # trains


def test_only_the_refinement_is_trained_on_the_first_network_of_another_run(
    completed: RunFolder, tmp_path: Path, tiny_dataset: Path
) -> None:
    folder = new_run(tmp_path, tiny_dataset, **first_of(completed), refine_lr=1e-3)
    assert train_run(folder) == 0
    rows = rows_by_phase(folder)
    assert not rows["train"] and [row["epoch"] for row in rows["refine"]] == [1, 2, 3]
    for name in ("best", "last"):
        kept = load_checkpoint(folder.checkpoint_path(name))
        assert_same_weights(kept["model_state_dict"], best_of(completed)["model_state_dict"])
        assert kept["first_args"] == best_of(completed)["args"] != kept["args"]
    assert "first_args" not in best_of(completed)
    again = new_run(tmp_path, tiny_dataset, **first_of(folder), refine_epochs=1)
    assert train_run(again) == 0
    assert best_of(again)["first_args"] == best_of(completed)["args"]  # who trained it, not who passed it on


def test_what_is_taken_over_of_a_refined_run_is_what_is_known_of_its_first_network(
    completed: RunFolder, tmp_path: Path, tiny_dataset: Path
) -> None:
    """best.pt as it is until the refinement beats the first network; here it never does."""
    hopeless: dict[str, Any] = {"refine_lr": 1e-9, "refine_epochs": 1, "crop_size": 64}
    theirs = best_of(completed)
    for name in ("best", "last"):
        path = str(completed.checkpoint_path(name))  # type: ignore[arg-type]
        folder = new_run(tmp_path, tiny_dataset, first_network=path, **hopeless)
        assert train_run(folder) == 0
        kept, unrefined = best_of(folder), theirs["networks"]["refine"]["unrefined"]
        assert kept["best_mre"] == unrefined["mre_px"] > theirs["best_mre"]
        assert kept["best_mre_mm"] == unrefined["mre_mm"] > theirs["best_mre_mm"]
        assert kept["val_metrics"] == {f"val/{name}": value for name, value in unrefined.items()}
        assert (kept["phase"], kept["epoch"], kept["networks"], kept["loop"]) == ("train", None, {}, {})
        for key in (
            "raw_model_state_dict",
            "optimizer_state_dict",
            "scheduler",
            "scaler",
            "rng",
            "last_good",
        ):
            assert not kept[key], key
        assert kept.keys() == theirs.keys() | {"first_args", "first_learned_from"}
        assert_same_weights(kept["model_state_dict"], theirs["model_state_dict"])
        # and so on, however often it is handed on
        again = new_run(tmp_path, tiny_dataset, **first_of(folder), **hopeless)
        assert train_run(again) == 0
        assert best_of(again)["best_mre"] == unrefined["mre_px"]


def test_what_is_taken_over_of_a_run_with_one_network_is_that_network(
    tmp_path: Path, tiny_dataset: Path
) -> None:
    """Of its last.pt too, whose weights are not those that its best error is of."""
    first = new_run(tmp_path, tiny_dataset, refine=False)
    assert train_run(first) == 0
    assert best_of(first)["epoch"] == 2
    error = rows_of(first)[1]["val/mre_px"]
    for name, expected in (("best", error), ("last", None)):
        path = str(first.checkpoint_path(name))  # type: ignore[arg-type]
        folder = new_run(
            tmp_path, tiny_dataset, first_network=path, refine_lr=1e-9, refine_epochs=1, crop_size=64
        )
        assert train_run(folder) == 0
        kept = best_of(folder)
        assert (kept["phase"], kept["epoch"], kept["best_mre"]) == ("train", 2, expected)
        assert kept["val_metrics"].get("val/mre_px") == expected
        assert not kept["optimizer_state_dict"] and not kept["raw_model_state_dict"] and not kept["loop"]


def test_a_first_network_that_has_seen_the_validation_images_is_refused(
    completed: RunFolder, tmp_path: Path, tiny_dataset: Path
) -> None:
    folder = new_run(tmp_path, tiny_dataset, **first_of(completed), seed=1)
    assert train_run(folder) == 2
    reason = outcome_of(folder)["reason"]
    assert "of the 3 validation images of this run" in reason and "seed 0 and val_fraction 0.25" in reason
    assert not folder.checkpoint_path("best").exists()
    without = new_run(tmp_path, tiny_dataset, **first_of(completed), seed=1, val_fraction=0, refine_epochs=1)
    assert train_run(without) == 0


def test_that_what_a_first_network_has_seen_cannot_be_known_is_told(
    completed: RunFolder, tmp_path: Path, tiny_dataset: Path
) -> None:
    content = best_of(completed)
    content["args"]["settings"]["dataset_path"] = str(tmp_path / "gone")
    content["args"]["chosen"].pop("dataset_path")
    from_fingerprints, older = tmp_path / "first.pt", tmp_path / "older.pt"
    torch.save(content, from_fingerprints)
    torch.save({key: value for key, value in content.items() if key != "learned_from"}, older)
    for path, words in ((from_fingerprints, "only files identical"), (older, "cannot check whether")):
        folder = new_run(tmp_path, tiny_dataset, first_network=str(path), refine_epochs=1)
        assert train_run(folder) == 0
        assert any(words in message for message in events_of(folder, "first_network"))


def test_a_run_on_anothers_first_network_has_shapes_of_its_own(tmp_path: Path, tiny_dataset: Path) -> None:
    data = copy_of(tiny_dataset, tmp_path / "data", with_brow)
    first = new_run(tmp_path / "runs", data, val_fraction=0, epochs=1, refine=False)
    assert train_run(first) == 0
    path = str(first.checkpoint_path("best"))
    folder = new_run(
        tmp_path / "runs", data, val_fraction=0, refine_epochs=1, shape_prior=True, first_network=path
    )
    assert train_run(folder) == 0
    assert load_predictor(folder.checkpoint_path("best"), "cpu").shape_prior is not None
