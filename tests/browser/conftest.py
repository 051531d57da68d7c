"""A dashboard of its own for each test, and a browser that notes every host it is asked to speak to."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from backend.run.folder import RunFolder, list_runs
from tests.browser.axe import GradioMakesIt
from tests.browser.view import DESK, PATIENCE_MS, PHONE, View, opened_page, opened_view
from tests.dashboard import REPOSITORY, Dashboard, served_over
from ui.text.language import LANGUAGES

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The dashboards of all processes that run tests share what was predicted and measured: each form is
    asked of torch once, which takes a process of several seconds."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FIDUCIAL_CACHE_DIR", str(shared / "cache of the dashboards"))
        yield


@pytest.fixture(scope="session")
def server(
    tmp_path_factory: pytest.TempPathFactory, tiny_dataset: Path, shared_cache: None
) -> Iterator[Dashboard]:
    """Serve one dashboard for all tests: a start costs ten seconds of a processor."""
    with served_over(tmp_path_factory.mktemp("dashboard"), tiny_dataset) as served:
        yield served


@pytest.fixture
def dashboard(server: Dashboard) -> Dashboard:
    """A dashboard over the tiny data set and no runs."""
    server.begin_anew()
    return server


@pytest.fixture(scope="module")
def shared_dashboard(server: Dashboard) -> Dashboard:
    """The same with two runs, both evaluated on `train`, shared by the tests that a module ends with."""
    server.begin_anew()
    for lr in ("0.001", "0.002"):
        evaluate(server.train("--lr", lr), server.data_root / "blobs", "train")
    return server


@pytest.fixture(scope="module")
def evaluated_runs(shared_dashboard: Dashboard) -> tuple[str, str]:
    """The ids of the two runs that the shared dashboard began with, the older one first."""
    newer, older = (folder.run_id for folder in list_runs(shared_dashboard.runs_dir) if folder.evaluations())
    return older, newer


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One browser a module: tests after it may want an event loop of their own."""
    path = os.environ.get("FIDUCIAL_CHROMIUM", "/usr/bin/chromium")
    if not Path(path).exists():
        missing = f"no Chromium at {path}; install it or set FIDUCIAL_CHROMIUM"
        if os.environ.get("FIDUCIAL_REQUIRE_BROWSER"):
            pytest.fail(missing)
        pytest.skip(missing)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    """A page of a usual width."""
    with opened_page(chromium, 1400) as page:
        yield page


@pytest.fixture(
    scope="module", params=[(language, width) for language in LANGUAGES for width in (PHONE, DESK)], ids=str
)
def view(
    request: pytest.FixtureRequest,
    chromium: Browser,
    shared_dashboard: Dashboard,
    excepted: set[GradioMakesIt],
) -> Iterator[View]:
    """Open the shared dashboard in each language, on a phone and on a desk: one page for all tabs."""
    with opened_view(chromium, shared_dashboard.url, *request.param, excepted) as view:
        yield view


@pytest.fixture(scope="module")
def excepted() -> set[GradioMakesIt]:
    """What of Gradio's own breaks a rule of axe's on the views of a module."""
    return set()


def evaluate(folder: RunFolder, dataset: Path, split: str) -> None:
    """Measure a run's best weights as the page does."""
    command = [sys.executable, "-m", "backend.evaluate", "--checkpoint", folder.checkpoint_path("best")]
    command += ["--dataset_path", dataset, "--split", split]
    record, report = (folder.evaluation_path(f"{dataset.name}-{split}", kind) for kind in ("json", "html"))
    command += ["--json", record, "--report", report]
    subprocess.run([*map(str, command)], cwd=REPOSITORY, check=True, capture_output=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a file, or of one view of it, in one process: they share a dashboard's runs."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            callspec = getattr(item, "callspec", None)  # of a parametrized test
            view = callspec.params.get("view") if callspec else None
            item.add_marker(pytest.mark.xdist_group(f"{item.path.name} {view}"))
