"""What tests share, and what makes them independent of the machine that they run on."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

# One thread, here and in the processes that tests start, however many cores there are: the last bits of a
# loss and the memory of a step depend on it. Set before torch is imported, which reads them then.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

# hypothesis would fail an example that takes longer than 0.2 s, as any does on a machine that is busy enough
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


FAST_CPU_S = 5.0  # several times what the slowest unmarked test takes on an idle machine


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Note an unmarked test that costs seconds of a processor. It does not fail: a machine may be slow."""
    before = cpu_s()
    yield
    taken = cpu_s() - before
    if taken > FAST_CPU_S and not any(item.get_closest_marker(name) for name in ("slow", "browser")):
        item.user_properties.append(("mark it slow", f"{item.nodeid} took {taken:.1f} s of a processor"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List the tests that would make `make test-fast` slow."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
    for name, words in (pair for report in reports for pair in report.user_properties):
        terminalreporter.write_line(f"{name}: {words}")


def cpu_s() -> float:
    """Seconds of a processor taken by this process and by those it started that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets: FIDUCIAL_SHARED_DATA, else ../shared/data beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("FIDUCIAL_SHARED_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"the real data is not in {folder}; set FIDUCIAL_SHARED_DATA")
    return folder


@pytest.fixture(scope="session")
def shared_cases() -> Path:
    """The folder of small inputs that once went wrong: FIDUCIAL_SHARED_CASES, else ../shared/cases beside the
    repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "cases"
    folder = Path(os.environ.get("FIDUCIAL_SHARED_CASES", beside))
    if not folder.is_dir():
        pytest.skip(f"the cases are not in {folder}; set FIDUCIAL_SHARED_CASES")
    return folder


@pytest.fixture(scope="session")
def tiny_dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wide-CSV data set: 12 grey images of 96 x 80 pixels, 0.5 mm each, with three bright blobs."""
    folder = tmp_path_factory.mktemp("tiny_dataset")
    rng = np.random.default_rng(0)
    names = ("nose", "chin", "ear")
    y, x = np.mgrid[:96, :80]
    with (folder / "annotations.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "mm_per_px", *(f"{name}_{axis}" for name in names for axis in "xy")])
        for number in range(12):
            centres = np.array([[20.0, 25.0], [56.0, 40.0], [34.0, 72.0]]) + rng.uniform(-6, 6, (3, 2))
            squares = [((x - cx) ** 2 + (y - cy) ** 2) / 2 for cx, cy in centres]
            pixels = 30 + sum(
                height * np.exp(-d / width**2)
                for height, width, d in zip((220, 140, 200), (2.0, 4.0, 6.0), squares, strict=True)
            )
            name = f"{number:02d}.png"
            cv2.imwrite(str(folder / name), np.clip(pixels, 0, 255).astype(np.uint8))
            writer.writerow([name, 0.5, *(f"{value:.3f}" for value in centres.ravel())])
    return folder


@pytest.fixture
def dataset_in_shares(tiny_dataset: Path, tmp_path: Path) -> Path:
    """Copy the tiny data set with its coordinates as shares of width and height, which is implausible."""
    folder = tmp_path / "in shares"
    shutil.copytree(tiny_dataset, folder)
    with (folder / "annotations.csv").open(newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    with (folder / "annotations.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        for name, spacing, *values in rows:
            sides = (80, 96) * (len(values) // 2)
            shares = [f"{float(v) / side:.5f}" for v, side in zip(values, sides, strict=True)]
            writer.writerow([name, spacing, *shares])
    return folder


@pytest.fixture
def threads_of_its_own() -> Iterator[None]:
    """For a test that sets the number of torch's threads."""
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests, and the processes they start, leave the user's cache folder alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FIDUCIAL_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield
