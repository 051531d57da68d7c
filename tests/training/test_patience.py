"""Early stopping: how many epochs without progress end a phase."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from backend.data.dataset import Batch
from backend.run.best import MeanError
from backend.training.engine import Trainer
from backend.training.loop_state import Best, Ending, Request
from tests.training.dots import (
    ScriptedErrors,
    Watcher,
    build,
)


def test_training_ends_once_patience_is_over() -> None:
    watcher = Watcher()
    scripted = ScriptedErrors([5.0, 3.0, 4.0, 3.5, 3.0, 2.0, 1.0])
    trainer = build(watcher, epochs=7, patience=3, the_task=scripted)
    assert trainer.fit() is Ending.EARLY_STOPPED
    assert len(watcher.epochs) == 5 and trainer.loop.best.epoch == 2
    (event,) = watcher.events
    assert event.kind == "early_stop" and event.values == {"epoch": 5, "step": 20, "best_epoch": 2}
    assert "3 epochs" in event.message and watcher.saved[-1]["loop"]["epoch"] == 5


def test_a_run_that_has_stopped_early_has_nothing_to_go_on_with() -> None:
    first, second = Watcher(), Watcher()
    build(first, epochs=7, patience=1, the_task=ScriptedErrors([5.0, 6.0])).fit()
    again = build(second, epochs=7, patience=1)
    again.load_state_dict(first.saved[-1])
    assert again.fit() is Ending.EARLY_STOPPED
    assert second.steps == [] and second.events == []


@pytest.mark.parametrize(
    ("patience", "errors"), [(0, [1.0, 2.0, 3.0, 4.0]), (2, [4.0, 5.0, 3.0, 3.0]), (3, [1.0, 2.0, 2.0, 2.0])]
)
def test_without_patience_or_before_it_is_over_training_completes(patience: int, errors: list[float]) -> None:
    """The third case runs out of patience and of epochs at once: completed."""
    watcher = Watcher()
    trainer = build(watcher, epochs=4, patience=patience, the_task=ScriptedErrors(errors))
    assert trainer.fit() is Ending.COMPLETED
    assert watcher.events == [] and len(watcher.epochs) == 4


def test_patience_survives_a_resume() -> None:
    options: dict[str, Any] = {"epochs": 9, "patience": 3}
    errors = [5.0, 3.0, 4.0, 4.0, 4.0]
    first, second = Watcher({14: Request.STOP}), Watcher()
    scripted = ScriptedErrors(errors)
    assert build(first, the_task=scripted, **options).fit() is Ending.STOPPED
    resumed = build(second, the_task=scripted, **options)
    resumed.load_state_dict(first.saved[-1])
    assert resumed.fit() is Ending.EARLY_STOPPED
    assert resumed.loop.epoch == 5 and [event.kind for event in second.events] == ["early_stop"]


def test_patience_waits_for_the_end_of_the_warm_up() -> None:
    """2.5 epochs of it: the best one is the first, but what follows counts from the third on."""
    watcher = Watcher()
    scripted = ScriptedErrors([1.0, 2.0, 2.0, 2.0, 2.0, 2.0])
    trainer = build(watcher, epochs=6, patience=2, warmup_epochs=2.5, the_task=scripted)
    assert trainer.fit() is Ending.EARLY_STOPPED
    assert trainer.loop.epoch == 5
    (event,) = watcher.events
    assert event.values["best_epoch"] == 1 and "no lower validation error for 4 epochs" in event.message


def after_a_first_network(watcher: Watcher, errors: Sequence[float | None], **options: Any) -> Trainer:
    """A trainer as the refinement has it: to be kept, its weights must beat an error of 2 px."""
    trainer = build(watcher, the_task=ScriptedErrors(errors), **options)
    trainer.loop.best = Best(error=MeanError(2.0, 0.2))
    return trainer


def test_patience_goes_on_with_a_second_network_that_is_still_overtaking_the_first() -> None:
    watcher = Watcher()
    trainer = after_a_first_network(watcher, [5.0, 4.0, 4.5, 3.0, 1.5, 1.6, 1.7], epochs=8, patience=2)
    assert trainer.fit() is Ending.EARLY_STOPPED
    assert watcher.bests == [False, False, False, False, True, False, False]
    assert trainer.loop.best == trainer.loop.own_best == Best(5, MeanError(1.5, 0.15))
    assert watcher.events[-1].values["best_epoch"] == 5


def test_patience_ends_a_second_network_that_gets_no_better_and_names_its_own_best() -> None:
    watcher = Watcher()
    trainer = after_a_first_network(watcher, [5.0, 4.0, 4.5, 4.5, 4.5], epochs=8, patience=3)
    assert trainer.fit() is Ending.EARLY_STOPPED
    assert not any(watcher.bests) and trainer.loop.best == Best(error=MeanError(2.0, 0.2))
    (event,) = watcher.events
    assert event.values == {"epoch": 5, "step": 20, "best_epoch": 2}
    assert event.message.startswith("no lower validation error for 3 epochs: ")
    assert event.message.endswith("its best was epoch 2")


def test_patience_of_a_second_network_survives_a_resume() -> None:
    errors = [5.0, 4.0, 4.5, 4.5, 4.5]
    first, second = Watcher({14: Request.STOP}), Watcher()
    after_a_first_network(first, errors, epochs=8, patience=3).fit()
    resumed = build(second, epochs=8, patience=3, the_task=ScriptedErrors(errors[3:]))
    resumed.load_state_dict(first.saved[-1])
    assert resumed.loop.own_best == Best(2, MeanError(4.0, 0.4))
    assert resumed.fit() is Ending.EARLY_STOPPED and resumed.loop.epoch == 5


def test_a_second_network_that_patience_ended_too_early_before_goes_on_when_it_is_resumed() -> None:
    """Its state knows no best of its own: patience counts from where it goes on."""
    first, second = Watcher({8: Request.STOP}), Watcher()
    after_a_first_network(first, [5.0], epochs=9).fit()
    state = first.saved[-1]
    del state["loop"]["own_best"]
    state["loop"] |= {"epoch": 2, "batch_index": 0}
    resumed = build(second, epochs=9, patience=2, the_task=ScriptedErrors([4.0, 4.5, 4.5, 4.5]))
    resumed.load_state_dict(state)
    assert resumed.fit() is Ending.EARLY_STOPPED
    assert resumed.loop.epoch == 5 and second.events[-1].values["best_epoch"] == 3


def test_where_no_epoch_had_an_error_patience_names_no_best() -> None:
    class Nan(ScriptedErrors):
        def compute_loss(self, outputs: Any, batch: Batch) -> Tensor:
            loss = super().compute_loss(outputs, batch)
            return loss * math.nan if torch.is_inference_mode_enabled() else loss

    watcher = Watcher()
    trainer = build(watcher, epochs=9, patience=2, the_task=Nan([1.0] * 9))
    assert trainer.fit() is Ending.EARLY_STOPPED
    (event,) = watcher.events
    assert event.values["best_epoch"] is None and "best was" not in event.message
