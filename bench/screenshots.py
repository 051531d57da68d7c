"""Take the documentation's pictures: `python bench/screenshots.py docs`.

Makes demo data and three small runs (minutes on two cores), serves the page over them, and saves a small PNG
of each tab in each language. Needs the development requirements and Chromium.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from backend.data.demo.dataset import create_demo_dataset  # noqa: E402
from backend.run.folder import RunFolder, list_runs  # noqa: E402
from bench.commands import evaluate, train  # noqa: E402
from ui.text.language import LANGUAGES, speaking  # noqa: E402
from ui.text.say import say  # noqa: E402

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
WIDTH, HEIGHT, COLOURS = 1280, 1000, 128
PATIENCE_MS = 300_000
SMALL = [
    "--model",
    "hrnet",
    "--image_size",
    128,
    128,
    "--batch_size",
    4,
    "--num_refiners",
    1,
    "--device",
    "cpu",
]
FINISHED = (["--epochs", 40, "--refine_epochs", 6], ["--epochs", 40, "--refine_epochs", 6, "--lr", 5e-4])
WATCHED, WATCHED_EPOCHS = ["--epochs", 60, "--refine_epochs", 6], 24  # pictured while it trains
Shown = Mapping[str, Callable[[Page, "Site"], Locator]]


def main() -> None:
    """Train, serve, open every tab, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder for data.png, data-fa.png, train.png ...")
    parser.add_argument(
        "--site",
        type=Path,
        help="folder of the data and the runs, to use them again; none: a temporary one",
    )
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    expect.set_options(timeout=PATIENCE_MS)
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as playwright:
        chromium = os.environ.get("FIDUCIAL_CHROMIUM", "/usr/bin/chromium")
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        site = Site((options.site or Path(temporary)).absolute())
        site.make()
        with site.served() as address:
            with site.training():
                take_pictures(browser, address, site, {"monitor": show_monitor}, options.out)
            take_pictures(browser, address, site, SHOWN, options.out)


class Site:
    """A folder with demo data and runs, and the dashboard over it."""

    def __init__(self, folder: Path) -> None:
        self.dataset, self.runs_dir = folder / "data" / "demo", folder / "runs"
        self.where = ["--runs_dir", self.runs_dir, "--dataset_path", self.dataset]

    def make(self) -> None:
        """Demo data, and two runs that are trained and evaluated."""
        if not self.dataset.is_dir():
            create_demo_dataset(self.dataset)
        for folder in list_runs(self.runs_dir):
            if not folder.evaluations():  # what an earlier call left
                shutil.rmtree(folder.path)
        for flags in FINISHED[len(self.finished()) :]:
            train([*SMALL, *flags, *self.where])
            folder = list_runs(self.runs_dir)[0]
            record_path, report_path = (
                folder.evaluation_path("demo-test", kind) for kind in ("json", "html")
            )
            asked = ["--dataset_path", self.dataset, "--split", "test", "--report", report_path]
            record_path.write_text(json.dumps(evaluate(folder.path, asked)))

    def finished(self) -> list[RunFolder]:
        """The two runs, newest first."""
        return [folder for folder in list_runs(self.runs_dir) if folder.evaluations()]

    def epochs_of_watched(self) -> int:
        """How far the third run is."""
        watched = [folder for folder in list_runs(self.runs_dir) if not folder.evaluations()]
        rows = watched[0].read_metrics()[0] if watched else []
        return int(rows[-1]["epoch"]) if rows else 0

    @contextmanager
    def training(self) -> Iterator[None]:
        """A third run, under way; stopped in the end."""
        command = [sys.executable, "train.py", *SMALL, *WATCHED, *self.where]
        process = subprocess.Popen([*map(str, command)], cwd=REPOSITORY)
        try:
            while self.epochs_of_watched() < WATCHED_EPOCHS:
                assert process.poll() is None, "the training ended before its time"
                time.sleep(1)
            yield
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()

    @contextmanager
    def served(self) -> Iterator[str]:
        """The address of the dashboard."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"http://127.0.0.1:{free.getsockname()[1]}"
        command = [sys.executable, "app.py", "--port", address.rpartition(":")[2]]
        command += ["--runs_dir", str(self.runs_dir), "--data_root", str(self.dataset.parent)]
        server = subprocess.Popen(command, cwd=REPOSITORY)
        try:
            wait_for(address)
            yield address
        finally:
            server.terminate()
            server.wait()


def take_pictures(browser: Browser, address: str, site: Site, shown: Shown, out: Path) -> None:
    """A picture of each tab in each language."""
    for language in LANGUAGES.values():
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.set_default_timeout(PATIENCE_MS)
        page.goto(f"{address}/{language.path}")
        expect(page.locator("#data-summary strong")).to_have_count(2)
        with speaking(language.code):
            for name, show in shown.items():
                last = show(page, site)
                page.mouse.move(0, 0)
                page.wait_for_timeout(1500)  # what moves has come to rest
                save_down_to(last, out / f"{name}{'-' * bool(language.path)}{language.path}.png")
        page.close()


def open_tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=say(f"tab_{name}"), exact=True).click()


def show_monitor(page: Page, site: Site) -> Locator:
    open_tab(page, "monitor")
    page.locator("#preview-0 .js-plotly-plot").wait_for()
    return page.locator("#landmarks")


def show_data(page: Page, site: Site) -> Locator:
    open_tab(page, "data")
    page.locator("#data-suspects").get_by_text("demo").last.click()
    expect(page.locator("#data-whole")).to_be_visible()
    expect(page.locator("#data-floor")).to_contain_text(re.compile(r"\d\.\d"))
    page.locator("#data-draw").click()
    expect(page.locator("#data-views img")).to_have_count(8)
    return page.locator("#data-views")


def show_train(page: Page, site: Site) -> Locator:
    open_tab(page, "train")
    page.locator("#recommend").click()
    expect(page.locator("#estimate strong")).not_to_have_count(0)
    page.locator("#memory-chart .js-plotly-plot").wait_for()
    return page.locator("#measure-note")


def show_runs(page: Page, site: Site) -> Locator:
    open_tab(page, "runs")
    page.locator("#runs-table").get_by_text(site.finished()[0].run_id, exact=True).last.click()
    page.locator("#evaluation-landmarks .js-plotly-plot").wait_for()
    return page.locator("#evaluation-curve")


def show_comparison(page: Page, site: Site) -> Locator:
    page.locator("#compare-panel > button").click()
    for folder in reversed(site.finished()):
        page.locator("#compare-chosen input").click()
        page.locator("#compare-chosen [role=option]").get_by_text(folder.run_id).click()
    page.locator("#compare-chosen input").press("Escape")
    page.locator("#paired-result table").wait_for()
    return page.locator("#compare-panel")


def show_predict(page: Page, site: Site) -> Locator:
    open_tab(page, "predict")
    images = sorted((site.dataset / "test" / "Cephalograms").iterdir())[:4]
    page.locator("#predict-files input[type=file]").set_input_files(images)
    expect(page.locator("#predict-images button")).to_have_count(len(images))
    page.locator("#predict-start").click()
    page.locator("#predict-annotator .mark").first.wait_for()
    return page.locator("#predict-annotator")


SHOWN = {
    "data": show_data,
    "train": show_train,
    "runs": show_runs,
    "comparison": show_comparison,
    "predict": show_predict,
}


def save_down_to(last: Locator, path: Path) -> None:
    """Save the page down to an element, as a palette: a third of the size, and nobody sees the difference."""
    page = last.page
    bottom = last.evaluate("element => element.getBoundingClientRect().bottom + window.scrollY")
    # a window of that height: the row of Start, which stays at the window's bottom, stands where it belongs
    page.set_viewport_size({"width": WIDTH, "height": round(bottom) + 16})
    page.evaluate("window.scrollTo(0, 0)")
    page.wait_for_timeout(500)
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    page.set_viewport_size({"width": WIDTH, "height": HEIGHT})
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size // 1024} KiB", flush=True)


def wait_for(address: str) -> None:
    """Until the page answers, a minute at most."""
    for _ in range(120):
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            time.sleep(0.5)
    raise SystemExit("the dashboard does not answer")


if __name__ == "__main__":
    main()
