"""The Train form is as it was left: after a refresh, in the other language, at a restarted dashboard."""

from __future__ import annotations

import json
import shutil

import pytest
from playwright.sync_api import Page, Route, expect

from backend.run.folder import list_runs
from tests.browser.on_page import fill
from ui.train.form_draft import STORAGE_KEY

pytestmark = pytest.mark.browser


def shows(page: Page, **values: object) -> None:
    for key, value in values.items():
        expect(page.locator(f"#field-{key} input").first).to_have_value(str(value))


def ready(page: Page) -> None:
    expect(page.locator("#data-summary")).to_contain_text("3")
    expect(page.locator("#start")).to_be_enabled()


def fill_and_keep(page: Page, **values: float) -> None:
    """Type values, and wait until the browser has stored them."""
    fill(page, **values)
    page.wait_for_function(
        """([name, values]) => {
            const kept = JSON.parse(localStorage.getItem(name) ?? "{}");
            return Object.entries(values).every(([key, value]) => kept[key] === String(value));
        }""",
        arg=[STORAGE_KEY, values],
    )


def test_the_form_is_as_it_was_left_until_it_is_reset(dashboard, page: Page) -> None:
    shutil.copytree(dashboard.data_root / "blobs", dashboard.data_root / "other")
    page.goto(dashboard.url)
    ready(page)
    shows(page, dataset_path="blobs", epochs=60)
    page.locator("#preset input[value=fast]").check()
    shows(page, epochs=20)
    page.locator("#field-dataset_path input").click()
    page.get_by_role("option", name="other").click()
    page.locator("#field-loss input[value=mse]").check()
    fill_and_keep(page, image_height=128, lr=0.02)

    page.reload()
    ready(page)
    typed = {"dataset_path": "other", "image_height": 128, "image_width": 256, "lr": 0.02, "epochs": 20}
    shows(page, **typed)
    expect(page.locator("#field-loss input[value=mse]")).to_be_checked()
    expect(page.locator("#preset input[value=custom]")).to_be_checked()
    expect(page.locator("#command")).to_contain_text("--lr 0.02")
    expect(page.locator("#draft-note")).to_have_text("")

    # the other language has the same draft
    page.get_by_role("link", name="فارسی").click()
    expect(page.locator("html")).to_have_attribute("dir", "rtl")
    ready(page)
    shows(page, **typed)
    fill_and_keep(page, epochs=7)
    page.get_by_role("link", name="English").click()
    expect(page.locator("html")).to_have_attribute("dir", "ltr")
    ready(page)
    shows(page, **{**typed, "epochs": 7})

    # so does a dashboard that was started again
    dashboard.kill()
    dashboard.start()
    page.goto(dashboard.url)
    ready(page)
    shows(page, **{**typed, "epochs": 7})

    page.locator("#defaults").click()
    shows(page, dataset_path="blobs", image_height=256, lr=0.0015, epochs=60)
    expect(page.locator("#preset input[value=balanced]")).to_be_checked()
    page.reload()
    ready(page)
    shows(page, dataset_path="blobs", image_height=256, lr=0.0015, epochs=60)


def test_what_cannot_be_restored_is_told_and_start_waits_for_the_rest(dashboard, page: Page) -> None:
    kept = {"dataset_path": "/data/gone", "lr": -3, "epochs": 9, "of_another_version": 1}
    entry = json.dumps(STORAGE_KEY), json.dumps(json.dumps(kept))
    page.add_init_script(f"if (!localStorage.length) localStorage.setItem({entry[0]}, {entry[1]});")
    # the dashboard's answer about the draft comes late: the form is not shown, and nothing can be started
    held: list[Route] = []
    is_late = [True]
    page.route("**/queue/join*", lambda route: held.append(route) if is_late[0] else route.continue_())
    page.goto(dashboard.url)
    page.locator("#start").wait_for(state="attached")
    expect(page.locator("#start")).to_be_hidden()
    expect(page.locator("#start")).to_be_disabled()
    assert not list_runs(dashboard.runs_dir)
    is_late[0] = False
    for route in held:
        route.continue_()
    ready(page)
    expect(page.locator("#start")).to_be_visible()
    shows(page, dataset_path="blobs", lr=0.0015, epochs=9)
    for lost in ("/data/gone", "-3", "of_another_version"):
        expect(page.locator("#draft-note")).to_contain_text(lost)
    expect(page.locator("#draft-note")).not_to_contain_text("Epochs")
    fill_and_keep(page, epochs=8)
    page.reload()  # what has fallen back is told once
    ready(page)
    shows(page, epochs=8)
    expect(page.locator("#draft-note")).to_have_text("")
