"""The page in one language and width, and the rules that every such page must keep."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlparse

from playwright.sync_api import Browser, Page, expect

from tests.browser.axe import COLOR_RULES, EVERY_RULE, Found, GradioMakesIt, grave_violations
from ui.text.language import LANGUAGES, speaking
from ui.text.say import say

PATIENCE_MS = 180_000  # two cores that also train may be slow to answer; no test asserts a time
PHONE, DESK = 390, 1600


# every height of the window at which Start could be pressed
PLACES_OF_START = """
const places = new Set();
const look = () => {
  const start = document.querySelector("#start:not([disabled])");
  if (start?.offsetParent) places.add(Math.round(start.getBoundingClientRect().top));
  window.placesOfStart = [...places];
  requestAnimationFrame(look);
};
look();
"""


@dataclass(frozen=True)
class View:
    """An opened page and the language it is in."""

    page: Page
    language: str
    excepted: set[GradioMakesIt]  # what of Gradio's own has been met

    def say(self, key: str, **values: object) -> str:
        """What the page says by this name."""
        with speaking(self.language):
            return say(key, **values)

    def open_tab(self, name: str) -> None:
        tab = self.page.get_by_role("tab", name=self.say(f"tab_{name}"), exact=True)
        tab.click()
        expect(tab).to_have_attribute("aria-selected", "true")

    def must_be_sound(self) -> None:
        """Require that it fits its window and breaks no rule of axe's gravely, in light and in dark."""
        self.must_fit()
        for theme, rules in zip(themes(self.page), (EVERY_RULE, COLOR_RULES), strict=True):
            found = self._lasting_violations(rules)
            broken = [one for one in found if one.exception is None]
            assert not broken, f"in {theme}: {broken}"
            self.excepted.update(one.exception for one in found if one.exception is not None)

    def _lasting_violations(self, rules: Sequence[str]) -> list[Found]:
        """Return what stays broken: while axe looks, the page may be drawn again without an element."""
        for _ in range(4):
            found = grave_violations(self.page, rules)
            if all(one.exception for one in found):
                break
            self.page.wait_for_timeout(1000)
        return found

    def must_fit(self) -> None:
        """Nothing scrolls the page sideways."""
        too_wide = self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        assert too_wide <= 0, f"the page is {too_wide} px wider than its window"


def themes(page: Page) -> Iterator[str]:
    """The page in light, in dark, and light again afterwards, by the class that Gradio's own switch sets."""
    page.add_style_tag(content="* {transition: none !important}")  # colors are looked at, not their change
    darken = "is_dark => document.body.classList.toggle('dark', is_dark)"
    for theme in ("light", "dark"):
        page.evaluate(darken, theme == "dark")
        yield theme
    page.evaluate(darken, False)


@contextmanager
def opened_view(
    chromium: Browser, url: str, language: str, width: int, excepted: set[GradioMakesIt]
) -> Iterator[View]:
    """The dashboard at an address; fails where the page's console tells of an error."""
    with opened_page(chromium, width) as page:
        complaints: list[str] = []
        page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.add_init_script(PLACES_OF_START)
        page.goto(f"{url}/{LANGUAGES[language].path}?__theme=light")
        expect(page.locator("html")).to_have_attribute("lang", language)
        expect(page.locator("#data-summary strong")).to_have_count(2)  # the form is drawn
        expect(page.locator("#data-leaks")).not_to_be_empty()
        places = page.evaluate("window.placesOfStart")
        assert len(places) == 1, f"Start moved while the page filled, which loses a click: {places}"
        yield View(page, language, excepted)
        assert not complaints


@contextmanager
def opened_page(chromium: Browser, width: int) -> Iterator[Page]:
    """An empty page of a browser that remembers nothing; fails where it asked anything of another host."""
    context = chromium.new_context(
        viewport={"width": width, "height": 1000},
        accept_downloads=True,
        # not the machine's: numbers are typed and the language of a first visit is chosen by it
        locale="en-US",
    )
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    strangers: set[str] = set()

    def note(url: str) -> None:
        if urlparse(url).hostname not in (None, "127.0.0.1"):
            strangers.add(url)

    page.on("request", lambda request: note(request.url))
    yield page
    context.close()
    assert not strangers
