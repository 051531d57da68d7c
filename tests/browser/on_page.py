"""What a user does on the page, over and over."""

from __future__ import annotations

from playwright.sync_api import Page


def fill(page: Page, **values: object) -> None:
    """Type values into fields of the form, by key."""
    for key, value in values.items():
        field = page.locator(f"#field-{key} input")
        field.fill(str(value))
        field.press("Tab")


def open_tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()
