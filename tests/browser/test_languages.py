"""The page in Persian: chosen on the page, remembered, from right to left, and usable."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from backend.run.folder import list_runs

pytestmark = pytest.mark.browser


def direction(page: Page, selector: str) -> str:
    return str(page.locator(selector).first.evaluate("element => getComputedStyle(element).direction"))


def drawn_px(page: Page, selector: str, words: str) -> float:
    """How wide the words are as they are drawn."""
    script = """(element, words) => {
      const text = element.firstChild, range = document.createRange(), start = text.data.indexOf(words);
      range.setStart(text, start), range.setEnd(text, start + words.length);
      return range.getBoundingClientRect().width;
    }"""
    return float(page.locator(selector).evaluate(script, words))


def test_persian_is_chosen_on_the_page_remembered_and_left_again(dashboard, page: Page) -> None:
    html = page.locator("html")
    page.goto(dashboard.url)
    expect(html).to_have_attribute("dir", "ltr")
    expect(page.locator("#data-summary")).to_contain_text("3 landmarks")
    page.get_by_role("link", name="فارسی").click()

    # laid out and answered in Persian
    expect(html).to_have_attribute("dir", "rtl")
    expect(html).to_have_attribute("lang", "fa")
    expect(page.locator("#start")).to_have_text("شروع آموزش")
    expect(page.locator("#data-summary")).to_contain_text("لندمارک")
    expect(page.locator("#sample .js-plotly-plot")).to_be_visible()
    assert page.evaluate("document.fonts.ready.then(() => document.fonts.check('16px Vazirmatn', 'آ'))")
    assert direction(page, "#field-lr") == "rtl"
    for left_to_right in ("#field-lr input", "#command .cm-editor", "#sample .js-plotly-plot"):
        assert direction(page, left_to_right) == "ltr"
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")

    # a mistake is marked in Persian, with the backend's own words kept in their order
    page.locator("#field-image_height input").fill("250")
    page.locator("#field-image_height input").press("Tab")
    expect(page.locator("#field-image_height")).to_contain_text("پذیرفته نیست")
    expect(page.locator("#field-image_height")).to_contain_text("nearest that fit are 224 and 256")
    assert drawn_px(page, "#field-image_height .info-text", "height 250") > 50
    expect(page.locator("#start")).to_be_disabled()

    # remembered: by a reload, and at the dashboard's own address
    page.reload()
    expect(page.locator("#start")).to_have_text("شروع آموزش")
    page.goto(dashboard.url)
    expect(page.locator("#start")).to_have_text("شروع آموزش")
    assert page.url.endswith("/fa")

    page.get_by_role("link", name="English").click()
    expect(page.locator("#start")).to_have_text("Start training")
    page.goto(dashboard.url)
    expect(html).to_have_attribute("dir", "ltr")
    expect(page.locator("#start")).to_have_text("Start training")
    assert not list_runs(dashboard.runs_dir)
