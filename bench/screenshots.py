"""Take the README's pictures: `python bench/screenshots.py docs`.

Serves the page over the given runs (one should be training, or have trained) and data, and saves a small PNG of
each tab. Needs the development requirements and Chromium.
"""

from __future__ import annotations

import argparse
import io
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

REPOSITORY = Path(__file__).resolve().parents[1]
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
PORT = 7899
WIDTH, HEIGHT, COLOURS = 1280, 1400, 240


def main() -> None:
    """Serve, open every tab, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder for train.png, monitor.png and runs.png")
    parser.add_argument("--runs_dir", type=Path, default=REPOSITORY / "runs")
    parser.add_argument("--data_root", type=Path, default=REPOSITORY / "data")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "app.py", "--port", str(PORT)]
    command += ["--runs_dir", str(options.runs_dir), "--data_root", str(options.data_root)]
    server = subprocess.Popen(command, cwd=REPOSITORY)
    try:
        take_pictures(options.out)
    finally:
        server.terminate()
        server.wait()


def take_pictures(out: Path) -> None:
    """One picture a tab, once its plots are drawn."""
    wait_for_server()
    with sync_playwright() as playwright:
        chromium = os.environ.get("FIDUCIAL_CHROMIUM", "/usr/bin/chromium")
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.goto(f"http://127.0.0.1:{PORT}")
        page.locator("#sample .js-plotly-plot, #losses .js-plotly-plot").first.wait_for(timeout=60_000)
        for tab in ("Train", "Monitor", "Runs"):
            page.get_by_role("tab", name=tab, exact=True).click()
            prepare(page, tab)
            save_small(page.screenshot(full_page=tab == "Train"), out / f"{tab.lower()}.png")
        browser.close()


def prepare(page: Page, tab: str) -> None:
    """Wait for what the tab shows last."""
    if tab == "Train":
        page.locator("#estimate", has_text="an epoch").or_(
            page.locator("#estimate", has_text="not measured")
        ).wait_for(timeout=90_000)
    if tab == "Monitor":
        page.locator("#preview-0 .js-plotly-plot").wait_for(timeout=60_000)
    if tab == "Runs":
        page.locator("#runs-table").get_by_text("completed").last.click()
        page.locator("#files").wait_for()
    page.wait_for_timeout(2500)


def save_small(png: bytes, path: Path) -> None:
    """A palette of 240 colours makes a third of the size, and nobody sees the difference."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size // 1024} KiB")


def wait_for_server() -> None:
    """Until the page answers, a minute at most."""
    for _ in range(120):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{PORT}", timeout=5).close()
            return
        except OSError:
            time.sleep(0.5)
    raise SystemExit("the dashboard does not answer")


if __name__ == "__main__":
    main()
