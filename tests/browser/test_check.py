"""The foot of the page: the check of this computer, in each language, on a desk and on a phone."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.view import DESK, PHONE, opened_view
from tests.dashboard import Dashboard
from ui.text.language import LANGUAGES


@pytest.mark.browser
@pytest.mark.parametrize("width", [PHONE, DESK])
@pytest.mark.parametrize("language", LANGUAGES)
def test_this_computer_is_checked_when_it_is_asked_for(
    dashboard: Dashboard, chromium: Browser, language: str, width: int
) -> None:
    with opened_view(chromium, dashboard.url, language, width, set()) as view:
        view.open_tab("runs")
        found = view.page.locator("#check-found")
        expect(found.locator("dl")).to_have_count(0)
        view.page.get_by_role("button", name=view.say("check_title")).click()
        expect(found.locator("dl")).to_be_visible()
        expect(found).to_contain_text("torch")
        expect(found).to_contain_text("Chrome")
        view.must_be_sound()
