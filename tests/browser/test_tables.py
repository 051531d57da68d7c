"""A click on a head sorts a table by its numbers, whatever their units; what is missing comes last."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from backend.config import Choice, RunConfig, Settings
from backend.run.folder import create_run
from tests.browser.on_page import open_run, open_tab
from ui.bindings import script
from ui.figures.table import cell_html, table_html
from ui.monitor.landmarks import landmark_table

pytestmark = pytest.mark.browser
Cells = list[tuple[str, float | None]]


def show(page: Page, html: str) -> None:
    page.set_content(f'<div id="here">{html}</div>')
    page.evaluate(script("sort_tables.js"))


def column(page: Page, number: int = 0) -> list[str]:
    return [row.locator("td").nth(number).inner_text() for row in page.locator("tbody tr").all()]


def table(cells: Cells) -> str:
    return table_html("errors", ["error"], [f"<tr>{cell_html(*cell)}</tr>" for cell in cells])


FEW: Cells = [("10.2 mm", 10.2), ("-", None), ("9.10 mm", 9.1), ("9.9 mm", 9.9), ("-0.5 mm", -0.5)]
MANY: Cells = [(f"{value / 10:.1f} mm", value / 10) for value in range(120, 60, -3)]


@pytest.mark.parametrize("cells", [FEW, MANY], ids=["few rows", "many rows"])
def test_numbers_sort_as_numbers_and_what_is_missing_comes_last(page: Page, cells: Cells) -> None:
    show(page, table(cells))
    known = [cell for cell in cells if cell[1] is not None]
    rising = [words for words, _ in sorted(known, key=lambda cell: cell[1] or 0)]
    missing = [words for words, value in cells if value is None]
    head = page.get_by_role("button", name="error")
    head.click()
    assert column(page) == [*rising, *missing]
    expect(page.locator("th")).to_have_attribute("aria-sort", "ascending")
    head.press("Enter")  # by keyboard
    assert column(page) == [*rising[::-1], *missing]
    expect(page.locator("th")).to_have_attribute("aria-sort", "descending")
    head.click()
    assert column(page) == [words for words, _ in cells]
    expect(page.locator("th[aria-sort]")).to_have_count(0)


def test_a_table_that_is_drawn_anew_stays_sorted(page: Page) -> None:
    show(page, table(FEW))
    page.get_by_role("button", name="error").click()
    page.evaluate(
        "html => { document.getElementById('here').innerHTML = html; }", table([*FEW, ("9.5 mm", 9.5)])
    )
    expect(page.locator("tbody tr").nth(2)).to_have_text("9.5 mm")
    assert column(page)[-1] == "-"


def test_a_change_of_the_better_sorts_below_one_for_the_worse(page: Page) -> None:
    rows = [
        {
            "epoch": epoch,
            "phase": "train",
            "val/mre_px": 1.0,
            **{f"val/mre_px/{name}": value for name, value in by.items()},
        }
        for epoch, by in ((1, {"a": 5.0, "b": 1.0, "c": 12.0}), (2, {"a": 3.0, "b": 2.0, "c": 1.0}))
    ]
    show(page, landmark_table(rows))
    page.locator("th button").nth(2).click()
    assert column(page) == ["c", "a", "b"]


def test_the_runs_sort_by_their_errors_and_open_sorted_as_before(dashboard, page: Page) -> None:
    errors = {"a": 9.1, "b": 10.2, "c": None, "d": 9.85}
    for name, error in errors.items():
        config = RunConfig(Settings(), {"device": Choice("cpu", ""), "dataset_path": Choice("/d", "")})
        folder = create_run(dashboard.runs_dir, config.to_dict(), name)
        if error is not None:
            folder.append_metrics(
                {"phase": "train", "epoch": 1, "val/mre_px": 10 * error, "val/mre_mm": error}
            )
    page.goto(dashboard.url)
    open_tab(page, "Runs")
    expect(page.locator("#runs-table tbody tr")).to_have_count(4)
    page.locator("#runs-table").get_by_role("button", name="best MRE").click()
    shown = [row.locator("td").nth(7).inner_text() for row in page.locator("#runs-table tbody tr").all()]
    assert shown == ["9.10 mm", "9.85 mm", "10.20 mm", "-"]
    second = page.locator("#runs-table tbody tr").nth(1)
    open_run(page, second.locator("td").first.inner_text())
    expect(page.locator("#opened-run")).to_contain_text("-d")
