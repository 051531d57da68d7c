from __future__ import annotations

from backend.memory.lifetimes import Lifetimes, Moment, upper_envelope

WEIGHTS, STATE, MAPS, LOSS, POINTS = range(5)
SIZES = [Moment(100, 0), Moment(200, 0), Moment(0, 30), Moment(7, 0), Moment(0, 1)]
TINY = Lifetimes(
    SIZES,
    before=(WEIGHTS,),
    training=(MAPS, LOSS, ~MAPS, STATE, ~LOSS),
    validation=(MAPS, POINTS, ~POINTS, ~MAPS),
)


def test_what_the_first_step_leaves_is_there_in_every_later_one():
    assert TINY.staying == {STATE}
    assert TINY.later_training() == [MAPS, LOSS, ~MAPS, ~LOSS]
    # weights, state, loss and one image's maps: 100 + 200 + 7 + 30
    assert TINY.training_moments() == [Moment(307, 30)]
    assert TINY.validation_moments() == [Moment(300, 31)]


def test_the_envelope_keeps_what_is_highest_somewhere():
    flat, middle, low, steep = Moment(10, 0), Moment(6, 2), Moment(1, 1), Moment(0, 4)
    assert upper_envelope({steep, low, middle, flat}) == [flat, middle, steep]
    assert upper_envelope({steep, low}) == [steep]
