from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from backend import leaks
from backend.flags import run_command


@pytest.fixture
def doubled(tiny_dataset: Path, tmp_path: Path) -> Path:
    """The tiny data set with a test split, whose one image is image 03.png."""
    folder = tmp_path / "doubled"
    shutil.copytree(tiny_dataset, folder)
    shutil.copyfile(folder / "03.png", folder / "copy.png")
    header, *lines = (folder / "annotations.csv").read_text(encoding="utf-8").splitlines()
    copy = lines[3].replace("03.png", "copy.png")
    rows = [f"{header},split", *(f"{line},train" for line in lines), f"{copy},test"]
    (folder / "annotations.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


def test_pairs_are_printed_and_the_ids_written_for_evaluate(
    doubled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "leaked.txt"
    arguments = ["--dataset_path", str(doubled), "--write", str(target)]
    assert run_command(leaks.main, arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "03.png (train) = copy.png (test): same bytes"
    assert lines[1] == "pairs: 1, across splits: 1, test images to leave out of an evaluation: 1"
    assert target.read_text(encoding="utf-8") == "copy.png\n"


def test_a_file_that_cannot_be_written_is_a_users_mistake(
    doubled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--dataset_path", str(doubled), "--write", str(tmp_path / "no" / "folder.txt")]
    assert run_command(leaks.main, arguments) == 2
    assert "cannot be written" in capsys.readouterr().err
