"""Runs in a real browser: queue, compare, note, duplicate, hand on, delete."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from backend.run.folder import RunFolder, list_runs
from backend.run.queue import read_queue
from backend.run.state import RunState, derive_state
from tests.browser.on_page import compare_runs, fill, open_run, open_tab
from tests.waiting import wait_for

pytestmark = pytest.mark.browser
REPOSITORY = Path(__file__).resolve().parents[2]


def is_reached(page: Page, folder: RunFolder, *states: RunState) -> None:
    wait_for(
        lambda: derive_state(folder) in states,
        lambda: f"{folder.run_id} is {derive_state(folder)}: {folder.read_log_tail()}",
        lambda: page.wait_for_timeout(200),
    )


def test_what_waits_starts_by_itself_and_can_be_put_in_order(dashboard, page: Page) -> None:
    page.goto(dashboard.url)
    expect(page.locator("#data-summary")).to_contain_text("3 landmarks")
    page.locator("#field-refine input").uncheck()
    fill(page, image_height=64, image_width=64, batch_size=4, epochs=400, lr=0.001)
    expect(page.locator("#command")).to_contain_text("--epochs 400")
    expect(page.locator("#command")).to_contain_text("--no-refine")
    page.locator("#start").click()
    expect(page.locator("#run-card .run-card")).to_have_attribute("data-state", "running")
    first = list_runs(dashboard.runs_dir)[0]

    # two more wait, each with its settings as they were when it was added
    open_tab(page, "Train")
    for number in (1, 2):
        fill(page, epochs=number)
        expect(page.locator("#command")).to_contain_text(f"--epochs {number}")
        page.locator("#queue").click()
        expect(page.get_by_text(f"waits in the queue at place {number}")).to_be_visible()
    one, two = read_queue(dashboard.runs_dir)
    open_tab(page, "Runs")
    expect(page.locator("#queue-panel")).to_contain_text("Queue (2)")
    expect(page.locator("#queue-note")).to_contain_text(first.run_id)
    page.locator("#queue-waiting").get_by_text(two).click()
    page.locator("#queue-up").click()
    expect(page.locator("#queue-waiting label").first).to_contain_text(two)
    assert read_queue(dashboard.runs_dir) == [two, one]

    # the dashboard is killed and starts again; with no browser open, one after the other is trained
    page.goto("about:blank")
    dashboard.kill()
    dashboard.start()
    assert read_queue(dashboard.runs_dir) == [two, one]
    first.request("stop")
    for run_id, epochs in ((two, 2), (one, 1)):
        folder = RunFolder(dashboard.runs_dir / run_id)
        is_reached(page, folder, RunState.COMPLETED)
        assert folder.read_metrics()[0][-1]["epoch"] == epochs
    assert derive_state(first) is RunState.STOPPED and read_queue(dashboard.runs_dir) == []


def test_compare_note_duplicate_hand_on_and_delete(dashboard, page: Page, tmp_path: Path) -> None:
    older, newer = dashboard.train("--lr", "0.001"), dashboard.train("--lr", "0.002")
    page.goto(dashboard.url)
    open_tab(page, "Runs")

    # curves, settings and errors of both
    compare_runs(page, older.run_id, newer.run_id)
    expect(page.locator("#compare-settings mark")).to_have_text("0.002")
    page.locator("#paired-evaluate").click()
    # two processes that load torch: slow beside other work
    expect(page.locator("#paired-result")).to_contain_text("95 % interval", timeout=300_000)
    expect(page.locator("#paired-result")).to_contain_text("chin")

    # tags are found
    open_run(page, newer.run_id)
    page.locator("#tags input, #tags textarea").fill("paper, twice as fast")
    page.locator("#save-notes").click()
    expect(page.locator("#runs-table")).to_contain_text("twice as fast")
    page.locator("#search-runs input, #search-runs textarea").fill("paper")
    expect(page.locator("#runs-table")).not_to_contain_text(older.run_id)
    page.locator("#search-runs input, #search-runs textarea").fill("")

    # one click packs and downloads
    with page.expect_download() as downloading:
        page.locator("#bundle").click()
    bundle = tmp_path / "bundle.zip"
    downloading.value.save_as(bundle)
    with zipfile.ZipFile(bundle) as archive:
        best = archive.read(f"{newer.run_id}/checkpoints/best.pt")
        assert best == newer.checkpoint_path("best").read_bytes()
        assert any(name.endswith(".html") for name in archive.namelist())  # the report of the evaluation

    # the form takes its settings
    page.locator("#duplicate").click()
    expect(page.locator("#field-lr input")).to_be_visible()
    expect(page.locator("#field-lr input")).to_have_value("0.002")
    expect(page.locator("#field-image_height input")).to_have_value("64")

    # deleted, after a question that says how much goes
    open_tab(page, "Runs")
    open_run(page, older.run_id)
    page.locator("#delete").click()
    expect(page.locator("#delete-words")).to_contain_text("MiB")
    page.locator("#delete-yes").click()
    expect(page.locator("#opened-run")).to_be_hidden()
    expect(page.locator("#runs-table")).not_to_contain_text(older.run_id)
    assert list_runs(dashboard.runs_dir) == [newer]
