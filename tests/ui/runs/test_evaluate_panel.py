"""The panel over a run that was really trained, its evaluation in a process of its own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

import train
from backend.config import Choice
from backend.flags import run_command
from backend.overrides import read_run_config
from backend.run.folder import RunFolder
from tests.waiting import wait_for
from ui.child_process import Progress
from ui.datasets import splits_to_measure
from ui.runs import evaluate_panel, evaluation_process
from ui.runs.evaluate_panel import EvaluatePanel, default_split
from ui.runs.evaluation_process import Request, read_progress, start_evaluation
from ui.runs.evaluation_view import MAX_WORST, _leaked_text, progress_html
from ui.session import Session
from ui.text.language import speaking
from ui.text.say import say

pytestmark = pytest.mark.slow

SETTINGS = ["--image_size", "64", "64", "--epochs", "1", "--batch_size", "4", "--num_workers", "0"]
SETTINGS += ["--refine_epochs", "1", "--num_refiners", "1"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_dataset: Path) -> Path:
    runs_dir = tmp_path_factory.mktemp("runs")
    flags = ["--dataset_path", str(tiny_dataset), *SETTINGS, "--runs_dir", str(runs_dir)]
    assert run_command(train.main, flags) == 0
    return next(runs_dir.iterdir())


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> RunFolder:
    return RunFolder(Path(shutil.copytree(trained, tmp_path / "runs" / "trained")))


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    yield
    for started in evaluation_process._started.values():
        started.process.kill()
        started.process.wait()
    evaluation_process._started.clear()


@pytest.fixture
def panel(folder: RunFolder, tiny_dataset: Path, popups: list[str]) -> EvaluatePanel:
    # a component is only what an update is addressed to, so its name serves as well
    parts: dict[str, Any] = {field.name: field.name for field in fields(EvaluatePanel)}
    parts |= {"worst": tuple(f"worst-{number}" for number in range(MAX_WORST))}
    return EvaluatePanel(**{**parts, "runs_dir": folder.path.parent, "data_root": tiny_dataset.parent})


def end_of(folder: RunFolder) -> Progress | None:
    def has_ended() -> bool:
        progress = read_progress(folder)
        return progress is None or bool(progress.failure)

    wait_for(has_ended, lambda: read_progress(folder))
    return read_progress(folder)


def test_an_opened_run_offers_its_own_data_and_a_split(
    panel: EvaluatePanel, folder: RunFolder, tiny_dataset: Path
) -> None:
    updates = evaluate_panel.on_opened(panel, Session(), folder.run_id)
    assert updates[panel.dataset]["value"] == str(tiny_dataset)
    assert sorted(updates[panel.split]["choices"]) == ["train", "valid"]
    assert updates[panel.split]["value"] == "valid"
    assert updates[panel.truth]["value"] == "mean"
    assert updates[panel.results]["visible"] is False


def test_a_run_offers_the_split_that_chose_its_weights_whatever_its_table_says_today(
    folder: RunFolder, tiny_dataset: Path, tmp_path: Path
) -> None:
    """All rows are test rows by now; a run without a list goes by the table."""
    moved = tmp_path / "data"
    shutil.copytree(tiny_dataset, moved)
    table = moved / "annotations.csv"
    header, *lines = table.read_text(encoding="utf-8").splitlines()
    rows = [f"{header},split", *(f"{line},test" for line in lines)]
    table.write_text("\n".join(rows) + "\n", encoding="utf-8")
    config = read_run_config(folder)
    config = replace(config, chosen={**config.chosen, "dataset_path": Choice(str(moved), "moved")})
    assert splits_to_measure(folder, config, str(moved), "mean") == ["train", "valid", "test"]
    (folder.path / "data.json").unlink()
    assert splits_to_measure(folder, config, str(moved), "mean") == ["test"]


def test_an_evaluation_is_made_stored_and_shown_again(
    panel: EvaluatePanel, folder: RunFolder, tiny_dataset: Path
) -> None:
    session = Session()
    updates = evaluate_panel.on_evaluate(
        panel, session, folder.run_id, str(tiny_dataset), "train", "mean", " ", False
    )
    assert updates[panel.evaluate]["interactive"] is False and "<progress" in updates[panel.note]
    assert end_of(folder) is None
    name = f"{tiny_dataset.name}-train"
    assert [known for known, _ in folder.evaluations()] == [name]
    assert folder.evaluation_path(name, "html").stat().st_size > 1_000_000
    for later in (session, Session()):  # the page that waited, and one that is opened afterwards
        updates = evaluate_panel.on_tick(panel, later, folder.run_id)
        assert updates[panel.results]["visible"] is True
        assert "mm" in updates[panel.numbers] and f"{name}.html" in updates[panel.numbers]
        assert "11 images, 11 of them also in the training data" in updates[panel.numbers]
        assert updates[panel.worst[0]]["visible"] is True
        assert updates[panel.table].count("<tr>") == 4
        assert updates[panel.evaluate]["interactive"] is True
    assert evaluate_panel.on_tick(panel, session, folder.run_id) == {panel.session: session}, (
        "nothing is sent twice"
    )
    with speaking("fa"):
        updates = evaluate_panel.on_tick(panel, Session(), folder.run_id)
        assert say("mean_choice") in updates[panel.numbers]


def test_nothing_is_measured_where_all_of_it_was_trained_on_and_is_to_be_left_out(
    panel: EvaluatePanel, folder: RunFolder, tiny_dataset: Path
) -> None:
    evaluate_panel.on_evaluate(panel, Session(), folder.run_id, str(tiny_dataset), "train", "mean", "", True)
    failed = end_of(folder)
    assert failed is not None and "every image of this split is in the training data" in failed.failure


@pytest.mark.parametrize(
    ("leaked", "text"),
    [
        ({"image_ids": ["a", "b"], "left_out": False}, "⚠ 150 images, 2 of them also in"),
        ({"image_ids": ["a", "b"], "left_out": True}, "Of those left out, 2 are in the training data"),
        ({"image_ids": [], "left_out": True}, "None of these images"),
        (None, "is not known"),  # of an older record
    ],
)
def test_the_result_says_what_became_of_leaked_images(leaked: Any, text: str) -> None:
    record = {"num_images": 150, "about": {"leaked": leaked}}
    assert text in _leaked_text(record)


def test_a_mistake_comes_back_with_its_cure(
    panel: EvaluatePanel, folder: RunFolder, tiny_dataset: Path
) -> None:
    start_evaluation(folder, Request(str(tiny_dataset), "auto", "test9", "mean"))
    failed = end_of(folder)
    assert failed is not None and "no split 'test9'" in failed.failure and "; choose " in failed.failure
    updates = evaluate_panel.on_tick(panel, Session(), folder.run_id)
    assert "test9" in updates[panel.note] and updates[panel.evaluate]["interactive"] is True


def test_what_cannot_be_started_says_why(panel: EvaluatePanel, folder: RunFolder, tiny_dataset: Path) -> None:
    def ask(split: str | None) -> Any:
        return evaluate_panel.on_evaluate(
            panel, Session(), folder.run_id, str(tiny_dataset), split, "mean", "", False
        )[panel.note]

    assert "choose a data set and a split" in ask(None)
    start_evaluation(folder, Request(str(tiny_dataset), "auto", "valid", "mean"))
    assert "already" in ask("train")
    evaluation_process._started[folder.path].process.kill()
    evaluation_process._started[folder.path].process.wait()
    folder.checkpoint_path("best").unlink()
    assert "no checkpoint yet" in ask("train")


def test_a_killed_process_is_told_with_the_place_of_its_log(folder: RunFolder, tiny_dataset: Path) -> None:
    start_evaluation(folder, Request(str(tiny_dataset), "auto", "valid", "mean"))
    evaluation_process._started[folder.path].process.kill()
    failed = end_of(folder)
    assert failed is not None and f"evaluations/{tiny_dataset.name}-valid.log" in failed.failure


def test_a_data_set_that_cannot_be_read_is_told(
    panel: EvaluatePanel, folder: RunFolder, tmp_path: Path
) -> None:
    updates = evaluate_panel.on_dataset(panel, folder.run_id, str(tmp_path / "no<script>where"), "mean")
    assert "does not exist" in updates[panel.note] and "no&lt;script&gt;where" in updates[panel.note]
    assert updates[panel.split]["value"] is None


def test_a_run_whose_data_is_gone_says_so_when_it_is_opened(panel: EvaluatePanel, folder: RunFolder) -> None:
    config = folder.config_path.read_text(encoding="utf-8")
    folder.config_path.write_text(config.replace("tiny_dataset", "gone"), encoding="utf-8")
    assert "does not exist" in evaluate_panel.on_opened(panel, Session(), folder.run_id)[panel.note]


def test_a_name_from_the_browser_reads_no_other_file(panel: EvaluatePanel, folder: RunFolder) -> None:
    (folder.path / "evaluations").mkdir()
    updates = evaluate_panel.on_show(panel, Session(), folder.run_id, "../config")
    assert updates[panel.results]["visible"] is False and panel.numbers not in updates


def test_a_record_of_another_version_is_not_guessed_at(panel: EvaluatePanel, folder: RunFolder) -> None:
    path = folder.evaluation_path("x-test", "json")
    path.parent.mkdir()
    path.write_text('{"format_version": 99}')
    updates = evaluate_panel.on_tick(panel, Session(), folder.run_id)
    assert "another version" in updates[panel.note] and updates[panel.results]["visible"] is False


def test_a_test_split_comes_first_then_the_validation_images() -> None:
    assert default_split(["train", "valid", "test1", "test2"]) == "test1"
    assert default_split(["train", "valid"]) == "valid"
    assert default_split(["train"]) == "train"


def test_progress_is_told_in_words_and_beside_a_training_as_slower() -> None:
    assert progress_html(None, is_training=False) == ""
    assert "reading" in progress_html(Progress(), is_training=False)
    html = progress_html(Progress(3, 10), is_training=True)
    assert "predicting images: 3 of 10" in html and 'value="3"' in html and "slower" in html
    assert "computing the errors" in progress_html(Progress(10, 10), is_training=False)
    assert "&lt;b&gt;" in progress_html(Progress(failure="<b>"), is_training=False)
