"""The main path of each tab, in each language, on a phone and on a desk, and the tab before axe-core on its
way.

What the paths lead past is tested by tab.
"""

from __future__ import annotations

import csv
import re
import shutil
import zipfile
from pathlib import Path

import pytest
from playwright.sync_api import expect

from backend.data.annotations import read_annotations
from backend.run.folder import list_runs
from tests.browser.axe import EXCEPTIONS, GradioMakesIt
from tests.browser.on_page import compare_runs, fill, open_run
from tests.browser.view import View
from ui.text.language import LANGUAGES

pytestmark = pytest.mark.browser
NUMBER = re.compile(r"\d\.\d")
NUM_PATHS = 4


def test_data_is_looked_through(view: View) -> None:
    page = view.page
    view.open_tab("data")
    expect(page.locator("#data-tab-summary")).to_contain_text("12")
    expect(page.locator("#data-counts")).to_contain_text("80 x 96")
    expect(page.locator("#data-suspects-note")).to_contain_text(view.say("data_no_shapes"))
    expect(page.locator("#data-problems-note")).to_contain_text(view.say("data_problems_none"))
    expect(page.locator("#data-picture .js-plotly-plot")).to_be_visible()
    first = page.locator("#data-caption strong").inner_text()
    page.locator("#data-next").click()
    expect(page.locator("#data-caption strong")).not_to_have_text(first)
    expect(page.locator("#data-sigma .js-plotly-plot")).to_be_visible()
    expect(page.locator("#data-floor")).to_contain_text(NUMBER)
    view.must_be_sound()


def test_a_run_is_set_up_started_and_watched(view: View, shared_dashboard) -> None:
    page = view.page
    before = {folder.run_id for folder in list_runs(shared_dashboard.runs_dir)}
    view.open_tab("train")
    fill(page, image_height=250)
    expect(page.locator("#field-image_height")).to_contain_text("224")
    expect(page.locator("#start")).to_be_disabled()
    page.locator("#field-refine input").uncheck()
    fill(page, image_height=64, image_width=64, batch_size=4, epochs=2, lr=0.001)
    expect(page.locator("#command")).to_contain_text("--epochs 2")
    expect(page.locator("#start")).to_be_enabled()
    expect(page.locator("#sample .js-plotly-plot")).to_be_visible()
    expect(page.locator("#memory-chart .js-plotly-plot")).to_be_visible()
    view.must_be_sound()

    page.locator("#start").click()
    expect(page.locator("#curves")).to_be_visible()  # the page turns to the Monitor
    (started,) = {folder.run_id for folder in list_runs(shared_dashboard.runs_dir)} - before
    expect(page.locator("#acts-on")).to_contain_text(started)
    card = page.locator("#run-card .run-card")
    expect(card).to_have_attribute("data-state", "completed")
    expect(card).to_contain_text(view.say("state_completed"))
    expect(page.locator("#curves .js-plotly-plot")).to_be_visible()
    expect(page.locator("#preview-0 .js-plotly-plot")).to_be_visible()
    expect(page.locator("#landmarks")).to_contain_text("chin")
    view.must_be_sound()


def test_runs_are_found_opened_compared_and_handed_on(
    view: View, evaluated_runs: tuple[str, str], tmp_path: Path
) -> None:
    page = view.page
    older, newer = evaluated_runs
    view.open_tab("runs")
    page.locator("#search-runs :is(input, textarea)").fill(older)
    expect(page.locator("#runs-table")).not_to_contain_text(newer)
    open_run(page, older)
    expect(page.locator("#evaluation-curve .js-plotly-plot")).to_be_visible()
    expect(page.locator("#evaluation-table")).to_contain_text("chin")
    compare_runs(page, older, newer)
    expect(page.locator("#compare-settings mark")).to_have_text("0.002")
    expect(page.locator("#paired-result")).to_contain_text("chin")
    view.must_fit()

    with page.expect_download() as downloading:
        page.locator("#bundle").click()
    downloading.value.save_as(tmp_path / "bundle.zip")
    with zipfile.ZipFile(tmp_path / "bundle.zip") as bundle:
        assert f"{older}/checkpoints/best.pt" in bundle.namelist()
    view.must_be_sound()


def test_an_image_is_predicted_on_corrected_and_exported(
    view: View, shared_dashboard, tmp_path: Path
) -> None:
    page = view.page
    view.open_tab("predict")
    expect(page.locator("#predict-empty")).to_be_visible()
    view.must_be_sound()
    page.locator("#predict-files input[type=file]").set_input_files(
        shared_dashboard.data_root / "blobs" / "00.png"
    )
    page.locator("#predict-start").click()
    expect(page.locator("#predict-annotator .mark")).to_have_count(3)
    view.must_be_sound()

    typed = page.locator("#predict-annotator tbody tr", has_text="chin").locator("input").first
    typed.fill("12.5")
    typed.press("Enter")
    expect(page.locator("#predict-images")).to_contain_text(view.say("predict_corrected"))
    row = page.locator("#predict-annotator tbody tr", has_text="chin")
    expect(row.locator("td").nth(-2)).to_have_text(view.say("annotator_corrected"))
    with page.expect_download() as downloading:
        page.locator("#predict-export").click()
    downloading.value.save_as(tmp_path / "predictions.csv")
    shutil.copy(shared_dashboard.data_root / "blobs" / "00.png", tmp_path)
    read = read_annotations(tmp_path / "predictions.csv")
    assert read.points_xy_image[0, 0, read.landmark_names.index("chin"), 0] == 12.5
    with (tmp_path / "predictions.csv").open(newline="", encoding="utf-8") as file:
        (line,) = csv.DictReader(file)
    assert line["chin_confidence"] == "" and line["nose_confidence"] != ""
    view.must_fit()


def test_every_exception_to_axes_rules_still_occurs(
    request: pytest.FixtureRequest, excepted: set[GradioMakesIt]
) -> None:
    ran = [item for item in request.session.items if item.path == request.path]
    if len(ran) < 1 + NUM_PATHS * len(LANGUAGES) * 2:
        pytest.skip("only some of the main paths were asked for")
    assert [one for one in EXCEPTIONS if one not in excepted] == []
