"""How a training is said to have ended."""

from __future__ import annotations

from backend.run.best import MeanError
from backend.training import conclusion
from backend.training.loop_state import Best, LoopState
from backend.training.run_data import RunData


def test_a_training_that_beats_the_mean_positions_in_mm_has_learned_something(run_data: RunData) -> None:
    """Whatever its error is in px: that of the largest images counts most there."""
    loop = LoopState(best=Best(1, MeanError(100.0, 0.1)))
    assert conclusion.find_nothing_learned(run_data, loop) is None
    loop.best = Best(1, MeanError(0.1, 100.0))
    event = conclusion.find_nothing_learned(run_data, loop)
    assert event is not None and "100.00 mm" in event.message
    loop.best = Best(1, MeanError(100.0))
    event = conclusion.find_nothing_learned(run_data, loop)
    assert event is not None and "100.0 px" in event.message
