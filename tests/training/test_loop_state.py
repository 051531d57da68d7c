from __future__ import annotations

from dataclasses import asdict

from backend.run.best import MeanError
from backend.training.loop_state import Best, LoopState
from backend.training.micro_batch import WHOLE_BATCHES, MicroBatch
from backend.training.stability import LossWatch


def test_a_state_survives_as_plain_values() -> None:
    loop = LoopState(
        epoch=3,
        global_step=12,
        best=Best(2, MeanError(4.0, 0.4)),
        own_best=Best(3, MeanError(5.0, 0.5)),
        micro_batch=MicroBatch(8, 1),
        losses=LossWatch(first=[1.0]),
    )
    plain = asdict(loop)
    assert plain["micro_batch"] == {"limit": 8, "num_retries": 1}
    assert LoopState.from_dict(plain) == loop


def test_a_state_from_before_there_were_parts_has_whole_batches() -> None:
    plain = asdict(LoopState(epoch=3))
    del plain["micro_batch"], plain["pass_micro_batch"], plain["losses"]
    assert LoopState.from_dict(plain) == LoopState(epoch=3, micro_batch=WHOLE_BATCHES)


def test_a_state_from_before_the_best_was_a_record_keeps_it() -> None:
    plain = asdict(LoopState(epoch=3))
    del plain["best"]
    older = {**plain, "best_mre_px": 4.0, "best_mre_mm": None, "best_epoch": 2}
    del older["own_best"]
    best = Best(2, MeanError(4.0))
    assert LoopState.from_dict(older) == LoopState(epoch=3, best=best, own_best=best)
