from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from backend import evaluate, predict
from backend.run.bundle import write_bundle
from backend.run.folder import RunFolder, create_run


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    run = create_run(tmp_path / "runs", {"seed": 3}, "run")
    for kind in ("best", "last"):
        run.checkpoint_path(kind).parent.mkdir(exist_ok=True)
        run.checkpoint_path(kind).write_bytes(kind.encode() * 1_000_000)
    run.append_metrics({"epoch": 1})
    run.append_event("resumed", "it goes on")
    run.write_outcome("completed", "all epochs")
    run.write_notes({"tags": ["a"], "text": ""})
    run.previews.write("train", 1, {"points": [1.0]})
    for kind in ("json", "html", "log"):
        path = run.evaluation_path("blobs-test", kind)
        path.parent.mkdir(exist_ok=True)
        path.write_text(kind)
    return run


def names_in(target: Path, folder: RunFolder) -> set[str]:
    with zipfile.ZipFile(target) as archive:
        assert archive.testzip() is None
        return {name.removeprefix(f"{folder.run_id}/") for name in archive.namelist()}


def test_bundle_holds_checkpoint_and_records(folder: RunFolder, tmp_path: Path) -> None:
    target = tmp_path / "bundle.zip"
    shares = list(write_bundle(folder, target, {"metrics.csv": b"epoch\n1\n"}))
    assert shares == sorted(shares) and shares[-1] == 1 and len(shares) > 8
    assert names_in(target, folder) == {
        "README.txt", "metrics.csv", "config.json", "notes.json",
        "metrics.jsonl", "events.jsonl", "outcome.json",
        "checkpoints/best.pt", "evaluations/blobs-test.json", "evaluations/blobs-test.html",
    }  # fmt: skip
    with zipfile.ZipFile(target) as archive:
        best = archive.getinfo(f"{folder.run_id}/checkpoints/best.pt")
        assert archive.read(best) == folder.checkpoint_path("best").read_bytes()
        assert best.compress_type == zipfile.ZIP_STORED


def test_readme_lists_files_and_valid_commands(folder: RunFolder, tmp_path: Path) -> None:
    target = tmp_path / "bundle.zip"
    list(write_bundle(folder, target, {"metrics.csv": b""}))
    with zipfile.ZipFile(target) as archive:
        readme = archive.read(f"{folder.run_id}/README.txt").decode()
    assert folder.run_id in readme.splitlines()[0]
    told = dict(
        line.split(maxsplit=1) for line in readme.splitlines() if line.startswith("  ") and "." in line
    )
    for name in names_in(target, folder) - {"README.txt"}:
        assert told[name], name
    commands = [line.split()[2:] for line in readme.splitlines() if line.startswith("  python -m ")]
    parsers = {"backend.predict": predict._parser(), "backend.evaluate": evaluate._parser()}
    assert [module for module, *_ in commands] == list(parsers)
    for module, *flags in commands:
        options = parsers[module].parse_args(flags)
        assert options.checkpoint == Path(folder.run_id, "checkpoints", "best.pt")


def test_without_a_best_checkpoint_the_last_one_is_in_it(folder: RunFolder, tmp_path: Path) -> None:
    folder.checkpoint_path("best").unlink()
    target = tmp_path / "bundle.zip"
    list(write_bundle(folder, target))
    assert "checkpoints/last.pt" in names_in(target, folder)


def test_abandoned_bundle_leaves_no_file(folder: RunFolder, tmp_path: Path) -> None:
    target = tmp_path / "bundle.zip"
    packing = write_bundle(folder, target)
    assert 0 < next(packing) < 1
    assert not target.exists()
    packing.close()
    assert not list(tmp_path.glob("bundle*"))


def test_a_new_bundle_takes_the_place_of_the_old(folder: RunFolder, tmp_path: Path) -> None:
    target = tmp_path / "bundle.zip"
    target.write_bytes(b"old")
    list(write_bundle(folder, target))
    assert zipfile.is_zipfile(target)
