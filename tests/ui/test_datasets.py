from __future__ import annotations

from backend.data.leaks import Leak
from ui.datasets import MAX_PROBLEMS, list_leaks, summarize_leaks


def leak(first: str, second: str, split: str = "train", other: str = "test") -> Leak:
    return Leak((first, second), (split, other), "same picture", 0.0123)


def test_leaks_across_splits_stand_first_under_their_cures() -> None:
    found = [leak("a", "b", "test", "test"), leak("c", "d"), leak("e", "f", "train", "valid")]
    assert "2 pairs" in summarize_leaks(found)
    measuring, training, *pairs = list_leaks(found).splitlines()
    assert "b, d" in measuring and "--exclude" in measuring and "valid" in training
    assert [line[3] for line in pairs] == ["c", "e", "a"]
    assert pairs[0] == "- `c (train) = d (test): same picture, distance 0.012`"


def test_no_leak_is_said_and_many_are_cut() -> None:
    assert "no image" in summarize_leaks([]) and list_leaks([]) == ""
    many = [leak(f"{number}", f"{number}x") for number in range(MAX_PROBLEMS + 3)]
    assert list_leaks(many).splitlines()[-1] == "- and 3 more"
