from __future__ import annotations

import math
import os
import threading
from pathlib import Path

import filelock
import pytest

from backend.errors import UserError
from backend.run import folder as folder_module
from backend.run.folder import RunFolder, create_run, evaluation_name, list_runs, open_run


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return create_run(tmp_path / "runs", {"model": "hrnet"}, "hrnet-256")


def test_new_run_has_a_dated_name_and_its_config(folder: RunFolder) -> None:
    assert folder.read_config() == {"model": "hrnet"}
    date, clock, label = folder.run_id.split("-", 2)
    assert (len(date), len(clock), label) == (8, 6, "hrnet-256")


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ('a/b\\c:d*e?f"g<h>i|j', "a-b-c-d-e-f-g-h-i-j"),
        ("", "run"),
        ("..", "run"),
        ("ends with a dot. ", "ends-with-a-dot"),
        ("مدل 1", "مدل-1"),
        ("line\nbreak\x00", "line-break"),
        ("x" * 400, "x" * 48),
    ],
)
def test_label_becomes_a_name_on_every_system(tmp_path: Path, label: str, expected: str) -> None:
    run = create_run(tmp_path, {}, label)
    assert run.path.parent == tmp_path
    assert run.run_id[16:] == expected


def test_same_name_gets_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_module, "_TIME_FORMAT", "20250102-030405")
    names = [create_run(tmp_path, {}, "unet").run_id for _ in range(3)]
    stem = "20250102-030405-unet"
    assert names == [stem, f"{stem}-2", f"{stem}-3"]


def test_runs_created_at_once_are_all_different(tmp_path: Path) -> None:
    made: list[RunFolder] = []
    threads = [
        threading.Thread(target=lambda n=number: made.append(create_run(tmp_path, {"number": n}, "x")))
        for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({run.path for run in made}) == 8
    assert sorted(run.read_config()["number"] for run in made) == list(range(8))


def test_config_absent_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.json"):
        RunFolder(tmp_path).read_config()


def test_empty_run_reads_as_nothing(folder: RunFolder) -> None:
    assert folder.read_launched() is None
    assert folder.read_status() is None
    assert folder.read_outcome() is None
    assert folder.read_metrics() == ([], 0)
    assert folder.read_events() == ([], 0)
    assert folder.read_log_tail() == ""
    assert folder.previews.list_keys() == []
    assert folder.previews.read(("train", 1)) is None
    assert folder.previews.read_images() is None
    assert not folder.requested("stop")
    folder.clear_requests()
    folder.archive_outcome()
    folder.previews.prune()


def test_status_carries_a_heartbeat(folder: RunFolder) -> None:
    folder.write_status({"epoch": 3, "seconds_left": math.inf})
    status = folder.read_status()
    assert status is not None
    assert status["epoch"] == 3
    assert status["seconds_left"] is None
    assert status["heartbeat"] > 0


def test_status_held_by_a_reader_does_not_raise(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def held(*_: object) -> None:
        raise PermissionError("held")

    monkeypatch.setattr(folder_module, "write_json_atomic", held)
    folder.write_status({"epoch": 1})


def test_metrics_are_read_from_an_offset(folder: RunFolder) -> None:
    folder.append_metrics({"phase": "whole", "epoch": 1, "train/loss": math.nan})
    rows, offset = folder.read_metrics()
    assert rows[0]["train/loss"] is None
    assert rows[0]["time"] > 0
    folder.append_metrics({"phase": "whole", "epoch": 2, "time": 5.0})
    rows, offset = folder.read_metrics(offset)
    assert rows == [{"time": 5.0, "phase": "whole", "epoch": 2}]
    assert folder.read_metrics(offset) == ([], offset)


def test_events_carry_kind_message_and_values(folder: RunFolder) -> None:
    folder.append_event("lr_lowered", "LR lowered to 1e-4", lr=1e-4)
    (event,), _ = folder.read_events()
    assert (event["kind"], event["message"], event["lr"]) == ("lr_lowered", "LR lowered to 1e-4", 1e-4)
    assert event["time"] > 0


def test_requests_are_made_seen_and_cleared(folder: RunFolder) -> None:
    folder.request("finish")
    folder.request("save_now")
    assert folder.requested("finish")
    assert not folder.requested("stop")
    folder.clear_request("save_now")
    assert not folder.requested("save_now")
    folder.clear_requests()
    assert not folder.requested("finish")
    with pytest.raises(ValueError, match="no such request"):
        folder.request("../outcome.json")  # type: ignore[arg-type]


def test_archived_outcomes_are_numbered(folder: RunFolder) -> None:
    for reason in ("first", "second"):
        folder.write_outcome("stopped", reason)
        folder.archive_outcome()
    assert folder.read_outcome() is None
    folder.write_outcome("failed", "third", "Traceback ...", epoch=4)
    outcome = folder.read_outcome()
    assert outcome is not None
    assert (outcome["state"], outcome["traceback"], outcome["epoch"]) == ("failed", "Traceback ...", 4)
    kept = sorted(path.name for path in folder.path.glob("outcome.*"))
    assert kept == ["outcome.1.json", "outcome.2.json", "outcome.json"]


def test_second_lock_is_refused_at_once(folder: RunFolder) -> None:
    with folder.lock():
        with pytest.raises(filelock.Timeout), folder.lock():
            pass
        with folder.launch_lock():
            pass
    with folder.lock():
        pass


def test_runs_are_listed_newest_first(tmp_path: Path) -> None:
    for name in ("20250101-000000-b", "20250301-000000-a", "20250201-000000-c", "renamed by hand"):
        (tmp_path / name).mkdir()
        RunFolder(tmp_path / name).config_path.write_text("{}")
    (tmp_path / "20250401-000000-no-config").mkdir()
    (tmp_path / "a file").touch()
    names = [run.run_id for run in list_runs(tmp_path)]
    assert names == ["renamed by hand", "20250301-000000-a", "20250201-000000-c", "20250101-000000-b"]
    assert list_runs(tmp_path / "absent") == []


def test_a_folder_that_may_not_be_read_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, other = (create_run(tmp_path, {}, name) for name in ("mine", "other"))
    key = folder_module._creation_key

    def refuse(folder: RunFolder) -> tuple[str, int, str]:
        if folder == other:
            raise PermissionError(13, "Permission denied")
        return key(folder)

    monkeypatch.setattr(folder_module, "_creation_key", refuse)
    assert list_runs(tmp_path) == [mine]


def test_open_run_by_folder_or_last_checkpoint(folder: RunFolder, tmp_path: Path) -> None:
    last = folder.checkpoint_path("last")
    last.parent.mkdir()
    last.touch()
    folder.checkpoint_path("best").touch()
    assert open_run(folder.path) == folder
    assert open_run(str(last)) == folder
    for wrong in (tmp_path, tmp_path / "absent", folder.checkpoint_path("best"), folder.config_path):
        with pytest.raises(UserError) as caught:
            open_run(wrong)
        assert caught.value.field == "resume"


def test_evaluations_are_listed_newest_first_and_read_by_name(folder: RunFolder) -> None:
    assert folder.evaluations() == [] and folder.read_evaluation("demo-test") is None
    folder.evaluation_path("demo-test", "json").parent.mkdir()
    for age, name in enumerate(("demo-test", "v1.2-valid")):
        path = folder.evaluation_path(name, "json")
        path.write_text('{"number": ' + str(age) + "}")
        os.utime(path, ns=(0, 10 - age))
    folder.evaluation_path("demo-train", "log").write_text("one that has no record yet")
    assert folder.evaluations() == [("demo-test", 10), ("v1.2-valid", 9)]
    assert folder.read_evaluation("v1.2-valid") == {"number": 1}


def test_evaluation_name_is_a_valid_file_name() -> None:
    assert evaluation_name("isbi2015", "test1") == "isbi2015-test1"
    assert evaluation_name("../a b", "te/st") == "a-b-te-st"


def test_folder_with_hidden_config_is_not_a_run(folder: RunFolder) -> None:
    folder.hide_config()
    assert list_runs(folder.path.parent) == []
    with pytest.raises(UserError, match="not a run"):
        open_run(folder.path)
    folder.unhide_config()
    assert list_runs(folder.path.parent) == [folder] and folder.read_config() == {"model": "hrnet"}
