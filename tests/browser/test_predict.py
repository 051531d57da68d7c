"""The Predict tab in a browser: upload, predict, drag, nudge, type, undo, export, read back."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from backend.data.annotations import read_annotations
from tests.browser.held import CALLS, held_back
from tests.browser.on_page import open_tab

pytestmark = pytest.mark.browser
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def trained(dashboard) -> None:
    """The dashboard has a run with weights."""
    dashboard.train("--lr", "0.001")


def typed(page: Page, landmark: str) -> tuple[float, float]:
    """The place of a landmark in the table."""
    x, y = (page.get_by_label(f"{landmark} {axis}, px").input_value() for axis in "xy")
    return float(x), float(y)


@pytest.mark.usefixtures("trained")
def test_predict_correct_and_export(dashboard, page: Page, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("first.png", "second.png", "bad.png")]
    for number, file in enumerate(files[:2]):
        shutil.copy(dashboard.data_root / "blobs" / f"{number:02d}.png", file)
    files[2].write_bytes(b"nonsense")

    page.goto(dashboard.url)
    open_tab(page, "Predict")
    expect(page.locator("#predict-empty")).to_contain_text("Drop one or more images")
    expect(page.locator("#predict-start")).to_be_disabled()
    page.locator("#predict-files input[type=file]").set_input_files(files)
    expect(page.locator("#predict-images button")).to_have_count(2)
    expect(page.locator("#predict-note")).to_contain_text("bad.png is damaged")
    page.locator("#predict-spacing :is(input, textarea)").fill("0.5")
    page.locator("#predict-start").click()
    marks = page.locator("#predict-annotator .mark")
    expect(marks).to_have_count(3)
    expect(page.locator("#predict-note")).to_contain_text("2 images, 3 landmarks each")
    expect(page.locator("#predict-annotator")).to_contain_text("0.5 mm per pixel (typed)")

    # drag: the table follows, and an image pixel is some screen pixels here
    nose = page.locator("#predict-annotator .mark[data-k='0'] .hit")
    nose.scroll_into_view_if_needed()
    x, y = typed(page, "nose")
    box = nose.bounding_box()
    picture = page.locator("#predict-annotator .picture").bounding_box()
    assert box is not None and picture is not None
    scale = min(picture["width"] / 80, picture["height"] / 96)
    start = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    to = np.array([40 - x, 48 - y]) * scale + start  # to the middle of the image
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(*to, steps=5)
    page.mouse.up()
    assert typed(page, "nose") == pytest.approx((40, 48), abs=0.6)
    row = page.locator("#predict-annotator tbody tr").nth(0)
    expect(row).to_contain_text("20.")  # mm
    expect(page.locator("#predict-images")).to_contain_text("corrected")

    # nudge with the keys, and undo that
    dragged = typed(page, "nose")
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("ArrowUp")
    assert typed(page, "nose") == pytest.approx((dragged[0] + 10, dragged[1] - 1), abs=0.11)
    page.locator("#predict-annotator [data-do=undo]").click()
    page.locator("#predict-annotator [data-do=undo]").click()
    assert typed(page, "nose") == pytest.approx(dragged, abs=0.11)

    # back to where it was predicted, to all its digits: nobody corrected it then
    page.locator("#predict-annotator [data-do=reset]").click()
    expect(page.locator("#predict-images")).not_to_contain_text("corrected")
    page.locator("#predict-annotator [data-do=undo]").click()
    expect(page.locator("#predict-images")).to_contain_text("corrected")
    assert typed(page, "nose") == pytest.approx(dragged, abs=0.11)

    # type a place, say that another is not to be seen, and lay the heatmap over
    for axis, value in (("x", "12.5"), ("y", "33.25")):
        page.get_by_label(f"chin {axis}, px").fill(value)
        page.get_by_label(f"chin {axis}, px").press("Enter")
    page.locator("#predict-annotator tbody tr button", has_text="ear").click()
    page.locator("#predict-annotator [data-do=remove]").click()
    expect(page.get_by_label("ear x, px")).to_have_value("")
    page.locator("#predict-annotator [data-heatmap]").select_option("all")
    expect(page.locator("#predict-annotator .heat")).to_have_attribute(
        "href", re.compile("^data:image/png;base64,.")
    )

    # the other image, and back: what was corrected is there again
    page.locator("#predict-images button").nth(1).click()
    expect(page.locator("#predict-annotator .about")).to_contain_text("second.png")
    page.locator("#predict-images button").nth(0).click()
    expect(page.get_by_label("chin y, px")).to_have_value("33.25")

    with page.expect_download() as downloading:
        page.locator("#predict-export").click()
    table = tmp_path / "predictions.csv"
    downloading.value.save_as(table)
    read = read_annotations(table)
    nose_xy, chin_xy, ear_xy = read.points_xy_image[0, 0]
    assert nose_xy == pytest.approx((40, 48), abs=0.6) and chin_xy.tolist() == [12.5, 33.25]
    assert np.isnan(ear_xy).all() and np.isfinite(read.points_xy_image[1]).all()

    page.locator("#predict-format input").click()
    page.get_by_role("option", name="COCO").click()
    with page.expect_download() as downloading:
        page.locator("#predict-export").click()
    downloading.value.save_as(tmp_path / "coco.zip")
    with zipfile.ZipFile(tmp_path / "coco.zip") as archive:
        assert len(json.loads(archive.read("annotations.json"))["images"]) == 2

    page.locator("#predict-clear").click()
    expect(page.locator("#predict-empty")).to_be_visible()
    expect(marks.first).to_be_hidden()


@pytest.mark.usefixtures("trained")
def test_what_is_typed_faster_than_it_is_read_is_kept_and_exported(
    dashboard, page: Page, tmp_path: Path
) -> None:
    page.goto(dashboard.url)
    open_tab(page, "Predict")
    files = [shutil.copy(dashboard.data_root / "blobs" / name, tmp_path) for name in ("00.png", "01.png")]
    page.locator("#predict-files input[type=file]").set_input_files(files)
    expect(page.locator("#predict-images button")).to_have_count(2)
    page.locator("#predict-start").click()
    expect(page.locator("#predict-annotator .mark")).to_have_count(3)
    x, y = (page.get_by_label(f"chin {axis}, px") for axis in "xy")

    with held_back(page, CALLS):  # both axes, before the first is read
        for field, place in ((x, "12.5"), (y, "33.25")):
            field.fill(place)
            field.press("Tab")
    expect(page.locator("#predict-images")).to_contain_text("corrected")
    expect(x).to_have_value("12.50")
    expect(y).to_have_value("33.25")

    with held_back(page, CALLS):  # and the other image, before it is read
        x.fill("14.5")
        page.locator("#predict-images button").nth(1).click()
    expect(page.locator("#predict-annotator .about")).to_contain_text("01.png")
    page.locator("#predict-images button").nth(0).click()
    expect(x).to_have_value("14.50")
    expect(y).to_have_value("33.25")

    with held_back(page, CALLS):  # a pixel size takes nothing from a field beside it
        y.fill("35.25")
        page.locator("#predict-spacing :is(input, textarea)").fill("0.5")
    expect(page.locator("#predict-annotator .about")).to_contain_text("0.5 mm")
    expect(y).to_have_value("35.25")

    with held_back(page, naming='"points"'):  # nor does its answer, if the server has not heard of the move
        with page.expect_request(lambda request: '"points"' in (request.post_data or "")):
            y.fill("36.25")
            y.press("Tab")
        page.locator("#predict-spacing :is(input, textarea)").fill("0.25")
        expect(page.locator("#predict-annotator .about")).to_contain_text("0.25 mm")
        expect(y).to_have_value("36.25")
    expect(y).to_have_value("36.25")

    with page.expect_download() as downloading, held_back(page, CALLS):
        y.fill("34.75")
        page.locator("#predict-export").click()
    downloading.value.save_as(tmp_path / "predictions.csv")
    read = read_annotations(tmp_path / "predictions.csv")
    assert read.points_xy_image[0, 0, 1].tolist() == [14.5, 34.75]

    with held_back(page, CALLS):  # emptied, both of them
        for field in (x, y):
            field.fill("")
            field.press("Tab")
    expect(page.locator("#predict-annotator .mark").nth(1)).to_be_hidden()
    page.route(CALLS, lambda route: route.abort())
    x.fill("5")
    x.press("Tab")
    expect(page.locator("#predict-annotator tbody tr").nth(1)).to_contain_text("Fiducial did not answer")
