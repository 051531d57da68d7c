"""A run remembers what it learned from, whatever becomes of the folder; on the tiny data set, with a quick
network."""

from __future__ import annotations

import csv
import json
import re
import shutil
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import backend
from backend import evaluate
from backend.flags import run_command
from backend.overrides import read_run_config, resolve_overrides
from backend.run.folder import RunFolder
from backend.run.supervisor import record_launch
from backend.torch_devices import describe_machine
from backend.training import build, run_data
from backend.training.checkpoint import load_checkpoint
from backend.worker import train_run
from tests.tiny_network import TinyNetwork
from tests.training.tiny_runs import create_tiny_run

pytestmark = pytest.mark.slow  # trains

PATIENT = "Planted-Patient-1970"


@pytest.fixture(scope="module", autouse=True)
def tiny_network() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "build_model", lambda name, num, output_stride: TinyNetwork(num, 0.1))
        yield


@pytest.fixture
def data(tiny_dataset: Path, tmp_path: Path) -> Path:
    """The tiny data set in a folder of its own; its first image bears a patient's name."""
    folder = tmp_path / "data"
    shutil.copytree(tiny_dataset, folder)
    (folder / "00.png").rename(folder / f"{PATIENT}.png")
    table = folder / "annotations.csv"
    table.write_text(table.read_text(encoding="utf-8").replace("00.png", f"{PATIENT}.png"), encoding="utf-8")
    return folder


def stop_after_first_epoch(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train one epoch of two, then leave the run as a kill would."""
    append = RunFolder.append_metrics

    def append_and_ask(run: RunFolder, row: Any) -> None:
        append(run, row)
        if run.path == folder.path and row["epoch"] == 1:
            run.request("stop")

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "append_metrics", append_and_ask)
        train_run(folder)
    folder.archive_outcome()
    folder.clear_requests()


def make_old(folder: RunFolder) -> None:
    """As a run was left before it kept what it learned from."""
    (folder.path / "data.json").unlink()
    for path in (folder.path / "checkpoints").glob("*.pt"):
        content = torch.load(path, weights_only=True)
        torch.save({k: v for k, v in content.items() if k not in ("learned_from", "made_with")}, path)


def events_of(folder: RunFolder, kind: str) -> list[dict[str, Any]]:
    return [event for event in folder.read_events()[0] if event["kind"] == kind]


def rewrite(folder: Path, change: Any) -> None:
    table = folder / "annotations.csv"
    with table.open(newline="", encoding="utf-8") as file:
        rows = change(list(csv.DictReader(file)))
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def add_images(folder: Path, num: int) -> None:
    def change(rows: list[dict[str, str]]) -> list[dict[str, str]]:
        for number in range(num):
            noise = np.random.default_rng(number).integers(0, 255, (96, 80), np.uint8)
            cv2.imwrite(str(folder / f"new{number}.png"), noise)
        return [*rows, *({**rows[1], "image": f"new{number}.png"} for number in range(num))]

    rewrite(folder, change)


def with_ear_first(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    order = ("image", "mm_per_px", "ear_x", "ear_y", "nose_x", "nose_y", "chin_x", "chin_y")
    return [{name: row[name] for name in order} for row in rows]


def with_a_landmark_more(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{**row, "brow_x": "9", "brow_y": "9"} for row in rows]


def measured(checkpoint: Path, data: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> dict[str, Any]:
    always = ["--checkpoint", str(checkpoint), "--dataset_path", str(data), "--device", "cpu", "--json", "-"]
    capsys.readouterr()
    assert run_command(evaluate.main, [*always, *flags]) == 0
    printed = capsys.readouterr()
    record: dict[str, Any] = json.loads(printed.out)
    record["printed"] = printed.err
    return record


def test_the_version_is_that_of_the_project() -> None:
    content = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" not in content["project"] and content["project"]["dynamic"] == ["version"]
    assert content["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "backend.__version__"}
    assert re.fullmatch(r"\d+\.\d+\.\d+", backend.__version__)


def test_a_run_keeps_what_it_learned_from_and_with_what_once(data: Path, tmp_path: Path) -> None:
    folder = create_tiny_run(tmp_path / "runs", data)
    assert train_run(folder) == 0
    kept = folder.read_data()
    assert kept is not None
    assert {split: len(images) for split, images in kept["splits"].items()} == {"train": 9, "valid": 3}
    assert kept["landmark_names"] == ["nose", "chin", "ear"] and kept["reader_names"] == ["annotator"]
    assert set(kept["splits"]["train"][0]) == {"image_id", "group", "path", "fingerprint", "annotations"}
    assert kept["made_with"]["torch"] == torch.__version__ and kept["made_with"]["device_name"]
    assert kept["made_with"]["version"] == backend.__version__


def test_a_checkpoint_holds_fingerprints_and_no_file_name(data: Path, tmp_path: Path) -> None:
    folder = create_tiny_run(tmp_path / "runs", data)
    assert train_run(folder) == 0
    kept = folder.read_data()
    assert kept is not None and PATIENT in json.dumps(kept)
    for kind in ("best", "last"):
        path = folder.checkpoint_path(kind)  # type: ignore[arg-type]
        content = load_checkpoint(path)
        for split in ("train", "valid"):
            digests = sorted(image["fingerprint"] for image in kept["splits"][split])
            assert content["learned_from"][split] == digests
        assert content["made_with"] == kept["made_with"]
        assert PATIENT.encode() not in path.read_bytes()


def test_a_resumed_run_trains_on_its_own_images_and_reports_what_changed(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, grown = (create_tiny_run(tmp_path / name, data, epochs=3) for name in ("whole", "grown"))
    assert train_run(whole) == 0
    stop_after_first_epoch(grown, monkeypatch)
    before = grown.read_data()
    add_images(data, 10)
    assert train_run(grown) == 0
    losses = [[row["train/loss"] for row in folder.read_metrics()[0]] for folder in (whole, grown)]
    assert losses[0] == losses[1]
    (event,) = events_of(grown, "data_changed")
    assert len(event["new"]) == 10 and event["gone"] == [] and "10 new" in event["message"]
    assert grown.read_data() == before


def test_data_that_did_not_change_is_reported_as_nothing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = create_tiny_run(tmp_path / "runs", data)
    stop_after_first_epoch(folder, monkeypatch)
    assert train_run(folder) == 0
    kinds = {event["kind"] for event in folder.read_events()[0]}
    assert not kinds & {"data_changed", "data_unrecorded", "program_changed"}


@pytest.mark.parametrize("change", [with_ear_first, with_a_landmark_more])
@pytest.mark.parametrize("is_old", [False, True])
def test_other_landmarks_at_a_resume_are_a_mistake_in_one_line(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any, is_old: bool
) -> None:
    folder = create_tiny_run(tmp_path / "runs", data)
    stop_after_first_epoch(folder, monkeypatch)
    if is_old:
        make_old(folder)
    last = folder.checkpoint_path("last").read_bytes()
    rewrite(data, change)
    assert train_run(folder) == 2
    outcome = folder.read_outcome()
    assert outcome is not None and outcome["traceback"] == "" and "\n" not in outcome["reason"]
    assert "landmarks" in outcome["reason"] and "start a new run" in outcome["reason"]
    assert folder.checkpoint_path("last").read_bytes() == last


def test_a_run_of_an_older_version_is_resumed_and_measured_and_says_what_was_read(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, old = (create_tiny_run(tmp_path / name, data) for name in ("whole", "old"))
    assert train_run(whole) == 0
    stop_after_first_epoch(old, monkeypatch)
    make_old(old)
    assert train_run(old) == 0
    assert [row["train/loss"] for row in old.read_metrics()[0]] == [
        row["train/loss"] for row in whole.read_metrics()[0]
    ]
    (event,) = events_of(old, "data_unrecorded")
    assert "made before its images were recorded: the folder is read as it is today" in event["message"]
    assert old.read_data() is None
    record = measured(old.checkpoint_path("best"), data, capsys, "--split", "valid")
    assert record["num_images"] == 3 and record["about"]["leaked"]["known_by"] == "folder"
    assert "made before its images were recorded" in record["printed"]


def test_images_of_the_training_are_known_though_the_table_changed_their_split(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = create_tiny_run(tmp_path / "runs", data)
    assert train_run(folder) == 0
    kept = folder.read_data()
    assert kept is not None
    trained = {image["image_id"] for image in kept["splits"]["train"]}

    def change(rows: list[dict[str, str]]) -> list[dict[str, str]]:
        return [{**row, "split": "test" if row["image"] in trained else "train"} for row in rows]

    rewrite(data, change)
    record = measured(folder.checkpoint_path("best"), data, capsys, "--split", "test")
    assert set(record["about"]["leaked"]["image_ids"]) == trained and record["num_images"] == 9
    assert "9 of the 9 images are in the training data" in record["printed"]
    moved = tmp_path / "alone.pt"
    shutil.copyfile(folder.checkpoint_path("best"), moved)
    record = measured(moved, data, capsys, "--split", "test")
    assert set(record["about"]["leaked"]["image_ids"]) == trained
    assert (
        record["about"]["leaked"]["known_by"] == "fingerprints"
        and "only identical files" in record["printed"]
    )


def test_the_shared_case_of_moved_splits_is_told(
    shared_cases: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    shutil.copytree(shared_cases / "split-moved" / "d", data)
    (data / "labels.csv").rename(data / "annotations.csv")
    folder = create_tiny_run(tmp_path / "runs", data)
    assert train_run(folder) == 0
    other = {"train": "test", "test": "train", "val": "val"}
    rewrite(data, lambda rows: [{**row, "split": other[row["split"]]} for row in rows])
    record = measured(folder.checkpoint_path("best"), data, capsys, "--split", "test")
    assert record["num_images"] == len(record["about"]["leaked"]["image_ids"]) == 8


@pytest.mark.parametrize("seed", range(3))
def test_valid_stays_what_chose_the_weights_when_images_are_added(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], seed: int
) -> None:
    folder = create_tiny_run(tmp_path / "runs", data, seed=seed, epochs=1)
    assert train_run(folder) == 0
    kept = folder.read_data()
    assert kept is not None
    add_images(data, 30)
    for split in ("train", "valid"):
        ids = {image["image_id"] for image in kept["splits"][split]}
        record = measured(folder.checkpoint_path("best"), data, capsys, "--split", split)
        assert set(record["errors"]["image_ids"]) == ids
        assert set(record["about"]["leaked"]["image_ids"]) == (ids if split == "train" else set())


def test_a_first_network_is_refused_for_what_it_learned_from_then(data: Path, tmp_path: Path) -> None:
    """Its data set has lost the rows since."""
    first = create_tiny_run(tmp_path / "runs", data, val_fraction=0, epochs=1)
    assert train_run(first) == 0
    of_second = tmp_path / "second"
    shutil.copytree(data, of_second)
    rewrite(data, lambda rows: rows[:2])
    checkpoint = str(first.checkpoint_path("best"))
    second = create_tiny_run(
        tmp_path / "runs", of_second, refine=True, first_network=checkpoint, refine_epochs=1, crop_size=32
    )
    config = second.read_config()
    config["chosen"]["first_network"] = {"value": checkpoint, "reason": "as asked"}
    (second.path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert train_run(second) == 2
    outcome = second.read_outcome()
    assert outcome is not None and "was trained on 3 of the 3 validation images" in outcome["reason"]


def test_a_damaged_list_stops_a_resume_and_is_left_alone(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = create_tiny_run(tmp_path / "runs", data)
    stop_after_first_epoch(folder, monkeypatch)
    (folder.path / "data.json").write_text("{")
    assert train_run(folder) == 2
    outcome = folder.read_outcome()
    assert outcome is not None and "data.json is damaged" in outcome["reason"]
    assert (folder.path / "data.json").read_text() == "{"


def test_a_run_goes_on_where_its_data_was_moved_to_as_if_nothing_had_happened(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, moved = (create_tiny_run(tmp_path / name, data) for name in ("whole", "moved"))
    assert train_run(whole) == 0
    stop_after_first_epoch(moved, monkeypatch)
    there = tmp_path / "another" / "disk"
    there.parent.mkdir()
    data.rename(there)
    elsewhere = Path(shutil.move(moved.path, tmp_path / "copied run"))  # and so was the run
    folder = RunFolder(elsewhere)
    overrides = resolve_overrides(folder, {"dataset_path": str(there)}, describe_machine())
    record_launch(folder, overrides=overrides)
    assert train_run(folder) == 0
    assert [row["train/loss"] for row in folder.read_metrics()[0]] == [
        row["train/loss"] for row in whole.read_metrics()[0]
    ]
    assert events_of(folder, "data_changed") == []
    assert load_checkpoint(folder.checkpoint_path("best"))["args"]["chosen"]["dataset_path"]["value"] == str(
        there
    )


def test_a_device_that_is_gone_ends_a_run_in_one_line(data: Path, tmp_path: Path) -> None:
    folder = create_tiny_run(tmp_path / "runs", data)
    config = folder.read_config()
    config["chosen"]["device"] = {"value": "cuda:7", "reason": "it was there"}
    (folder.path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert train_run(folder) == 2
    outcome = folder.read_outcome()
    assert outcome is not None and outcome["traceback"] == ""
    assert "torch sees no cuda:7 here" in outcome["reason"] and "cpu" in outcome["reason"]


def test_a_bfloat16_run_that_goes_on_without_its_instructions_says_so_once(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_data, "cpu_has_bfloat16", lambda: False)
    folder = create_tiny_run(tmp_path / "runs", data)
    config = folder.read_config()
    config["chosen"]["mixed_precision"] = {"value": "bfloat16", "reason": "this CPU has instructions for it"}
    (folder.path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for _ in range(2):
        run_data.load_run_data(folder, read_run_config(folder), threading.Event())
    (event,) = events_of(folder, "slow_precision")
    assert "no instructions" in event["message"]
