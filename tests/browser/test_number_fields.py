"""Numbers as people type them, in both languages, on a desk and on a phone."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, Page, expect

from backend.run.folder import list_runs
from tests.browser.on_page import fill, open_tab
from tests.browser.view import DESK, PHONE, opened_page
from ui.text.language import LANGUAGES, speaking
from ui.text.say import say

pytestmark = pytest.mark.browser
SMALL = {"image_height": "٦٤", "image_width": "64", "batch_size": "۴"}


def type_in(page: Page, key: str, typed: str) -> None:
    """As a person does, key by key: a browser's own number input would drop what it does not know."""
    field = page.locator(f"#field-{key} input")
    field.press("ControlOrMeta+a")
    page.keyboard.insert_text(typed[:1])
    for letter in typed[1:]:
        page.keyboard.insert_text(letter)
    field.press("Tab")


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_is_typed_is_what_is_taken(dashboard, page: Page, language: str) -> None:
    page.goto(f"{dashboard.url}/{LANGUAGES[language].path}")
    expect(page.locator("#start")).to_be_enabled()
    lr, epochs = page.locator("#field-lr"), page.locator("#field-epochs")
    command, start = page.locator("#command"), page.locator("#start")

    for typed, taken in (("0,001", "0.001"), ("۰٫۰۰۲", "0.002"), ("٠.٠٠٣", "0.003"), ("1e-4", "0.0001")):
        type_in(page, "lr", typed)
        expect(lr).to_contain_text(f"= {taken}")
        expect(lr.locator("input")).to_have_value(typed)
        expect(command).to_contain_text(f"--lr {taken}")
    type_in(page, "lr", "0.004")
    expect(lr).not_to_contain_text("=")
    expect(command).to_contain_text("--lr 0.004")

    # refused where it stands, and nothing can be started; the cure is a number away
    for typed, cure in (
        ("2.5", "write 2 or 3"),
        ("۲٫۵", "write 2 or 3"),
        ("1,000", "can mean 1.000 or 1000"),
        ("x", "20"),
    ):
        type_in(page, "epochs", typed)
        expect(epochs).to_contain_text(cure)
        expect(epochs.locator("input")).to_have_value(typed)
        expect(start).to_be_disabled()
    type_in(page, "epochs", "۳")
    expect(epochs).to_contain_text("= 3")
    expect(epochs).not_to_contain_text("2.5")
    expect(start).to_be_enabled()

    # what was typed is started
    fill(page, **SMALL)
    page.locator("#field-refine input").uncheck()
    expect(command).to_contain_text("--image_size 64 64 --batch_size 4 --loss kl --lr 0.004 --epochs 3")
    start.click()
    expect(page.locator("#run-card")).to_be_visible()
    (run,) = list_runs(dashboard.runs_dir)
    settings = run.read_config()["settings"]
    assert (settings["lr"], settings["epochs"], settings["image_size"]) == (0.004, 3, [64, 64])

    # the draft that the browser kept is shown as it was understood
    page.reload()
    page.get_by_role("tab").nth(1).click()
    expect(epochs.locator("input")).to_have_value("3")
    expect(page.locator("#field-image_height input")).to_have_value("64")


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_a_phone_offers_digits_in_every_field_of_numbers(dashboard, chromium: Browser, width: int) -> None:
    with opened_page(chromium, width) as page:
        page.goto(dashboard.url)
        expect(page.locator("#start")).to_be_enabled()
        page.get_by_text(say("advanced"), exact=True).click()
        for key, mode in (
            ("epochs", "numeric"),
            ("lr", "decimal"),
            ("sigma", "decimal"),
            ("seed", "numeric"),
        ):
            expect(page.locator(f"#field-{key} input")).to_have_attribute("inputmode", mode)
            expect(page.locator(f"#field-{key} input")).to_have_attribute("type", "text")
        type_in(page, "epochs", "2.5")  # a mark leaves it as it is
        expect(page.locator("#field-epochs")).to_contain_text("write 2 or 3")
        expect(page.locator("#field-epochs input")).to_have_attribute("inputmode", "numeric")
        type_in(page, "sigma", "")  # its keyboard has no letters for auto
        expect(page.locator("#field-sigma input")).to_have_attribute("placeholder", "auto")
        type_in(page, "epochs", "3")
        expect(page.locator("#start")).to_be_enabled()
        for name in ("Data", "Monitor", "Predict", "Runs"):
            open_tab(page, name)
            page.wait_for_timeout(500)
            for box in page.locator("input[type=number]").all():  # those of sliders give way to ours
                expect(box).to_be_hidden()
        open_tab(page, "Predict")
        expect(page.locator("#predict-spacing input")).to_have_attribute("inputmode", "decimal")


def test_a_number_can_be_typed_beside_a_slider(dashboard, page: Page) -> None:
    page.goto(f"{dashboard.url}/fa")
    with speaking("fa"):
        open_tab(page, say("tab_data"))
    typed, caption = page.locator("#data-number-typed input"), page.locator("#data-caption")
    expect(caption).to_contain_text("train")
    first = caption.inner_text()
    expect(typed).to_have_attribute("inputmode", "numeric")
    typed.fill("۳")
    typed.press("Enter")
    expect(caption).not_to_have_text(first)
    expect(typed).to_have_value("3")
    third = caption.inner_text()
    with speaking("fa"):
        outside = say("number_outside", number=99, minimum=1, maximum=12)
    for wrong, cure in (("2.5", "write 2 or 3"), ("99", outside)):
        typed.fill(wrong)
        typed.press("Tab")
        expect(page.locator("#data-number")).to_contain_text(cure)
        expect(typed).to_have_value(wrong)
    expect(caption).to_have_text(third)
    page.locator("#data-previous").click()  # another place: the mistake is over
    expect(typed).to_have_value("2")
    expect(page.locator("#data-number")).not_to_contain_text("99")
    page.locator("#data-number input[type=range]").press("ArrowLeft")
    expect(typed).to_have_value("1")
    expect(caption).to_have_text(first)


def test_a_landmarks_place_is_typed_with_every_digit(dashboard, page: Page) -> None:
    dashboard.train("--lr", "0.001")
    page.goto(dashboard.url)
    open_tab(page, "Predict")
    page.locator("#predict-files input[type=file]").set_input_files(dashboard.data_root / "blobs" / "00.png")
    spacing = page.locator("#predict-spacing")
    for wrong in ("0", "-1", "1,000"):
        spacing.locator("input").fill(wrong)
        expect(spacing).to_contain_text(wrong)
    spacing.locator("input").fill("۰٫۵")
    expect(spacing).to_contain_text("= 0.5")
    page.locator("#predict-start").click()
    expect(page.locator("#predict-annotator .mark")).to_have_count(3)
    expect(page.locator("#predict-annotator")).to_contain_text("0.5 mm per pixel (typed)")

    x, y = (page.get_by_label(f"chin {axis}, px") for axis in "xy")
    expect(x).to_have_attribute("inputmode", "decimal")
    x.fill("۱۲٫۲۵")
    x.press("Enter")
    y.fill("33,25")
    y.press("Tab")
    expect(x).to_have_value("12.25")
    expect(y).to_have_value("33.25")
    row = page.locator("#predict-annotator tbody tr").nth(1)
    for wrong, cure in (
        ("500", "500 is not between -0.5 and 79.5"),
        ("1.2.3", "more than one separator"),
        ("x", "not a number"),
    ):
        x.fill(wrong)
        x.press("Tab")
        expect(row).to_contain_text(cure)
        expect(x).to_have_value(wrong)
        expect(x).to_have_attribute("aria-invalid", "true")
    y.fill("40")
    y.press("Tab")  # the landmark moves: what was refused gives way to where it is
    expect(row).not_to_contain_text("not a number")
    expect(x).to_have_value("12.25")
    expect(y).to_have_value("40.00")
    x.fill("")
    x.press("Tab")
    y.fill("")
    y.press("Enter")
    expect(page.locator("#predict-annotator .mark").nth(1)).to_be_hidden()
