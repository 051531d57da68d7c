"""The Data tab in a browser: choose, browse, open a suspect and a problem, draw augmentation, import."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from playwright.sync_api import Page, expect

from tests.browser.on_page import open_tab

pytestmark = pytest.mark.browser


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """Make a wide-CSV data set: a swapped pair in image 07, a point outside image 03, a missing image."""
    folder = tmp_path / "faces"
    folder.mkdir()
    rng = np.random.default_rng(0)
    mean = np.array([[40, 40], [120, 42], [80, 80], [55, 120], [105, 122], [80, 150]], np.float64)
    names = ("left", "right", "nose", "mouth", "corner", "chin")
    lines = ["image,split," + ",".join(f"{name}_{axis}" for name in names for axis in "xy")]
    for number in range(20):
        points = mean + rng.normal(0, 2, mean.shape)
        if number == 7:
            points[[0, 1]] = points[[1, 0]]
        if number == 3:
            points[2] = (-30, 80)
        image = rng.integers(60, 90, (180, 160), np.uint8)
        assert cv2.imwrite(str(folder / f"{number:02d}.png"), image)
        split = "test" if number >= 16 else "train"
        lines.append(f"{number:02d}.png,{split}," + ",".join(f"{value:.2f}" for value in points.ravel()))
    lines.append(lines[-1].replace("19.png", "gone.png"))
    (folder / "annotations.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def cell(page: Page, table: str, text: str):
    return page.locator(f"#{table}").get_by_text(text).last


def upload(page: Page, archive: Path) -> None:
    with page.expect_file_chooser() as choosing:
        page.get_by_role("button", name="Import a zip").click()
    choosing.value.set_files(archive)


def test_choose_browse_check_and_import(dashboard, page: Page, faces: Path, tmp_path: Path) -> None:
    shutil.copytree(faces, dashboard.data_root / "faces")
    page.goto(dashboard.url)
    open_tab(page, "Data")
    expect(page.locator("#data-tab-summary")).to_contain_text("12 images")  # blobs, the first

    # choose: both tabs follow
    page.locator("#data-dataset input").click()
    page.get_by_role("option", name="faces", exact=True).click()
    expect(page.locator("#data-tab-summary")).to_contain_text("20 images")
    expect(page.locator("#field-dataset_path input")).to_have_value("faces")
    expect(page.locator("#data-counts")).to_contain_text("160 x 180")

    # browse: a split, the next image, round the corner
    page.locator("#data-split").get_by_text("test", exact=True).click()
    expect(page.locator("#data-caption")).to_contain_text("16.png")
    page.locator("#data-previous").click()
    expect(page.locator("#data-caption")).to_contain_text("19.png")
    page.locator("#data-next").click()
    expect(page.locator("#data-caption")).to_contain_text("16.png")

    page.locator("#data-number-typed input").fill("2")
    page.locator("#data-number-typed input").press("Tab")
    expect(page.locator("#data-caption")).to_contain_text("17.png")

    # the swapped pair comes first, and a click shows it close by
    expect(cell(page, "data-suspects", "seems to be swapped")).to_be_visible()
    cell(page, "data-suspects", "07.png").click()
    expect(page.locator("#data-caption")).to_contain_text("07.png")
    expect(page.locator("#data-picture")).to_contain_text("expected position")
    page.locator("#data-whole").click()
    expect(page.locator("#data-whole")).to_be_hidden()

    # a problem shows its image; one without a picture says so
    cell(page, "data-problems", "outside the image").click()
    expect(page.locator("#data-caption")).to_contain_text("03.png")
    cell(page, "data-problems", "gone.png is missing").click()
    expect(page.locator("#data-caption")).to_contain_text("not about a single image")

    # what a training sees
    expect(page.locator("#data-sigma-note")).to_contain_text("cells")
    expect(page.locator("#data-floor")).to_contain_text("perfect heatmaps")
    cell(page, "data-suspects", "07.png").click()
    page.locator("#data-draw").click()
    expect(page.locator("#data-views img")).to_have_count(8)
    expect(page.locator("#data-views")).to_contain_text("epoch 7")

    # import: refused with the reason, then taken and chosen
    bad, good = tmp_path / "bad.zip", tmp_path / "more.zip"
    with zipfile.ZipFile(bad, "w") as archive:
        archive.writestr("../evil.csv", "x")
    with zipfile.ZipFile(good, "w") as archive:
        for path in faces.iterdir():
            archive.write(path, f"download/{path.name}")
    upload(page, bad)
    expect(page.locator("#data-import-refused")).to_contain_text("outside its folder")
    upload(page, good)
    expect(page.locator("#data-import-refused")).to_be_hidden()
    expect(page.locator("#data-dataset input")).to_have_value("download")
    expect(page.locator("#data-tab-summary")).to_contain_text("20 images")
    assert sorted(path.name for path in dashboard.data_root.iterdir()) == ["blobs", "download", "faces"]


def test_in_persian_a_table_begins_at_the_right_under_its_heads(dashboard, page: Page, faces: Path) -> None:
    shutil.copytree(faces, dashboard.data_root / "faces")
    page.goto(f"{dashboard.url}/fa")
    open_tab(page, "داده‌ها")
    page.locator("#data-dataset input").click()
    page.get_by_role("option", name="faces", exact=True).click()
    expect(cell(page, "data-suspects", "07.png")).to_be_visible()

    heads = page.locator("#data-suspects th").all()
    cells = page.locator("#data-suspects tbody tr:first-child td").all()
    places = [(part.bounding_box() or {})["x"] for part in (*heads, *cells)]
    assert len(places) == 8 and places[:4] == sorted(places[:4], reverse=True)
    assert places[4:] == pytest.approx(places[:4], abs=2)
    cell(page, "data-suspects", "07.png").click()
    expect(page.locator("#data-caption")).to_contain_text("07.png")
