from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.data.splits import assign_validation
from backend.errors import UserError


def table(groups: Sequence[str], splits: Sequence[str] | None = None) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "image_id": [f"{i:03d}" for i in range(len(groups))],
            "split": list(splits or ["train"] * len(groups)),
            "group": list(groups),
        }
    )


def valid_ids(images: pd.DataFrame) -> set[str]:
    return set(images.loc[images["split"] == "valid", "image_id"])


@given(num=st.integers(1, 200), fraction=st.floats(0, 0.5), seed=st.integers(0, 1000))
def test_without_groups_the_number_is_exact(num: int, fraction: float, seed: int) -> None:
    images = table([""] * num)
    carved = assign_validation(images, fraction, seed)
    wanted = 0 if fraction == 0 or num < 2 else max(1, round(fraction * num))
    assert len(valid_ids(carved)) == wanted
    assert set(images["split"]) == {"train"}  # a copy


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=30),
    fraction=st.floats(0.01, 0.5),
    seed=st.integers(0, 99),
)
def test_groups_are_carved_whole_or_the_number_is_exact(sizes: list[int], fraction: float, seed: int) -> None:
    images = table([f"g{i}" for i, size in enumerate(sizes) for _ in range(size)])
    carved = assign_validation(images, fraction, seed)
    num, num_valid = len(images), len(valid_ids(carved))
    wanted = 0 if num < 2 else max(1, round(fraction * num))
    whole = all(len(set(rows["split"])) == 1 for _, rows in carved.groupby("group"))
    assert num_valid == wanted or (
        whole and num_valid <= num // 2 and abs(num_valid - wanted) <= max(1, wanted / 2)
    )


@given(seed=st.integers(0, 99), order=st.permutations(range(30)))
def test_the_order_of_the_rows_does_not_matter(seed: int, order: list[int]) -> None:
    for groups in (
        [""] * 30,
        [f"patient {i // 2}" for i in range(30)],
        [f"machine {i % 2}" for i in range(30)],
    ):
        images = table(groups)
        assert valid_ids(assign_validation(images, 0.2, seed)) == valid_ids(
            assign_validation(images.iloc[order], 0.2, seed)
        )


def test_seed_matters() -> None:
    images = table([""] * 100)
    assert valid_ids(assign_validation(images, 0.1, 0)) != valid_ids(assign_validation(images, 0.1, 1))


def test_patients_stay_together() -> None:
    images = table([f"patient {i // 3}" for i in range(90)])
    carved = assign_validation(images, 0.1, 0)
    assert len(valid_ids(carved)) == 9
    assert (carved.groupby("group")["split"].nunique() == 1).all()


def test_group_of_two_is_not_split_for_one_image() -> None:
    carved = assign_validation(table([f"patient {i // 2}" for i in range(10)]), 0.1, 0)
    assert len(valid_ids(carved)) == 2
    assert (carved.groupby("group")["split"].nunique() == 1).all()


def test_machines_are_too_large_and_carved_in_proportion() -> None:
    carved = assign_validation(table(["a"] * 60 + ["b"] * 40), 0.1, 0)
    assert carved.loc[carved["split"] == "valid", "group"].value_counts().to_dict() == {"a": 6, "b": 4}


def test_a_single_group_is_no_obstacle() -> None:
    assert len(valid_ids(assign_validation(table(["video"] * 116), 0.1, 0))) == 12


def test_existing_validation_and_test_are_left_alone() -> None:
    images = table([""] * 6, ["train", "train", "train", "valid", "test", "test1"])
    pd.testing.assert_frame_equal(assign_validation(images, 0.5, 0), images)
    images = table(["g"] * 6, ["train", "train", "train", "test2", "test", "test1"])
    carved = assign_validation(images, 0.34, 0)
    assert len(valid_ids(carved)) == 1 and list(carved["split"][3:]) == ["test2", "test", "test1"]


def test_fraction_zero_carves_nothing() -> None:
    images = table([""] * 10)
    pd.testing.assert_frame_equal(assign_validation(images, 0, 0), images)


def test_no_training_image() -> None:
    with pytest.raises(UserError, match="'train'"):
        assign_validation(table([""] * 2, ["test", "test"]), 0.1, 0)
    with pytest.raises(UserError, match="'train'"):
        assign_validation(table([]), 0.1, 0)


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_fraction_out_of_range(fraction: float) -> None:
    with pytest.raises(UserError) as error:
        assign_validation(table([""] * 2), fraction, 0)
    assert error.value.field == "val_fraction"
