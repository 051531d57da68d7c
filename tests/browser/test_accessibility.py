"""Every tab before axe-core: in both languages, on a phone and on a desk, in light and in dark."""

from __future__ import annotations

from itertools import product

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.axe import EXCEPTIONS, Found, grave_violations
from tests.browser.on_page import compare_runs, open_run
from tests.browser.view import DESK, PHONE, View, opened_view
from ui.language import LANGUAGES

pytestmark = pytest.mark.browser
TABS = ("data", "train", "monitor", "runs", "predict")


@pytest.fixture(scope="module")
def found(chromium: Browser, shared_dashboard, evaluated_runs: tuple[str, str]) -> dict[str, list[Found]]:
    """What is found on each tab of each view; each also fits its window and complains of nothing."""
    found = {}
    for language, width in product(LANGUAGES, (PHONE, DESK)):
        with opened_view(chromium, shared_dashboard.url, language, width) as view:
            for tab in TABS:
                view.open_tab(tab)
                fill_tab(view, tab, *evaluated_runs)
                view.must_fit()
                for theme in view.themes():
                    found[f"{tab} {language} {width} {theme}"] = grave_violations(view.page)
    return found


def fill_tab(view: View, tab: str, older: str, newer: str) -> None:
    """Bring a tab to where it shows what it can."""
    page = view.page
    if tab == "data":
        expect(page.locator("#data-counts table")).not_to_have_count(0)
        expect(page.locator("#data-picture .js-plotly-plot")).to_be_visible()
    if tab == "train":
        expect(page.locator("#sample .js-plotly-plot")).to_be_visible()
        expect(page.locator("#memory-chart .js-plotly-plot")).to_be_visible()
    if tab == "monitor":
        expect(page.locator("#curves .js-plotly-plot")).to_be_visible()
        expect(page.locator("#landmarks")).to_contain_text("chin")
    if tab == "runs":
        open_run(page, newer)
        expect(page.locator("#evaluation-table")).to_contain_text("chin")
        compare_runs(page, older, newer)
        expect(page.locator("#paired-result")).to_contain_text("chin")
    if tab == "predict":
        expect(page.locator("#predict-empty")).to_be_visible()


def test_what_breaks_a_rule_gravely_is_gradios_own(found: dict[str, list[Found]]) -> None:
    ours = {where: [one for one in here if one.exception is None] for where, here in found.items()}
    assert {where: here for where, here in ours.items() if here} == {}


def test_every_exception_still_occurs(found: dict[str, list[Found]]) -> None:
    used = {one.exception for here in found.values() for one in here}
    assert [one for one in EXCEPTIONS if one not in used] == []
