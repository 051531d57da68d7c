from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from backend.evaluation.cases import cases_of_images, cases_of_record, sum_by_case

NAN = math.nan


def images(groups: list[str], kinds: list[str]) -> pd.DataFrame:
    ids = [f"i{row}" for row in range(len(groups))]
    return pd.DataFrame({"image_id": ids, "group": groups, "group_kind": kinds})


@pytest.mark.parametrize(
    ("groups", "kinds", "kind", "numbers"),
    [
        (["a", "b", "a"], ["patient"] * 3, "patient", [0, 1, 0]),
        (["a", "b", "a"], ["video"] * 3, "video", [0, 1, 0]),
        (["a", "b", "a"], ["device"] * 3, "image", [0, 1, 2]),
        (["", "", ""], [""] * 3, "image", [0, 1, 2]),
        (["a", "", "a", ""], ["patient", "", "patient", ""], "patient", [0, 1, 0, 2]),
        (["a", "a", "a"], ["patient", "video", "device"], "group", [0, 1, 2]),
        # a patient called like an image
        (["i1", "", "i1"], ["patient", "", "patient"], "patient", [0, 1, 0]),
    ],
)
def test_patients_and_videos_are_cases_and_devices_are_not(
    groups: list[str], kinds: list[str], kind: str, numbers: list[int]
) -> None:
    cases = cases_of_images(images(groups, kinds))
    assert (cases.kind, cases.numbers.tolist()) == (kind, numbers)
    assert cases.num == len(set(numbers))


def test_a_record_knows_the_cases_of_some_of_its_images() -> None:
    record: dict[str, Any] = {
        "case_kind": "patient",
        "errors": {"image_ids": ["a", "b", "c", "d"], "cases": [0, 1, 0, 2]},
    }
    cases = cases_of_record(record, ["d", "c", "a"])
    assert cases is not None and (cases.kind, cases.numbers.tolist()) == ("patient", [0, 1, 1])
    del record["case_kind"]
    assert cases_of_record(record, ["a"]) is None


def test_known_values_are_summed_by_case() -> None:
    values = np.array([[1.0, 2.0], [3.0, NAN], [5.0, NAN], [NAN, NAN]])
    sums, counts = sum_by_case(values, np.array([4, 0, 4, 7]))
    assert sums.tolist() == [[3, 0], [6, 2], [0, 0]]
    assert counts.tolist() == [[1, 0], [2, 1], [0, 0]]
