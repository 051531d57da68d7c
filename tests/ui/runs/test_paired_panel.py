from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from backend.config import Choice, RunConfig, Settings
from backend.evaluation.record import FORMAT_VERSION
from backend.files import write_json_atomic
from backend.run.folder import RunFolder, create_run
from ui.child_process import Progress
from ui.runs import paired_panel
from ui.runs.evaluation_process import Request
from ui.runs.paired_panel import PairedPanel, draw_paired, offer_pair, on_evaluate
from ui.session import Session


@pytest.fixture
def panel(tmp_path: Path, popups: list[str]) -> PairedPanel:
    parts: dict[str, Any] = {field.name: field.name for field in fields(PairedPanel)}
    return PairedPanel(**{**parts, "runs_dir": tmp_path})


@pytest.fixture
def pair(tmp_path: Path, tiny_dataset: Path) -> list[RunFolder]:
    """Two runs on the tiny data set, each with a best.pt."""
    config = RunConfig(Settings(), {"dataset_path": Choice(str(tiny_dataset), "as asked")})
    folders = [create_run(tmp_path, config.to_dict(), label) for label in ("one", "two")]
    for folder in folders:
        folder.checkpoint_path("best").parent.mkdir()
        folder.checkpoint_path("best").write_bytes(b"")
    return folders


def write_record(folder: RunFolder, name: str, errors_px: list[float], version: int = FORMAT_VERSION) -> None:
    dataset, split = name.rsplit("-", 1)
    record = {
        "format_version": version,
        "unit": "px",
        "case_kind": "image",
        "per_landmark": {"nose": {}},
        "readers": {"truth": "mean"},
        "about": {"dataset": dataset, "split": split, "dataset_path": "/data/films"},
        "errors": {
            "image_ids": [str(number) for number in range(len(errors_px))],
            "cases": list(range(len(errors_px))),
            "px": [[error] for error in errors_px],
        },
    }
    path = folder.evaluation_path(name, "json")
    path.parent.mkdir(exist_ok=True)
    write_json_atomic(path, record)


def draw(
    panel: PairedPanel, pair: list[RunFolder], measured: str | None = None, session: Any = None
) -> dict[Any, Any]:
    return draw_paired(panel, session or Session(), pair[0].run_id, pair[1].run_id, measured)


def test_two_measured_runs_are_compared_and_drawn_once(panel: PairedPanel, pair: list[RunFolder]) -> None:
    for folder, errors in zip(pair, ([4.0, 6.0, 8.0] * 2, [2.0, 4.0, 6.0] * 2), strict=True):
        write_record(folder, "films-test", errors)
    session = Session()
    updates = draw(panel, pair, session=session)
    assert f"{pair[1].run_id} is better than {pair[0].run_id} by 2.0 px" in updates[panel.result]
    assert updates[panel.evaluate]["visible"] is False
    assert draw(panel, pair, "films-test", session) == {panel.session: session}


def test_an_evaluation_that_both_have_comes_first(panel: PairedPanel, pair: list[RunFolder]) -> None:
    write_record(pair[0], "films-test", [1.0, 2.0])
    for folder in pair:
        write_record(folder, "films-valid", [1.0, 2.0])
    assert draw(panel, pair)[panel.evaluation] == {
        "choices": ["films-valid", "films-test"],
        "value": "films-valid",
        "__type__": "update",
    }


def test_what_is_missing_is_named_and_evaluated_as_the_other_was(
    panel: PairedPanel, pair: list[RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_record(pair[0], "films-test", [1.0, 2.0])
    asked: list[tuple[str, Request]] = []
    monkeypatch.setattr(
        paired_panel, "start_evaluation", lambda folder, request: asked.append((folder.run_id, request))
    )
    updates = draw(panel, pair)
    assert pair[1].run_id in updates[panel.note] and pair[0].run_id not in updates[panel.note]
    assert updates[panel.evaluate]["visible"] is True
    on_evaluate(panel, Session(), pair[0].run_id, pair[1].run_id, "films-test")
    assert asked == [(pair[1].run_id, Request("/data/films", "auto", "test", "mean", leave_out_leaked=False))]


def test_two_that_were_never_evaluated_are_measured_on_the_data_of_the_first(
    panel: PairedPanel, pair: list[RunFolder], tiny_dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Request] = []
    monkeypatch.setattr(paired_panel, "start_evaluation", lambda folder, request: asked.append(request))
    updates = draw(panel, pair)
    name, note = updates[panel.evaluation]["value"], updates[panel.note]
    assert (
        all(folder.run_id in note for folder in pair)
        and "both runs need an evaluation on the same split" in note
    )
    assert name == f"{tiny_dataset.name}-valid"
    on_evaluate(panel, Session(), pair[0].run_id, pair[1].run_id, name)
    assert asked == [Request(str(tiny_dataset), "auto", "valid", "mean")] * 2


def test_progress_is_told_and_nothing_can_be_started_twice(
    panel: PairedPanel, pair: list[RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_record(pair[0], "films-test", [1.0, 2.0])
    progress = {pair[1].run_id: Progress(3, 10)}
    monkeypatch.setattr(paired_panel, "read_progress", lambda folder: progress.get(folder.run_id))
    monkeypatch.setattr(paired_panel, "is_evaluating", lambda folder: True)
    updates = draw(panel, pair)
    assert (
        "predicting images: 3 of 10" in updates[panel.note]
        and updates[panel.evaluate]["interactive"] is False
    )


def test_without_weights_there_is_nothing_to_evaluate(panel: PairedPanel, pair: list[RunFolder]) -> None:
    pair[1].checkpoint_path("best").unlink()
    updates = draw(panel, pair)
    assert "no best.pt" in updates[panel.note] and updates[panel.evaluate]["visible"] is False


def test_a_record_of_another_version_counts_as_missing(panel: PairedPanel, pair: list[RunFolder]) -> None:
    write_record(pair[0], "films-test", [1.0, 2.0])
    write_record(pair[1], "films-test", [1.0, 2.0], version=99)
    assert pair[1].run_id in draw(panel, pair)[panel.note]


def test_a_record_of_version_1_is_compared_and_what_it_does_not_know_is_said(
    panel: PairedPanel, pair: list[RunFolder]
) -> None:
    for folder, shift in zip(pair, (0.0, 2.0), strict=True):
        write_record(folder, "films-test", [4.0 + shift + number for number in range(8)], version=1)
        path = folder.evaluation_path("films-test", "json")
        record = json.loads(path.read_text(encoding="utf-8"))
        del record["case_kind"], record["errors"]["cases"]
        write_json_atomic(path, record)
    html = draw(panel, pair)[panel.result]
    assert "is worse than" in html and "each image was counted as independent" in html


def test_data_that_is_gone_is_told(panel: PairedPanel, pair: list[RunFolder]) -> None:
    for folder in pair:
        content = folder.config_path.read_text(encoding="utf-8").replace("tiny_dataset", "gone")
        folder.config_path.write_text(content, encoding="utf-8")
    assert "does not exist" in draw(panel, pair)[panel.note]


def test_one_run_or_a_deleted_one_is_no_pair(panel: PairedPanel, pair: list[RunFolder]) -> None:
    assert "Choose two different runs" in draw(panel, [pair[0], pair[0]])[panel.note]
    assert (
        "Choose two different runs" in draw_paired(panel, Session(), pair[0].run_id, "gone", None)[panel.note]
    )
    elsewhere = (
        f"../{pair[1].path.parent.name}/{pair[1].run_id}"  # the same folder, by a name that is no run's
    )
    updates = draw_paired(panel, Session(), pair[0].run_id, elsewhere, None)
    assert "Choose two different runs" in updates[panel.note]
    assert offer_pair(panel, [pair[0].run_id])[panel.first]["value"] is None
    offered = offer_pair(panel, ["a", "b", "c"])
    assert (offered[panel.first]["value"], offered[panel.second]["value"]) == ("a", "b")
