"""The Train tab on memory: its advice, the test on this device, and accumulation in smaller batches."""

from __future__ import annotations

import csv
import re
import shutil

import pytest
from playwright.sync_api import Page, expect

from tests.browser.on_page import fill
from ui.text.say import say

pytestmark = pytest.mark.browser
SLOW_MS = 240_000  # real steps, in processes that first load torch


@pytest.fixture
def many(dashboard) -> None:
    """A data set of 48 images, of which 44 train: a batch of 4 is then the largest sensible one."""
    folder = dashboard.data_root / "blobs"
    with (folder / "annotations.csv").open(encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    copies = [[f"{copy}-{row[0]}", *row[1:]] for copy in range(4) for row in rows]
    for name, *_ in copies:
        shutil.copy(folder / name.split("-")[1], folder / name)
    with (folder / "annotations.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *copies])


def small(page: Page, url: str, **values: int) -> None:
    """The form at the smallest sensible network."""
    page.goto(url)
    expect(page.locator("#start")).to_be_enabled()
    page.locator("#field-refine input").uncheck()
    fill(page, **values)


@pytest.mark.usefixtures("many")
def test_measured_steps_are_shown_and_the_recommendation_goes_by_them(dashboard, page: Page) -> None:
    small(page, dashboard.url, image_height=64, image_width=64, batch_size=4)
    advice, measured = page.locator("#advice"), page.locator("#measured")
    expect(page.locator("#command")).to_contain_text("--image_size 64 64 --batch_size 4")
    expect(advice).to_contain_text("4: ")
    expect(advice).to_contain_text("GiB free")

    page.locator("#measure").click()
    expect(page.locator("#measure-note")).to_contain_text("Running real steps")
    expect(page.locator("#measure")).to_be_disabled()
    for batch in (2, 4):
        expect(measured).to_contain_text(f"batch {batch}:", timeout=SLOW_MS)
    expect(page.locator("#measure")).to_be_enabled()
    found = dict(
        re.findall(
            r"batch (\d+): (\d+) MiB measured, \d+ MiB predicted; [\d.]+ images/s", measured.inner_text()
        )
    )
    assert set(found) == {"2", "4"}, measured.inner_text()
    # the sentence tells what was measured, not what was predicted, of the batch that was faster
    chosen = re.match(r"Recommended batch size ([24]): ", advice.inner_text())
    assert chosen is not None, advice.inner_text()
    batch = chosen[1]
    whole_mib = int(found[batch])
    needed = "|".join(re.escape(f"{(whole_mib + half) / 1024:.1f}") for half in (-0.5, 0.5))
    expect(advice).to_contain_text(re.compile(rf"{batch}: ({needed}) of [\d.]+ GiB free"))
    expect(page.locator("#memory-chart .legendtext").get_by_text("measured", exact=True)).to_have_count(1)

    # another browser, and a page opened later, know what was measured
    page.reload()
    expect(measured).to_contain_text(f"batch 4: {found['4']} MiB measured")
    page.locator("#recommend").click()
    expect(page.locator("#field-batch_size input")).to_have_value(batch)


def test_a_batch_that_does_not_fit_is_cut_into_parts_that_keep_the_step(dashboard, page: Page) -> None:
    # 4096 images of 256 x 256 want hundreds of GiB in a step
    small(page, dashboard.url, batch_size=4096)
    page.get_by_role("button", name=say("advanced")).click()
    offer, steps = page.locator("#accumulate"), page.locator("#field-gradient_accumulation_steps input")
    expect(page.locator("#advice")).to_contain_text("a batch of 4096 needs", timeout=SLOW_MS)
    expect(page.locator("#advice")).to_contain_text("does not fit")
    expect(offer).to_be_visible()
    batch, parts = map(int, re.findall(r"\d+", offer.inner_text()))
    assert 2 <= batch <= 64 and 4096 <= batch * parts < 4096 + parts

    offer.click()
    expect(page.locator("#field-batch_size input")).to_have_value(str(batch))
    expect(steps).to_have_value(str(parts))
    expect(page.locator("#command")).to_contain_text(
        re.compile(rf"--batch_size {batch} .*--gradient_accumulation_steps {parts}\b")
    )
    expect(page.locator("#advice")).not_to_contain_text("does not fit")
    expect(offer).to_be_hidden()
    expect(page.locator("#start")).to_be_enabled()
