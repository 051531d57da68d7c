"""`python -m backend.check`: what it gathers, prints and returns."""

from __future__ import annotations

import builtins
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from backend import check
from backend.device.diagnosis import NAMES, Check
from backend.flags import EXIT_COMPLETED, EXIT_FAILED
from backend.json_command import run_json_command
from ui.text.language_choice import PERSIAN_FILES


def test_without_a_fault_it_returns_0_and_with_one_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [Check("version", "0.2.0"), Check("card", "")]
    monkeypatch.setattr(check, "gather", lambda folders, user_agent: None)
    monkeypatch.setattr(check, "diagnose", lambda facts: found)
    assert check.main([]) == EXIT_COMPLETED
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["ok", "Fiducial", "0.2.0"] and lines[1].endswith(" none")
    assert lines[-1] == "no fault found"

    found.append(Check("memory", "0.1 / 4.0 GiB", "little_memory", "close_programs", {"least": "1"}))
    assert check.main([]) == EXIT_FAILED
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3].startswith("FAULT  Memory")
    assert (
        lines[-2].strip()
        == "less than 1 GiB is free; close other programs, or choose a smaller batch and image"
    )
    assert lines[-1] == "faults: 1"

    assert check.main(["--json", "-"]) == EXIT_FAILED
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == ["version", "card", "memory"]
    assert set(rows[0]) == {"name", "value", "fault", "cure", "values", "message"}
    assert rows[2]["message"].startswith("less than 1 GiB") and rows[0]["message"] == ""


@pytest.mark.slow
def test_it_looks_at_this_computer(tmp_path: Path) -> None:
    """The answer comes with an exit code that says whether there are faults; a mistake has no answer."""
    arguments = ["--runs_dir", str(tmp_path / "new"), "--data_root", str(tmp_path), "--json", "-"]
    rows: list[dict[str, Any]] = run_json_command("backend.check", *arguments)
    by_name = {row["name"]: row for row in rows}
    assert set(NAMES) - {"kernels", "gpu_memory", "shared_memory"} <= set(by_name)
    assert by_name["torch"]["value"].startswith("2.")
    assert str(tmp_path / "new") in by_name["runs"]["value"] and not (tmp_path / "new").exists()
    assert not by_name["packages"]["fault"] and not by_name["fonts"]["fault"]
    old = "--user_agent=Gecko/20100101 Firefox/100.0"
    assert [row["fault"] for row in run_json_command("backend.check", *arguments, old)][-2] == "old_browser"
    with pytest.raises(subprocess.CalledProcessError):
        run_json_command("backend.check", "--no_such_flag")


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (ModuleNotFoundError("No module named 'torch'", name="torch"), ""),
        (ModuleNotFoundError("No module named 'sympy'", name="sympy"), "No module named 'sympy'"),
        (ImportError("libcudart.so.13:\n cannot open"), "libcudart.so.13: cannot open"),
        (OSError(126, "c10.dll"), "[Errno 126] c10.dll"),
    ],
)
def test_a_torch_that_cannot_be_loaded_is_told(
    error: Exception, failure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = builtins.__import__

    def refuse(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "torch":
            raise error
        return load(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    assert check._load_torch() == (None, failure)


def test_packages_are_compared_without_what_a_build_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned = dict(check._pinned_packages())
    assert {"torch", "gradio", "opencv-python-headless"} <= set(pinned)
    monkeypatch.setattr(check.metadata, "version", lambda name: "2.13.0+cu130")
    assert check._installed_version("torch") == "2.13.0"

    def absent(name: str) -> str:
        raise check.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(check.metadata, "version", absent)
    assert check._installed_version("torch") == ""


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root, and Windows, may write anywhere")
def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert check._look_at(tmp_path / "runs").failure == "Permission denied"


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert check._look_at(tmp_path / "file" / "runs").failure
    assert check._look_at(tmp_path / "new" / "runs").failure == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_a_damaged_typeface_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check.FONTS == PERSIAN_FILES and not list(check._missing_fonts())
    shutil.copytree(check.FONTS, tmp_path / "fonts")
    monkeypatch.setattr(check, "FONTS", tmp_path / "fonts")
    (tmp_path / "fonts" / "vazirmatn-latin.woff2").unlink()
    (tmp_path / "fonts" / "vazirmatn-arabic.woff2").write_text("<html>")
    assert set(check._missing_fonts()) == {"vazirmatn-arabic.woff2", "vazirmatn-latin.woff2"}


def test_a_computer_without_a_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise check.webbrowser.Error("could not locate runnable browser")

    monkeypatch.setattr(check.webbrowser, "get", fail)
    assert check._system_browser() == ""
    monkeypatch.setattr(check.webbrowser, "get", lambda: check.webbrowser.GenericBrowser("firefox"))
    assert check._system_browser() == "firefox"
    assert sys.executable in check.gather({}, "").python
