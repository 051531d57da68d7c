"""The record of the images that a run learned from, in data.json."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backend.data.provenance import DataRecord
from backend.errors import UserError
from tests.data.recorded_data import NAMES


def test_a_record_survives_json_and_names_every_image_once(record: DataRecord, data: Path) -> None:
    raw = json.loads(json.dumps(record.to_dict()))
    assert DataRecord.from_dict(raw) == record
    assert raw["source_folder"] == str(data) and raw["landmark_names"] == list(NAMES)
    assert [image["path"] for image in raw["splits"]["train"]] == [f"{n:02d}.png" for n in range(9)]
    assert [image["image_id"] for image in raw["splits"]["valid"]] == ["09.png", "10.png"]
    every = [image for images in raw["splits"].values() for image in images]
    assert (
        len({image["fingerprint"] for image in every}) == len({image["annotations"] for image in every}) == 11
    )


@pytest.mark.parametrize("damage", ["format_version", "splits", "landmark_names"])
def test_a_damaged_record_is_a_mistake_with_a_cure(record: DataRecord, damage: str) -> None:
    raw = record.to_dict()
    raw.pop(damage)
    with pytest.raises(UserError, match=r"data\.json") as caught:
        DataRecord.from_dict(raw)
    assert caught.value.cure
