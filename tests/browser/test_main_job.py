"""What a user does, in a real browser: set up, start, watch, leave, come back, download, use."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from backend.data.annotations import read_annotations
from backend.presets import PRESETS
from backend.run.folder import list_runs
from tests.browser.on_page import epoch_reaches, fill, open_tab, plot_becomes, start_small_run
from tests.dashboard import Dashboard

pytestmark = pytest.mark.browser
REPOSITORY = Path(__file__).resolve().parents[2]


def test_train_watch_leave_return_download_and_predict(dashboard, page: Page, tmp_path: Path) -> None:
    page.goto(dashboard.url)
    page.locator("#recommend").click()
    expect(page.locator("#advice")).to_contain_text("free")
    expect(page.locator("#sample .js-plotly-plot")).to_be_visible()
    start_small_run(page, epochs=400)

    # the page turns to Monitor and shows the run as its folder tells it
    card = page.locator("#run-card .run-card")
    expect(card).to_have_attribute("data-state", "running")
    folder = list_runs(dashboard.runs_dir)[0]
    epoch_reaches(page, folder, 2)
    expect(page.locator("#curves .js-plotly-plot")).to_be_visible()
    expect(page.locator("#preview-0 .js-plotly-plot")).to_be_visible()
    expect(page.locator("#landmarks")).to_contain_text("chin")

    # a refresh comes back to the same run
    page.reload()
    expect(card).to_have_attribute("data-state", "running")
    expect(page.locator("#watched-run input")).to_have_value(folder.run_id)

    # so does a dashboard that was killed and started again; the training never noticed
    dashboard.kill()
    reached = folder.read_metrics()[0][-1]["epoch"]
    epoch_reaches(page, folder, reached + 2)
    dashboard.start()
    page.goto(dashboard.url)
    expect(card).to_have_attribute("data-state", "running")
    expect(page.locator("#preview-0 .js-plotly-plot")).to_be_visible()

    # finish early, keep the best
    page.locator("#finish").click()
    expect(card).to_have_attribute("data-state", "finished_early")

    # download the checkpoint and use it
    open_tab(page, "Runs")
    page.locator("#runs-table").get_by_text(folder.run_id).last.click()
    with page.expect_download() as downloading:
        page.locator("#files").get_by_text("best.pt").click()
    checkpoint = tmp_path / "downloaded.pt"
    downloading.value.save_as(checkpoint)
    assert checkpoint.read_bytes() == folder.checkpoint_path("best").read_bytes()
    out = tmp_path / "predicted" / "predictions.csv"
    images = dashboard.data_root / "blobs"
    command = [sys.executable, "-m", "backend.predict", "--checkpoint", checkpoint]
    command += ["--images", images, "--out", out, "--overlays", tmp_path / "overlays"]
    subprocess.run([*map(str, command)], cwd=REPOSITORY, check=True)
    predicted = read_annotations(out)
    assert predicted.landmark_names == ("nose", "chin", "ear")
    assert len(predicted.images) == 12
    assert len(list((tmp_path / "overlays").glob("*.png"))) == 12


def test_impossible_input_is_marked_at_its_field_and_start_waits(dashboard, page: Page) -> None:
    page.goto(dashboard.url)
    expect(page.locator("#data-summary")).to_contain_text("3 landmarks")
    fill(page, image_height=250, lr=-1)
    expect(page.locator("#field-image_height")).to_contain_text("nearest that fit are 224 and 256")
    expect(page.locator("#field-lr")).to_contain_text("greater than 0")
    expect(page.locator("#start")).to_be_disabled()
    expect(page.locator("#blocked")).to_contain_text("Cannot start")
    fill(page, image_height=256, lr=0.001)
    expect(page.locator("#start")).to_be_enabled()
    expect(page.locator("#field-lr")).not_to_contain_text("greater than 0")
    assert not list_runs(dashboard.runs_dir)


def test_a_preset_fills_the_form_and_an_edited_form_is_custom(dashboard, page: Page) -> None:
    page.goto(dashboard.url)
    expect(page.locator("#data-leaks")).to_contain_text("no image of train or valid is in another split")
    expect(page.locator("#preset input[value=balanced]")).to_be_checked()  # the defaults
    for name, epochs in (
        ("fast", PRESETS["fast"].values["epochs"]),
        ("best", PRESETS["best"].values["epochs"]),
    ):
        page.locator(f"#preset input[value={name}]").check()
        expect(page.locator("#field-epochs input")).to_have_value(str(epochs))
        expect(page.locator("#command")).to_contain_text(f"--epochs {epochs}")
        expect(page.locator(f"#preset input[value={name}]")).to_be_checked()
    fill(page, epochs=7)
    expect(page.locator("#preset input[value=custom]")).to_be_checked()
    fill(page, epochs=PRESETS["best"].values["epochs"])
    expect(page.locator("#preset input[value=best]")).to_be_checked()


def test_a_cancelled_run_can_be_resumed_from_the_page(dashboard, page: Page) -> None:
    page.goto(dashboard.url)
    start_small_run(page, epochs=300)
    card = page.locator("#run-card .run-card")
    expect(card).to_have_attribute("data-state", "running")
    folder = list_runs(dashboard.runs_dir)[0]
    epoch_reaches(page, folder, 1)
    page.locator("#cancel").click()
    page.locator("#cancel-yes").click()
    expect(card).to_have_attribute("data-state", "stopped")
    stopped_at = folder.read_metrics()[0][-1]["epoch"]

    open_tab(page, "Runs")
    page.locator("#runs-table").get_by_text(folder.run_id).last.click()
    expect(page.locator("#resume")).to_be_enabled()
    page.locator("#resume").click()
    expect(card).to_have_attribute("data-state", "running")
    epoch_reaches(page, folder, stopped_at + 1)
    page.locator("#finish").click()
    expect(card).to_have_attribute("data-state", "finished_early")
    epochs = [row["epoch"] for row in folder.read_metrics()[0]]
    assert epochs == list(range(1, len(epochs) + 1))


@pytest.fixture(scope="module")
def busy(server: Dashboard) -> Dashboard:
    """Serve a dashboard whose device is busy with a run that does not end."""
    server.begin_anew()
    server.begin_training()
    return server


def test_two_browsers_see_the_same_run_and_one_device_trains_one_run(busy: Dashboard, page: Page) -> None:
    other = page.context.new_page()
    for one in (page, other):
        one.goto(busy.url)
        expect(one.locator("#run-card .run-card")).to_have_attribute("data-state", "running")
    open_tab(other, "Train")
    expect(other.locator("#start")).to_be_enabled()
    other.locator("#start").click()
    expect(other.locator("#blocked")).to_contain_text("is training on cpu")
    assert len(list_runs(busy.runs_dir)) == 1


def test_a_tab_chosen_while_the_page_loads_stays(busy: Dashboard, page: Page) -> None:
    held = (  # nothing that the page asks as it opens is answered before the tab is chosen
        "const chosen = new Promise((letGo) => { window.letGo = letGo; });"
        "window.fetch = ((real) => async (...all) => {"
        " if (String(all[0]).includes('queue/join')) await chosen;"
        " return real(...all); })(window.fetch)"
    )
    page.add_init_script(held)
    page.goto(busy.url)
    open_tab(page, "Data")
    page.evaluate("letGo()")
    expect(page.locator("#data-tab-summary")).to_contain_text("12")
    page.wait_for_timeout(3000)
    expect(page.get_by_role("tab", name="Data", exact=True)).to_have_attribute("aria-selected", "true")


def test_plots_drawn_on_a_hidden_tab_fit_their_box_when_it_is_shown(busy: Dashboard, page: Page) -> None:
    page.goto(busy.url)  # opens on Monitor: the sample on Train is drawn out of sight
    expect(page.locator("#run-card .run-card")).to_have_attribute("data-state", "running")
    page.locator("#sample .js-plotly-plot").wait_for(state="attached")
    page.wait_for_timeout(2000)
    open_tab(page, "Train")
    width = "Number(plot.querySelector('svg.main-svg').getAttribute('width'))"
    plot_becomes(page, "#sample", f"Math.abs({width} - plot.parentElement.clientWidth) <= 2")
