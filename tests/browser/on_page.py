"""What a user does on the page, over and over."""

from __future__ import annotations

from typing import Any

from playwright.sync_api import Page, expect

from backend.run.folder import RunFolder
from tests.waiting import wait_for


def fill(page: Page, **values: object) -> None:
    """Type values into fields of the form, by key."""
    for key, value in values.items():
        field = page.locator(f"#field-{key} input")
        field.fill(str(value))
        field.press("Tab")


def open_tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def start_small_run(page: Page, epochs: int, clicks: int = 1) -> None:
    """A run of the smallest sensible size on the tiny data set."""
    expect(page.locator("#data-summary")).to_contain_text("3 landmarks")
    fill(page, image_height=64, image_width=64, batch_size=4, epochs=epochs, lr=0.001)
    expect(page.locator("#command")).to_contain_text(f"--epochs {epochs}")
    expect(page.locator("#start")).to_be_enabled()
    page.locator("#start").click(click_count=clicks)


def epoch_reaches(page: Page, folder: RunFolder, epoch: int) -> None:
    def is_there() -> bool:
        rows, _ = folder.read_metrics()
        return bool(rows) and rows[-1]["epoch"] >= epoch

    wait_for(
        is_there,
        lambda: f"epoch {epoch} was not reached: {folder.read_log_tail()}",
        lambda: page.wait_for_timeout(250),
    )


def told_by_plot(page: Page, selector: str, expression: str) -> Any:
    """What an expression says of the drawn `plot` below a selector; waits where Gradio is drawing it anew."""
    told = f"""(selector) => {{
        const plot = document.querySelector(`${{selector}} .js-plotly-plot`);
        return plot?._fullLayout && {{value: {expression}}};
    }}"""
    return page.wait_for_function(told, arg=selector).json_value()["value"]


def plot_becomes(page: Page, selector: str, condition: str, value: Any = None) -> None:
    """Wait until a condition on the drawn `plot` below a selector, and a `value`, holds."""
    holds = f"""([selector, value]) => {{
        const plot = document.querySelector(`${{selector}} .js-plotly-plot`);
        return plot?._fullLayout && ({condition});
    }}"""
    page.wait_for_function(holds, arg=[selector, value])


def open_run(page: Page, run_id: str) -> None:
    """Click a run's row on the Runs tab."""
    page.locator("#runs-table").get_by_text(run_id, exact=True).last.click()
    expect(page.locator("#opened-run")).to_contain_text(run_id)


def compare_runs(page: Page, *run_ids: str) -> None:
    """Lay the curves of runs over each other; the panel is folded in before."""
    page.locator("#compare-panel > button").click()
    chosen = page.locator("#compare-chosen input")
    for run_id in run_ids:
        chosen.click()
        page.locator("#compare-chosen [role=option]").get_by_text(run_id).click()
    chosen.press("Escape")
    expect(page.locator("#compare-plot .js-plotly-plot")).to_contain_text(run_ids[-1])
