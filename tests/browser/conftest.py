"""A dashboard of its own for each test, and a browser that notes every host it is asked to speak to."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlparse

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from tests.dashboard import Dashboard

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE_MS = 90_000  # two cores that also train may be slow to answer; no test asserts a time

expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture
def dashboard(tmp_path: Path, tiny_dataset: Path) -> Iterator[Dashboard]:
    """A dashboard over the tiny data set and no runs."""
    served = Dashboard(tmp_path)
    shutil.copytree(tiny_dataset, served.data_root / "blobs")
    served.start()
    yield served
    served.kill()
    served.kill_workers()


@pytest.fixture
def page() -> Iterator[Page]:
    """A Chromium page; the test fails where the page asked anything of another host."""
    chromium = os.environ.get("FIDUCIAL_CHROMIUM", "/usr/bin/chromium")
    if not Path(chromium).exists():
        missing = f"no Chromium at {chromium}; install it or set FIDUCIAL_CHROMIUM"
        if os.environ.get("FIDUCIAL_REQUIRE_BROWSER"):
            pytest.fail(missing)
        pytest.skip(missing)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        context = browser.new_context(viewport={"width": 1400, "height": 1000}, accept_downloads=True)
        opened = context.new_page()
        opened.set_default_timeout(PATIENCE_MS)
        strangers: set[str] = set()

        def note(url: str) -> None:
            host = urlparse(url).hostname
            if host not in (None, "127.0.0.1"):
                strangers.add(url)

        opened.on("request", lambda request: note(request.url))
        yield opened
        browser.close()
    assert not strangers
