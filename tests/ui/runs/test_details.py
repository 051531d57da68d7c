from __future__ import annotations

import base64
import csv
import io
import os
import re
import zipfile
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from backend.config import Choice, RunConfig, Settings
from backend.device.machine import Machine
from backend.run.folder import RunFolder, create_run
from backend.run.notes import Notes, read_notes, write_notes
from backend.run.process import identify
from backend.run.queue import read_queue
from ui import run_actions
from ui.runs import details as run_details
from ui.runs.details import RunDetails
from ui.runs.resume_fields import ResumeFields
from ui.session import Session


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    config = RunConfig(
        Settings(), {"device": Choice("cpu", "as asked"), "dataset_path": Choice(str(tmp_path), "")}
    )
    return create_run(tmp_path / "runs", config.to_dict(), "run")


@pytest.fixture
def details(folder: RunFolder, tmp_path: Path, popups: list[str]) -> Iterator[RunDetails]:
    # a component is only what an update is addressed to, so its name serves as well
    parts: dict[str, Any] = {field.name: field.name for field in fields(RunDetails)}
    changes: dict[str, Any] = {field.name: f"resume {field.name}" for field in fields(ResumeFields)}
    parts |= {"runs_dir": folder.path.parent, "resume_fields": ResumeFields(**changes)}
    cache = str(tmp_path / "cache")
    yield RunDetails(**{**parts, "bundle_link": _Link(cache)})


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a GPU, which no process is asked about."""
    monkeypatch.setattr(run_actions, "query_machine", lambda: Machine((), 2, "2.13.0", cpu_bfloat16=False))


class _Link(SimpleNamespace):
    """The one component of which more is asked: where Gradio keeps files."""

    def __init__(self, cache: str) -> None:
        super().__init__(GRADIO_CACHE=cache)

    __hash__ = object.__hash__


@pytest.mark.parametrize("where", ["../outside", "{absolute}", "nowhere", ""])
def test_a_folder_that_is_no_run_of_ours_is_not_opened(
    details: RunDetails, folder: RunFolder, tmp_path: Path, where: str
) -> None:
    """The name comes from the browser; many a folder has a config.json."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "config.json").write_text(folder.config_path.read_text(encoding="utf-8"), encoding="utf-8")
    updates = run_details.on_open(details, Session(), where.format(absolute=outside))
    assert updates[details.opened] is None and updates[details.column]["visible"] is False


def live(folder: RunFolder) -> None:
    folder.write_launched(identify(os.getpid()), [])


def test_opening_a_run_shows_its_notes_and_a_tick_leaves_what_is_typed(
    details: RunDetails, folder: RunFolder
) -> None:
    write_notes(folder, Notes(("a", "b"), "words"))
    session = Session()
    updates = run_details.on_open(details, session, folder.run_id)
    assert (updates[details.tags], updates[details.notes]) == ("a, b", "words")
    assert updates[details.delete]["interactive"] is True
    folder.append_metrics({"phase": "train", "epoch": 1})
    updates = run_details.draw_details(details, session, folder.run_id)
    assert details.title in updates and details.tags not in updates and details.notes not in updates
    assert run_details.draw_details(details, session, folder.run_id) == {details.session: session}


def test_tags_and_notes_are_kept(details: RunDetails, folder: RunFolder) -> None:
    assert run_details.on_save_notes(details, folder.run_id, " b ,a,b", " words \n") == "b, a"
    assert read_notes(folder) == Notes(("b", "a"), "words")
    run_details.on_save_notes(details, "no-such-run", "a", "")
    assert not (details.runs_dir / "no-such-run").exists()


def test_a_run_enters_the_queue_and_leaves_it(details: RunDetails, folder: RunFolder) -> None:
    updates = run_details.on_queue(details, Session(), folder.run_id)
    assert read_queue(details.runs_dir) == [folder.run_id]
    assert "Remove" in updates[details.queue]["value"]
    updates = run_details.on_queue(details, Session(), folder.run_id)
    assert read_queue(details.runs_dir) == [] and "Add" in updates[details.queue]["value"]


def test_deleting_says_how_much_and_then_hides_the_run(details: RunDetails, folder: RunFolder) -> None:
    folder.log_path.write_bytes(b"x" * 2_500_000)
    text = run_details.on_ask_delete(details, folder.run_id)[details.confirm_text]
    assert folder.run_id in text and "2 MiB" in text
    updates = run_details.on_delete(details, Session(), folder.run_id)
    assert not folder.path.exists()
    assert updates[details.opened] is None and updates[details.column]["visible"] is False


def test_a_run_that_became_live_meanwhile_is_not_deleted(
    details: RunDetails, folder: RunFolder, popups: list[str]
) -> None:
    live(folder)
    updates = run_details.on_delete(details, Session(), folder.run_id)
    assert folder.config_path.is_file() and "running already" in popups[0]
    assert updates[details.delete]["interactive"] is False and updates[details.confirm]["visible"] is False


def test_a_run_under_evaluation_is_not_deleted(
    details: RunDetails, folder: RunFolder, popups: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_details, "is_evaluating", lambda folder: True)
    run_details.on_delete(details, Session(), folder.run_id)
    assert folder.config_path.is_file() and "evaluated" in popups[0]


def test_a_bundle_ends_with_its_link_and_yesterdays_goes(
    details: RunDetails, folder: RunFolder, tmp_path: Path
) -> None:
    folder.append_metrics({"phase": "train", "epoch": 1, "val/mre_px": 2.0})
    old = tmp_path / "cache" / "fiducial-bundles" / "old.zip"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"")
    os.utime(old, (0, 0))
    *_, last = run_details.on_bundle(details, folder.run_id)
    made = old.parent / f"{folder.run_id}.zip"
    assert f"gradio_api/file={made.as_posix()}" in last and not old.exists()
    with zipfile.ZipFile(made) as archive:
        assert b"val/mre_px" in archive.read(f"{folder.run_id}/metrics.csv")


def test_the_table_of_metrics_opens_in_excel(details: RunDetails, folder: RunFolder) -> None:
    folder.append_metrics({"phase": "=train", "epoch": 1, "-بینی": -3.2})
    shown = re.search(r"base64,([^\"]*)", run_details._file_links(folder))
    assert shown is not None
    written = base64.b64decode(shown[1])
    assert written.startswith(b"\xef\xbb\xbf")
    (row,) = csv.DictReader(io.StringIO(written.decode("utf-8-sig")))
    assert row["phase"] == "'=train" and row["'-بینی"] == "-3.2"


def test_a_bundle_of_a_run_that_is_gone_says_so(details: RunDetails, folder: RunFolder) -> None:
    folder.checkpoint_path("best").parent.mkdir()
    folder.checkpoint_path("best").write_bytes(b"x" * 5_000_000)
    packing = run_details.on_bundle(details, folder.run_id)
    next(packing)
    Path(folder.config_path).unlink()
    assert "could not be made" in list(packing)[-1]


def test_resuming_beside_a_live_run_is_refused(
    details: RunDetails, folder: RunFolder, popups: list[str], alone: None
) -> None:
    other = create_run(details.runs_dir, folder.read_config(), "other")
    live(other)
    updates = run_details.on_resume(details, Session(), folder.run_id, "", None, " ", "")
    assert details.watched not in updates and f"{other.run_id} is training on cpu; wait" in popups[0]


@pytest.mark.parametrize(
    ("typed", "field", "text"),
    [
        (("/nowhere", "", "", ""), "dataset_path", "does not exist"),
        (("", "cuda:3", "", ""), "device", "torch sees no cuda:3 here"),
        (("", "", "-2", ""), "patience", "patience"),
        (("", "", "", "-1"), "num_workers", "num_workers"),
    ],
)
def test_what_cannot_change_at_a_resume_is_marked_at_its_field(
    details: RunDetails,
    folder: RunFolder,
    popups: list[str],
    alone: None,
    typed: tuple[str, str, str, str],
    field: str,
    text: str,
) -> None:
    updates = run_details.on_resume(details, Session(), folder.run_id, *typed)
    assert details.watched not in updates and text in popups[0]
    marked = updates[getattr(details.resume_fields, field)]
    assert "field-error" in marked["elem_classes"] and updates[details.resume_fields.panel]["open"] is True
    assert folder.read_launched() is None


def test_a_run_that_patience_ended_opens_on_the_field_that_takes_it_up_again(
    details: RunDetails, folder: RunFolder
) -> None:
    folder.checkpoint_path("last").parent.mkdir()
    folder.checkpoint_path("last").touch()
    folder.append_metrics({"phase": "train", "epoch": 9})
    folder.append_event("early_stop", "patience", phase="train", epoch=9)
    folder.write_outcome("finished_early", "no better")
    updates = run_details.on_open(details, Session(), folder.run_id)
    panel = updates[details.resume_fields.panel]
    assert (
        panel["open"] is True and panel["visible"] is True and updates[details.resume]["interactive"] is True
    )
    assert updates[details.resume_fields.patience]["placeholder"] == "0"
