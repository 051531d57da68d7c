"""Answers to other settings than those chosen are grayed until the server has answered again."""

from __future__ import annotations

import re
import shutil

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.axe import COLOR_RULES, grave_violations
from tests.browser.held import held_back
from tests.browser.on_page import compare_runs, fill, open_run, open_tab
from tests.browser.view import themes
from ui.text.language import speaking
from ui.text.say import say

pytestmark = pytest.mark.browser


SLOW_MS = 500_000  # a step is traced in a process that first loads torch, beside other work


def settled(page: Page, *names: str) -> None:
    """These parts of the page answer what is chosen."""
    for name in names:
        part = page.locator(f"#{name}")
        expect(part).not_to_have_attribute("data-stale", re.compile(""), timeout=SLOW_MS)


def is_updating(part: Locator, language: str = "en") -> None:
    with speaking(language):
        expect(part).to_have_attribute("data-stale", say("answer_updating"))
    expect(part).to_have_attribute("aria-busy", "true")


@pytest.fixture
def two_datasets(dashboard):
    """A second data set, of six images instead of twelve."""
    folder = dashboard.data_root / "few"
    shutil.copytree(dashboard.data_root / "blobs", folder)
    table = folder / "annotations.csv"
    lines = table.read_text(encoding="utf-8").splitlines()
    table.write_text("\n".join(lines[:7]) + "\n", encoding="utf-8")
    return dashboard


@pytest.mark.parametrize("language", ["en", "fa"])
def test_answers_for_another_data_set_are_marked_until_their_own_are_there(
    two_datasets, page: Page, language: str
) -> None:
    page.goto(two_datasets.url + ("" if language == "en" else "/fa"))
    expect(page.locator("#start")).to_be_enabled()
    page.locator("#field-refine input").uncheck()
    fill(page, image_height=64, image_width=64, batch_size=4)
    expect(page.locator("#data-summary")).to_contain_text("12")
    known = ("advice", "memory-chart", "data-summary", "sample", "command")
    settled(page, *known)

    with held_back(page):
        fill(page, dataset_path=two_datasets.data_root / "few")
        for name in (*known, "estimate"):
            is_updating(page.locator(f"#{name}"), language)
        # changed back: what is there answers just this
        fill(page, dataset_path=two_datasets.data_root / "blobs")
        settled(page, *known)
        fill(page, dataset_path=two_datasets.data_root / "few")
        for name in (*known, "estimate"):
            is_updating(page.locator(f"#{name}"), language)
        for theme in themes(page):  # faint, but not too faint to be read
            assert grave_violations(page, COLOR_RULES) == [], theme
    expect(page.locator("#data-summary")).to_contain_text("6")
    settled(page, *known, "estimate")
    expect(page.locator("#command")).to_contain_text("few")


def test_what_a_wrong_field_leaves_without_an_answer_is_not_called_updating(dashboard, page: Page) -> None:
    page.goto(dashboard.url)
    expect(page.locator("#start")).to_be_enabled()
    settled(page, "sample")
    fill(page, image_height=250)
    for name in ("sample", "memory-chart"):
        expect(page.locator(f"#{name}")).to_have_attribute("data-stale", say("answer_other"), timeout=SLOW_MS)
    expect(page.locator("#sample")).to_have_attribute("aria-busy", "false")
    fill(page, image_height=256)
    settled(page, "sample")


def choose(page: Page, name: str, text: str) -> None:
    page.locator(f"#{name} input").first.click()
    page.locator(f"#{name} [role=option]").get_by_text(text).first.click()


def test_no_tab_shows_the_answer_to_another_choice_as_current(
    shared_dashboard, evaluated_runs: tuple[str, str], page: Page
) -> None:
    older, newer = evaluated_runs
    page.goto(shared_dashboard.url)
    expect(page.locator("#start")).to_be_enabled()

    open_tab(page, "Data")
    expect(page.locator("#data-floor")).to_contain_text("perfect heatmaps", timeout=240_000)
    expect(page.locator("#data-body[data-stale], #data-body [data-stale]")).to_have_count(0)
    with held_back(page):
        page.locator("#data-next").click()
        for name in ("data-picture", "data-caption", "data-sigma"):
            is_updating(page.locator(f"#{name}"))
    expect(page.locator("#data-caption")).to_contain_text("01.png")
    expect(page.locator("#data-body [data-stale]")).to_have_count(0)

    open_tab(page, "Monitor")
    expect(page.locator("#acts-on")).to_contain_text(newer)
    with held_back(page):
        choose(page, "watched-run", older)
        for name in ("run-card", "landmarks", "curves"):
            is_updating(page.locator(f"#{name}"))
    expect(page.locator("#acts-on")).to_contain_text(older)
    settled(page, "run-card", "landmarks", "curves")
    with held_back(page):
        page.locator("#log-axis input").check()
        is_updating(page.locator("#curves"))
        page.locator("#log-axis input").uncheck()
        settled(page, "curves")

    open_tab(page, "Runs")
    with held_back(page):
        page.locator("#search-runs input, #search-runs textarea").fill(older)
        is_updating(page.locator("#runs-table"))
    expect(page.locator("#runs-table")).not_to_contain_text(newer)
    settled(page, "runs-table")
    open_run(page, older)
    results = page.locator("#evaluation-results")
    expect(results).to_be_visible()
    settled(page, "evaluation-results")
    choose(page, "evaluate-split", "valid")
    expect(results).to_have_attribute("data-stale", say("answer_other"))
    choose(page, "evaluate-split", "train")
    choose(page, "evaluate-split", "valid")
    expect(results).to_have_attribute("aria-busy", "false")

    compare_runs(page, older, newer)
    expect(page.locator("#paired-result")).to_contain_text("chin")
    expect(page.locator("#compare-panel [data-stale]")).to_have_count(0)
    with held_back(page):
        choose(page, "compare-metric", "training loss")
        is_updating(page.locator("#compare-plot"))
        is_updating(page.locator("#compare-values"))
    expect(page.locator("#compare-panel [data-stale]")).to_have_count(0)

    open_tab(page, "Predict")
    expect(page.locator("#predict-run-note")).to_contain_text("mm")
    with held_back(page):
        choose(page, "predict-run", older)
        is_updating(page.locator("#predict-run-note"))
    settled(page, "predict-run-note")
