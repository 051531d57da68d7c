"""Watching a run in a real browser: replay its previews, smooth its curves, ask things of it, resume it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from playwright.sync_api import Page, expect

from backend.run.folder import RunFolder, list_runs
from tests.browser.on_page import epoch_reaches, open_tab, plot_becomes, start_small_run, told_by_plot
from tests.dashboard import Dashboard
from ui.monitor.previews import preview_figures
from ui.text.language import speaking

pytestmark = pytest.mark.browser
RANGE = "plot._fullLayout.xaxis.range.map(Math.round).join()"
SOURCE = "plot.layout.images[0].source"


@dataclass(frozen=True)
class Trained:
    """Where a dashboard is, and the run that it shows."""

    url: str
    folder: RunFolder


def title_of_first_preview(folder: RunFolder, epoch: int, language: str = "en") -> str:
    images, preview = folder.previews.read_images(), folder.previews.read(("train", epoch))
    assert images is not None and preview is not None
    with speaking(language):
        return preview_figures(images, preview, "off")[0][0]


def press(page: Page, selector: str, key: str, times: int) -> None:
    """Press a key on a slider, as somebody without a mouse would."""
    page.locator(f"{selector} input[type=range]").focus()
    for _ in range(times):
        page.keyboard.press(key)


def zoom_into_first_preview(page: Page) -> None:
    page.locator("#preview-0").scroll_into_view_if_needed()
    box = page.locator("#preview-0 .nsewdrag").first.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.3 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + 0.7 * box["height"], steps=5)
    page.mouse.up()


@pytest.fixture
def trained(dashboard: Dashboard) -> Trained:
    """A dashboard and its one run, of five epochs."""
    return Trained(dashboard.url, dashboard.train("--epochs", "5"))


def test_replay_zoom_heatmap_and_smoothing(trained: Trained, page: Page) -> None:
    folder = trained.folder
    page.goto(trained.url)
    open_tab(page, "Monitor")
    expect(page.locator("#acts-on")).to_contain_text(folder.run_id)
    expect(page.locator("#landmarks")).to_contain_text("chin")
    expect(page.locator("#preview-position")).to_contain_text("training, epoch 5")
    expect(page.locator("#previews-note")).to_contain_text("follows the training")
    expect(page.locator("#preview-0")).to_contain_text(title_of_first_preview(folder, 5))

    # back to epoch 2 by keyboard; a zoom is kept over the epochs
    whole = told_by_plot(page, "#preview-0", RANGE)
    zoom_into_first_preview(page)
    plot_becomes(page, "#preview-0", f"{RANGE} !== value", whole)
    zoomed = told_by_plot(page, "#preview-0", RANGE)
    press(page, "#preview-position", "ArrowLeft", 3)
    expect(page.locator("#preview-position")).to_contain_text("training, epoch 2")
    expect(page.locator("#previews-note")).to_contain_text("After epoch 2 of training.")
    expect(page.locator("#preview-0")).to_contain_text(title_of_first_preview(folder, 2))
    # the figure is drawn first, and then zoomed again
    plot_becomes(page, "#preview-0", f"{RANGE} === value", zoomed)

    # one landmark's own heatmap
    before = told_by_plot(page, "#preview-0", SOURCE)
    page.locator("#heatmap input").click()
    page.locator("#heatmap [role=option]").get_by_text("chin").click()
    plot_becomes(page, "#preview-0", f"{SOURCE} !== value", before)
    expect(page.locator("#previews-note")).to_contain_text("After epoch 2 of training.")

    # the newest again
    page.locator("#preview-newest").click()
    expect(page.locator("#previews-note")).to_contain_text("After epoch 5 of training. This is the newest")
    expect(page.locator("#preview-position input[type=range]")).to_have_value("5")
    expect(page.locator("#preview-newest")).to_be_disabled()

    # smoothing leaves the curve faintly behind
    is_smoothed = "plot.data.some(trace => (trace.name || '').includes('smoothed'))"
    assert not told_by_plot(page, "#curves", is_smoothed)
    press(page, "#smoothing", "ArrowRight", 2)
    plot_becomes(page, "#curves", is_smoothed)
    plot_becomes(page, "#curves", "plot.data.some(trace => trace.opacity === 0.3)")
    page.locator("#log-axis input").check()
    plot_becomes(page, "#curves", "plot._fullLayout.yaxis.type === 'log'")

    # the same as numbers
    page.get_by_role("button", name="Values of the curves").click()
    expect(page.locator("#curve-values tr")).to_have_count(6)


def test_a_live_run_saves_shows_stops_and_goes_on_when_asked(dashboard, page: Page) -> None:
    page.goto(dashboard.url)
    start_small_run(page, epochs=400, clicks=2)
    card = page.locator("#run-card .run-card")
    expect(card).to_have_attribute("data-state", "running")
    (folder,) = list_runs(dashboard.runs_dir)  # of two clicks, one started
    epoch_reaches(page, folder, 1)
    expect(page.locator("#acts-on")).to_contain_text(folder.run_id)

    page.locator("#save-now").click()
    expect(page.locator("#events")).to_contain_text("last.pt saved")
    page.locator("#preview-now").click()
    expect(page.locator("#events")).to_contain_text("preview saved")
    expect(page.locator("#preview-now")).to_have_text("Preview now")
    expect(page.locator("#preview-now")).to_be_enabled()

    # cancelled after a question that names the run
    page.locator("#cancel").click()
    expect(page.locator("#cancel-words")).to_contain_text(folder.run_id)
    page.locator("#cancel-yes").click()
    expect(card).to_have_attribute("data-state", "stopped")
    for button in ("#finish", "#save-now", "#preview-now", "#cancel"):
        expect(page.locator(button)).to_be_disabled()
    expect(page.locator("#cancel-confirm")).to_be_hidden()

    # and resumed, once, by a double click
    stopped_at = folder.read_metrics()[0][-1]["epoch"]
    expect(page.locator("#resume-watched")).to_be_enabled()
    page.locator("#resume-watched").dblclick()
    expect(card).to_have_attribute("data-state", "running")
    epoch_reaches(page, folder, stopped_at + 1)
    expect(page.locator("#events")).to_contain_text("resumed after epoch")
    page.locator("#finish").click()
    expect(card).to_have_attribute("data-state", "finished_early")
    assert [event["kind"] for event in folder.read_events()[0]].count("resumed") == 1
    assert list_runs(dashboard.runs_dir) == [folder]


def test_the_same_in_persian(trained: Trained, page: Page) -> None:
    folder = trained.folder
    page.goto(f"{trained.url}/fa")
    open_tab(page, "پایش")
    expect(page.locator("#acts-on")).to_contain_text(folder.run_id)
    expect(page.locator("#curves")).to_contain_text("زیان")
    expect(page.locator("#preview-position")).to_contain_text("مرور")
    press(page, "#preview-position", "ArrowLeft", 1)
    expect(page.locator("#preview-0")).to_contain_text(title_of_first_preview(folder, 4, "fa"))
    expect(page.locator("#preview-position input[type=range]")).to_have_value("4")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    # a panel's title begins where its axis does, though its words run from right to left
    left, axis = page.evaluate(
        "() => ['#curves .annotation-text', '#curves .bglayer, #curves .nsewdrag'].map("
        "chosen => document.querySelector(chosen).getBoundingClientRect().left)"
    )
    assert abs(left - axis) < 20
