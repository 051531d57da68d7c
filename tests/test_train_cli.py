from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import train
from backend.config import RunConfig
from backend.data.dataset import Batch
from backend.files import Row
from backend.flags import run_command
from backend.run.folder import RunFolder, list_runs
from backend.run.process import ProcessIdentity
from backend.run.rows import merge_metrics
from backend.training.task import LandmarkTask

pytestmark = pytest.mark.slow

REPOSITORY = Path(train.__file__).parent
SMALL = (
    "--model hrnet --image_size 32 32 --batch_size 5 --val_fraction 0.25 --device cpu --warmup_epochs 1 "
    "--no-refine"
)


@pytest.fixture
def runs_dir(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def in_process(*arguments: str) -> int:
    return run_command(train.main, arguments)


def arguments_for(dataset: Path, runs_dir: Path, *more: str) -> list[str]:
    return [*SMALL.split(), "--dataset_path", str(dataset), "--runs_dir", str(runs_dir), *more]


def as_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "train.py", *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=240,
        check=False,
    )


def the_run(runs_dir: Path) -> RunFolder:
    (folder,) = list_runs(runs_dir)
    return folder


def losses(folder: RunFolder) -> list[tuple[Any, ...]]:
    names = ("epoch", "global_step", "lr", "train/loss", "val/loss", "val/mre_px")
    return [tuple(row[name] for name in names) for row in merge_metrics(folder.read_metrics()[0])]


def error_line(captured: str) -> str:
    (line,) = captured.splitlines()
    assert line.startswith("error: ")
    return line


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, tiny_dataset: Path) -> tuple[RunFolder, str]:
    """A run of four epochs, and what it printed."""
    import contextlib
    import io

    runs_dir = tmp_path_factory.mktemp("undisturbed")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert in_process(*arguments_for(tiny_dataset, runs_dir, "--epochs", "4")) == 0
    return the_run(runs_dir), printed.getvalue()


def test_first_line_is_the_run_and_the_decisions_follow(undisturbed: tuple[RunFolder, str]) -> None:
    folder, printed = undisturbed
    lines = printed.splitlines()
    assert lines[0] == f"run: {folder.path.absolute()}"
    assert any(line.startswith("device: cpu (") for line in lines)
    assert any(
        line.startswith("sigma: 0.75 px of the input, 0.75 heatmap cells at output stride 1")
        for line in lines
    )
    assert any("wide_csv" in line for line in lines)
    assert lines[-1].startswith("completed: 4 of 4 epochs")


def test_what_is_printed_stands_in_the_log_too(undisturbed: tuple[RunFolder, str]) -> None:
    folder, printed = undisturbed
    log = folder.log_path.read_text(encoding="utf-8")
    assert all(line in log for line in printed.splitlines())


def test_every_message_has_its_time_in_the_log(undisturbed: tuple[RunFolder, str]) -> None:
    folder, printed = undisturbed
    log = folder.log_path.read_text(encoding="utf-8")
    for line in printed.splitlines():
        assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d " + re.escape(line), log), line


def test_run_records_its_process_its_settings_and_its_end(undisturbed: tuple[RunFolder, str]) -> None:
    folder, _ = undisturbed
    launched, outcome = folder.read_launched(), folder.read_outcome()
    assert launched is not None and launched["pid"] == os.getpid()
    assert outcome is not None and outcome["state"] == "completed"
    config = RunConfig.from_dict(folder.read_config())
    assert (config.settings.model, config.settings.epochs, config.value("device")) == ("hrnet", 4, "cpu")
    assert [row[0] for row in losses(folder)] == [1, 2, 3, 4]


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot send itself a Ctrl-C")
def test_run_interrupted_by_ctrl_c_and_resumed_has_exactly_the_losses_of_an_undisturbed_one(
    undisturbed: tuple[RunFolder, str], tiny_dataset: Path, runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = RunFolder.append_metrics

    def append_and_interrupt(folder: RunFolder, row: Row) -> None:
        append(folder, row)
        if row["epoch"] == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "append_metrics", append_and_interrupt)
        assert in_process(*arguments_for(tiny_dataset, runs_dir, "--epochs", "4")) == 130
    folder = the_run(runs_dir)
    outcome = folder.read_outcome()
    assert outcome is not None and outcome["state"] == "stopped"
    assert len(losses(folder)) == 2

    # a process that lives still is refused; this one is done with the run
    folder.write_launched(ProcessIdentity(2**22 + 1, 0.0), [])
    resumed = as_command("--resume", str(folder.path))
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.splitlines()[0] == f"run: {folder.path.absolute()}"
    assert "resumed after epoch 2 of phase train, step 4" in resumed.stdout
    assert losses(folder) == losses(undisturbed[0])
    assert (folder.path / "outcome.1.json").is_file()
    outcome = folder.read_outcome()
    assert outcome is not None and outcome["state"] == "completed"


def cramp(patch: pytest.MonkeyPatch, room: int) -> None:
    """Let only so many images fit into memory from the second epoch on; an epoch has two steps."""
    compute_loss = LandmarkTask.compute_loss
    steps: list[int] = []

    def within_room(task: LandmarkTask, outputs: Any, batch: Batch) -> Tensor:
        steps.extend([len(batch.rows)] if torch.is_grad_enabled() else [])
        if torch.is_grad_enabled() and len(steps) > 2 and len(batch.rows) > room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return compute_loss(task, outputs, batch)

    patch.setattr(LandmarkTask, "compute_loss", within_room)


def test_run_out_of_memory_goes_on_in_smaller_parts(
    tiny_dataset: Path, runs_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cramp(monkeypatch, room=3)
    assert in_process(*arguments_for(tiny_dataset, runs_dir, "--epochs", "3")) == 0
    folder = the_run(runs_dir)
    (event,) = [event for event in folder.read_events()[0] if event["kind"] == "oom_retry"]
    assert event["message"] == (
        "out of memory in epoch 2, step 3: back to the state after epoch 1, "
        "a step now takes 2 parts of at most 3 images; the effective batch stays 5 (retry 1 of 3)"
    )
    assert event["effective_batch"] == 5 and event["why"].startswith("OutOfMemory")
    assert event["message"] in capsys.readouterr().out
    rows = merge_metrics(folder.read_metrics()[0])
    assert [(row["epoch"], row["global_step"], row["micro_batch"]) for row in rows] == [
        (1, 2, None),
        (2, 4, 3),
        (3, 6, 3),
    ]
    assert RunConfig.from_dict(folder.read_config()).value("batch_size") == 5
    outcome = folder.read_outcome()
    assert outcome is not None and outcome["state"] == "completed"


@pytest.mark.parametrize(("on_oom", "num_images", "num_events"), [("retry", 3, 1), ("stop", 5, 0)])
def test_run_that_no_part_of_fits_ends_with_code_3_and_says_what_to_change(
    tiny_dataset: Path, runs_dir: Path, on_oom: str, num_images: int, num_events: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        cramp(patch, room=1)
        flags = ["--epochs", "3", "--on_oom", on_oom]
        assert in_process(*arguments_for(tiny_dataset, runs_dir, *flags)) == 3
    folder = the_run(runs_dir)
    outcome = folder.read_outcome()
    assert outcome is not None and outcome["state"] == "out_of_memory"
    assert f"out of memory in epoch 2, step 3, with {num_images} images at once" in outcome["reason"]
    assert "--batch_size 2 --gradient_accumulation_steps 3" in outcome["reason"]
    assert ("--on_oom retry" in outcome["reason"]) is (on_oom == "stop") and "\n" not in outcome["reason"]
    assert "Tried to allocate 2 GiB" in outcome["traceback"]
    assert [event["kind"] for event in folder.read_events()[0]] == ["oom_retry"] * num_events
    # the last good state is there to go on from once memory is free
    assert in_process("--resume", str(folder.path)) == 0
    assert [row[:2] for row in losses(folder)] == [(1, 2), (2, 4), (3, 6)]


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--lr", "quick"], "lr: "),
        (["--image_size", "250", "256"], "224"),
        (["--model", "vgg"], "--model"),
        (["--dataset_path", "no/such/folder"], "dataset_path: "),
        (["--device", "cuda:77"], "device: "),
        (["--annotation_type", "Nobody"], "annotation_type: "),
        (["--pretrained", "w.pth"], "pretrained: "),
        (["--model", "resnet", "--pretrained", __file__], "pretrained: "),
        (["--refine", "--first_network", __file__], "first_network: "),
        (["--flip_pairs", "nose=tail"], "flip_pairs: "),
        (["--flip_pairs", "nose=chin, chin=ear"], "flip_pairs: "),
        (["--clip_norm", "inf"], "clip_norm: "),
        (["--preset", "quickest"], "--preset"),
    ],
)
def test_a_users_mistake_is_one_line_and_code_2_and_leaves_no_run(
    tiny_dataset: Path, runs_dir: Path, capsys: pytest.CaptureFixture[str], flags: list[str], word: str
) -> None:
    assert in_process(*arguments_for(tiny_dataset, runs_dir), *flags) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and word in error_line(captured.err)
    assert not runs_dir.exists()


def test_folder_that_is_no_data_set_leaves_no_run(
    tmp_path: Path, runs_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert in_process(*arguments_for(tmp_path / "empty", runs_dir)) == 2
    assert "not a data set" in error_line(capsys.readouterr().err)
    assert not runs_dir.exists()


def test_coordinates_that_cannot_be_meant_are_one_line_with_the_cure_unless_they_are_accepted(
    dataset_in_shares: Path, runs_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = arguments_for(dataset_in_shares, runs_dir, "--epochs", "1")
    assert in_process(*arguments) == 2
    line = error_line(capsys.readouterr().err)
    assert "shares of the image" in line and "multiply x by the width" in line
    assert "--accept_implausible" in line and not runs_dir.exists()
    assert in_process(*arguments, "--accept_implausible") == 0
    assert "problem: in shares: all coordinates lie within 0 to 1" in capsys.readouterr().out
    assert in_process("--resume", str(the_run(runs_dir).path)) == 0


def test_real_command_ends_with_code_2_and_no_traceback(runs_dir: Path) -> None:
    ended = as_command("--dataset_path", "no/such/folder", "--runs_dir", str(runs_dir))
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "does not exist" in error_line(ended.stderr)
    assert not runs_dir.exists()


def test_resume_takes_no_other_settings(
    undisturbed: tuple[RunFolder, str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = undisturbed
    before = folder.read_outcome()
    assert in_process("--resume", str(folder.path), "--lr", "1e-4", "--epochs", "9") == 2
    line = error_line(capsys.readouterr().err)
    assert "--lr" in line and "--epochs" in line
    assert folder.read_outcome() == before


def test_resume_takes_no_preset(
    undisturbed: tuple[RunFolder, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert in_process("--resume", str(undisturbed[0].path), "--preset", "fast") == 2
    assert "--preset" in error_line(capsys.readouterr().err)


def test_preset_is_told_first_with_what_was_given_instead_of_its_values(
    tiny_dataset: Path, runs_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = arguments_for(tiny_dataset, runs_dir, "--epochs", "1", "--no-refine")
    assert in_process("--preset", "fast", *small) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("run: ") and lines[1].startswith("preset: fast (as asked, but ")
    for words in ("image_size 32 32", "batch_size 5", "warmup_epochs 1.0", "epochs 1"):
        assert words in lines[1]
    settings = RunConfig.from_dict(the_run(runs_dir).read_config()).settings
    assert (settings.epochs, settings.lr, settings.resize) == (1, 1.5e-3, "stretch")


def test_resume_needs_a_run_with_a_checkpoint(
    undisturbed: tuple[RunFolder, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert in_process("--resume", str(tmp_path)) == 2
    assert "not a run" in error_line(capsys.readouterr().err)
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_bytes(undisturbed[0].config_path.read_bytes())
    assert in_process("--resume", str(bare)) == 2
    assert "last.pt" in error_line(capsys.readouterr().err)


def test_resuming_a_completed_run_by_its_checkpoint_trains_no_more(
    undisturbed: tuple[RunFolder, str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = undisturbed
    before = losses(folder)
    assert in_process("--resume", str(folder.checkpoint_path("last"))) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"run: {folder.path.absolute()}"
    assert losses(folder) == before


class Closed(io.StringIO):
    """A terminal that is gone."""

    def write(self, text: str) -> int:
        raise OSError(5, "Input/output error")

    def flush(self) -> None:
        raise OSError(5, "Input/output error")


def test_training_goes_on_without_its_terminal_and_logs_any_file_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", Closed())
    with train._copy_output(tmp_path / "log.txt"):
        print("problem: film\udce9.png", flush=True)
    assert (tmp_path / "log.txt").read_text(encoding="utf-8") == "problem: film\\udce9.png\n"
