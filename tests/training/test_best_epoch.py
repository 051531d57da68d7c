"""Which epoch's weights are the best."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from backend.data.dataset import Batch
from backend.run.best import MeanError
from backend.training.loop_state import Best, Ending, Request
from tests.training.dots import (
    ScriptedErrors,
    Watcher,
    build,
)

pytestmark = pytest.mark.slow  # trains


def test_best_is_the_epoch_with_the_lowest_error_and_a_tie_changes_nothing() -> None:
    watcher = Watcher()
    trainer = build(watcher, epochs=5, the_task=ScriptedErrors([5.0, 3.0, 4.0, 3.0, 2.0]))
    trainer.fit()
    assert watcher.bests == [True, True, False, False, True]
    assert watcher.best_after == [1, 2, 2, 2, 5]
    assert trainer.loop.best.error == MeanError(2.0, 0.2)


def test_best_is_chosen_in_mm_where_every_image_has_a_pixel_size() -> None:
    """Images of several pixel sizes: what is better in px may be worse in mm, which is what is reported."""
    watcher = Watcher()
    scripted = ScriptedErrors([5.0, 4.0, 6.0, 6.5], in_mm=[0.5, 0.6, 0.4, 0.4])
    trainer = build(watcher, epochs=4, the_task=scripted)
    trainer.fit()
    assert watcher.bests == [True, False, True, False]
    assert trainer.loop.best == Best(3, MeanError(6.0, 0.4))


def test_best_is_chosen_in_px_where_an_image_has_no_pixel_size() -> None:
    watcher = Watcher()
    trainer = build(watcher, epochs=3, the_task=ScriptedErrors([5.0, 4.0, 6.0], in_mm=[None] * 3))
    trainer.fit()
    assert watcher.bests == [True, True, False]
    assert trainer.loop.best == Best(2, MeanError(4.0))


@pytest.mark.parametrize(("in_mm", "is_best"), [(None, [False, True]), (0.42, [True, False])])
def test_a_run_from_before_the_rule_goes_on_by_it(in_mm: float | None, is_best: list[bool]) -> None:
    """Its bar was kept flat: in px alone, which is what then decides once more, or in both."""
    first, second = Watcher({4: Request.STOP}), Watcher()
    build(first, the_task=ScriptedErrors([])).fit()
    state = first.saved[-1]
    del state["loop"]["best"]
    state["loop"] |= {"epoch": 1, "batch_index": 0, "best_mre_px": 4.0, "best_mre_mm": in_mm, "best_epoch": 1}
    resumed = build(second, the_task=ScriptedErrors([5.0, 3.0], in_mm=[0.4, 0.41]))
    resumed.load_state_dict(state)
    assert resumed.loop.best == Best(1, MeanError(4.0, in_mm))
    assert resumed.fit() is Ending.COMPLETED
    assert second.bests == is_best


def test_an_epoch_without_an_error_never_replaces_a_best_that_had_one() -> None:
    """Predictions that are not numbers give no error at all: the good weights must survive them."""
    watcher = Watcher()
    trainer = build(watcher, epochs=3, the_task=ScriptedErrors([5.0, None, 6.0]))
    trainer.fit()
    assert watcher.bests == [True, False, False]
    assert trainer.loop.best == Best(1, MeanError(5.0, 0.5))


def test_an_epoch_whose_validation_loss_is_no_number_is_never_the_best() -> None:
    """Maps of NaN still have an argmax, and so an error that looks like any other."""

    class NanAtFirst(ScriptedErrors):
        num_validations = 0

        def new_scorer(self) -> ScriptedErrors:
            self.num_validations += 1
            return self

        def compute_loss(self, outputs: Any, batch: Batch) -> Tensor:
            loss = super().compute_loss(outputs, batch)
            return (
                loss * math.nan if self.num_validations == 1 and torch.is_inference_mode_enabled() else loss
            )

    watcher = Watcher()
    trainer = build(watcher, epochs=2, the_task=NanAtFirst([1.0, 6.0]))
    trainer.fit()
    assert watcher.bests == [False, True]
    assert trainer.loop.best == Best(2, MeanError(6.0, 0.6))


def test_without_validation_the_last_weights_are_the_best() -> None:
    watcher = Watcher()
    trainer = build(watcher, validates=False)
    trainer.fit()
    assert watcher.bests == [True, True, True]
    assert trainer.loop.best == Best(3)
    assert not [name for name in watcher.epochs[0] if name.startswith("val/")]
