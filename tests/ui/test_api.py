"""Each endpoint as a program calls it: `gradio_client` against a dashboard in a process of its own."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import httpx
import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from backend.config import ModelName
from backend.presets import PRESETS
from backend.run.folder import RunFolder
from backend.run.queue import read_queue
from backend.run.state import live_runs
from tests.dashboard import Dashboard
from tests.waiting import LIMIT_S, wait_for

pytestmark = pytest.mark.slow

API_PAGE = (Path(__file__).resolve().parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
ENDPOINTS = {"/start_run", "/run_status", "/stop_run", "/recommend_batch_size", "/predict"}
SMALL: dict[str, Any] = {
    "dataset_path": "demo", "image_size": [64, 64], "epochs": 2, "batch_size": 4, "refine": False,
    "device": "cpu",
}  # fmt: skip


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, tiny_dataset: Path) -> Iterator[Dashboard]:
    """One dashboard for all these tests, over the tiny data set under the name of the demo data."""
    dashboard = Dashboard(tmp_path_factory.mktemp("served"))
    shutil.copytree(tiny_dataset, dashboard.data_root / "demo")
    dashboard.start()
    yield dashboard
    dashboard.kill()
    dashboard.kill_workers()


@pytest.fixture
def client(served: Dashboard) -> Iterator[Client]:
    opened = Client(served.url, verbose=False, analytics_enabled=False, httpx_kwargs={"timeout": LIMIT_S})
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def trained(served: Dashboard) -> RunFolder:
    """A run with weights."""
    return served.train("--dataset_path", str(served.data_root / "demo"))


def ask(client: Client, name: str, *values: Any, **named: Any) -> Any:
    return client.predict(*values, api_name=f"/{name}", **named)


def free(served: Dashboard) -> None:
    """Wait for the processes of ended runs, which keep the device until they are gone."""
    wait_for(lambda: not live_runs(served.runs_dir), lambda: f"{live_runs(served.runs_dir)} do not end")


def reaches(client: Client, run_id: str, *states: str) -> dict[str, Any]:
    def status() -> dict[str, Any]:
        found: dict[str, Any] = ask(client, "run_status", run_id)
        return found

    def reached() -> dict[str, Any] | None:
        found = status()
        return found if found["state"] in states else None

    return wait_for(reached, lambda: f"{status()} never was {states}")


def test_the_api_has_five_endpoints_each_with_words_and_typed_parameters(served: Dashboard) -> None:
    info = httpx.get(f"{served.url}/gradio_api/info", timeout=LIMIT_S).json()
    assert set(info["named_endpoints"]) == ENDPOINTS
    assert not info["unnamed_endpoints"]
    for name, endpoint in info["named_endpoints"].items():
        assert len(endpoint["description"]) > 20, name
        assert endpoint["parameters"], name
        for parameter in endpoint["parameters"]:
            assert parameter["label"] == parameter["parameter_name"], name
            assert parameter["type"], (name, parameter)
            assert parameter["python_type"]["type"] not in ("", "Any"), (name, parameter)
            assert parameter["python_type"]["description"], (name, parameter)
            assert "<" not in parameter["python_type"]["description"], "names were left out"
        (returned,) = endpoint["returns"]
        assert returned["type"], name
    descriptions = {
        parameter["label"]: parameter["python_type"]["description"]
        for name in ("/recommend_batch_size", "/start_run")
        for parameter in info["named_endpoints"][name]["parameters"]
    }
    assert descriptions["model"] == f"the network: {', '.join(get_args(ModelName))}"
    assert ", ".join(PRESETS) in descriptions["preset"]
    for page in ("", "fa"):
        shown = httpx.get(f"{served.url}/gradio_api/info", params={"page": page}, timeout=LIMIT_S).json()
        assert set(shown["named_endpoints"]) == (set() if page else ENDPOINTS)


def test_a_run_is_started_watched_and_stopped(client: Client, served: Dashboard) -> None:
    run_id = ask(client, "start_run", {**SMALL, "epochs": 2000}, "fast")
    folder = RunFolder(served.runs_dir / run_id)
    settings = folder.read_config()["settings"]
    assert settings["image_size"] == [64, 64]
    assert settings["warmup_epochs"] == PRESETS["fast"].values["warmup_epochs"]
    assert settings["dataset_path"] == str(served.data_root / "demo")
    assert folder.read_config()["chosen"]["preset"]["value"] == "fast"
    wait_for(lambda: ask(client, "run_status")["best"] is not None)
    status = ask(client, "run_status")
    assert status["run_id"] == run_id
    assert (status["state"], status["phase"], status["num_epochs"]) == ("running", "train", 2000)
    assert 1 <= status["epoch"] < 2000 and status["seconds_left"] > 0
    assert status["best"]["mre_mm"] == pytest.approx(0.5 * status["best"]["mre_px"])
    assert status["outcome"] is None and status["folder"] == str(folder.path)

    # the device is taken: refused, or queued on request, and taken out of the queue again
    with pytest.raises(AppError, match=f"run {run_id} is training on cpu; call with queue=True"):
        ask(client, "start_run", SMALL)
    waiting = ask(client, "start_run", SMALL, queue=True)
    assert read_queue(served.runs_dir) == [waiting]
    assert ask(client, "run_status", waiting)["state"] == "queued"
    assert ask(client, "stop_run", waiting)["state"] == "created"
    assert read_queue(served.runs_dir) == []

    assert ask(client, "stop_run", run_id)["state"] in ("stopping", "finished_early")
    ended = reaches(client, run_id, "finished_early")
    assert ended["outcome"]["state"] == "finished_early" and ended["outcome"]["reason"]
    assert ended["seconds_left"] is None
    with pytest.raises(AppError, match=f"run_id: {run_id} is not training"):
        ask(client, "stop_run", run_id)


def test_a_run_is_cancelled_where_its_best_is_not_wanted(client: Client, served: Dashboard) -> None:
    free(served)
    run_id = ask(client, "start_run", {**SMALL, "epochs": 2000})
    reaches(client, run_id, "running")
    ask(client, "stop_run", run_id, keep_best=False)
    reaches(client, run_id, "stopped")


def test_a_batch_is_recommended_as_on_the_command_line(client: Client) -> None:
    found = ask(
        client, "recommend_batch_size", 3, "unet", [64, 64], num_images=40, settings={"device": "cpu"}
    )
    assert 2 <= found["recommended_batch_size"] <= 4
    assert str(found["recommended_batch_size"]) in found["reason"]
    assert found["device"] == "cpu" and 0 < found["free_bytes"] <= found["total_bytes"]
    larger = ask(client, "recommend_batch_size", 3, "unet", [256, 256], settings={"device": "cpu"})
    assert larger["predicted_bytes"]["2"] > found["predicted_bytes"]["2"]


def test_an_automatic_batch_is_chosen_and_its_reason_kept(client: Client, served: Dashboard) -> None:
    run_id = ask(client, "start_run", {**SMALL, "batch_size": "auto"}, queue=True)
    chosen = RunFolder(served.runs_dir / run_id).read_config()["chosen"]["batch_size"]
    assert chosen["value"] == 2 and "with only 11 training images" in chosen["reason"]
    reaches(client, run_id, "completed")


def test_landmarks_are_found_and_nothing_is_kept_of_the_images(
    client: Client, served: Dashboard, trained: RunFolder
) -> None:
    images = [handle_file(served.data_root / "demo" / name) for name in ("00.png", "01.png")]
    found = ask(client, "predict", trained.run_id, images, 0.5)
    assert found["landmark_names"] == ["nose", "chin", "ear"]
    assert [image["image"] for image in found["images"]] == ["00.png", "01.png"]
    for image in found["images"]:
        assert (image["width"], image["height"]) == (80, 96)
        for landmark in image["landmarks"].values():
            assert np.all((np.array(landmark["xy"]) >= 0) & (np.array(landmark["xy"]) <= (80, 96)))
            assert landmark["xy_mm"] == pytest.approx(np.array(landmark["xy"]) * 0.5, abs=0.01)
            assert 0 <= landmark["confidence"] <= 1
    plain = ask(client, "predict", trained.run_id, images[:1])
    assert plain["images"][0]["landmarks"]["nose"]["xy_mm"] is None


def test_numbers_are_read_as_the_form_reads_them(
    client: Client, served: Dashboard, trained: RunFolder
) -> None:
    typed = {
        "epochs": "۲",
        "batch_size": "٤",
        "image_size": ["۶۴", "64.0"],
        "lr": "0,001",
        "val_fraction": "۰٫۲",
    }
    run_id = ask(client, "start_run", {**SMALL, **typed}, queue=True)
    settings = RunFolder(served.runs_dir / run_id).read_config()["settings"]
    numbers = {"epochs": 2, "batch_size": 4, "image_size": [64, 64], "lr": 0.001, "val_fraction": 0.2}
    assert {key: settings[key] for key in typed} == numbers
    reaches(client, run_id, "completed")
    image = handle_file(served.data_root / "demo" / "00.png")
    (found,) = ask(client, "predict", trained.run_id, [image], "۰٫۵")["images"]
    assert found["landmarks"]["nose"]["xy_mm"] == pytest.approx(
        np.array(found["landmarks"]["nose"]["xy"]) * 0.5, abs=0.01
    )
    assert ask(client, "recommend_batch_size", "۳", "unet", ["۶۴", 64])["recommended_batch_size"] >= 2


def one_of(names: Sequence[str]) -> str:
    """Names as a mistake lists them: 'a', 'b' or 'c'."""
    *others, last = map(repr, names)
    return f"{', '.join(others)} or {last}"


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("start_run", [{**SMALL, "lr": -1}], "lr: should be greater than 0"),
        ("start_run", [{**SMALL, "leraning_rate": 1}], "leraning_rate: unknown setting; known are"),
        (
            "start_run",
            [{**SMALL, "dataset_path": "../demo"}],
            "dataset_path: there is no data set '../demo'",
        ),
        (
            "start_run",
            [{**SMALL, "dataset_path": "/data/../etc"}],
            "choose one of demo, or give an absolute path",
        ),
        ("start_run", [{**SMALL, "dataset_path": "/nowhere"}], "/nowhere does not exist"),
        ("start_run", [{}], "dataset_path: there is no data set ''"),
        ("start_run", [{**SMALL, "flip_pairs": "nose=tail"}], "flip_pairs: 'nose=tail' is not a pair"),
        (
            "start_run",
            [{**SMALL, "refine": True, "first_network": __file__}],
            "test_api.py cannot be read as a checkpoint",
        ),
        (
            "start_run",
            [SMALL, "quick"],
            "preset: there is no preset quick; choose one of fast, balanced, best",
        ),
        ("start_run", ["epochs=2"], "settings: Input should be a valid dictionary; the API page"),
        ("run_status", ["../../etc"], "run_id: there is no run '../../etc'"),
        ("stop_run", [""], "run_id: there is no run ''"),
        ("stop_run", [".."], "run_id: there is no run '..'"),
        (
            "recommend_batch_size",
            [0],
            "num_landmarks: must be at least 1, got 0; give a whole number, 1 or more",
        ),
        ("recommend_batch_size", [3, "vgg"], f"model: should be {one_of(get_args(ModelName))}"),
        ("recommend_batch_size", [3, "unet", [250, 64]], "the nearest that fit are 224 and 256"),
        ("recommend_batch_size", ["many"], "num_landmarks: 'many' is not a number; write it such as 20"),
        ("recommend_batch_size", [2.5], "num_landmarks: 2.5 is not a whole number; write 2 or 3"),
        ("recommend_batch_size", [3, "unet", [64, True]], "image_size: True is not a number"),
        ("start_run", [{**SMALL, "epochs": 2.5}], "epochs: 2.5 is not a whole number; write 2 or 3"),
        ("start_run", [{**SMALL, "lr": "1,000"}], "lr: '1,000' can mean 1.000 or 1000"),
    ],
)
def test_a_mistake_is_told_in_one_line(client: Client, name: str, values: list[Any], message: str) -> None:
    with pytest.raises(AppError) as caught:
        ask(client, name, *values)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_prediction_takes_uploads_alone(
    client: Client, served: Dashboard, trained: RunFolder, tmp_path: Path
) -> None:
    inside = str(served.data_root / "demo" / "00.png")
    # as a client sends what it has not uploaded: a path, or a file's description without its mark
    for image in (inside, {"path": inside}, {"path": "/etc/passwd"}, {"name": "x"}):
        with pytest.raises(AppError, match="images: each image must be uploaded: wrap its path in"):
            ask(client, "predict", trained.run_id, [image])
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"nonsense")
    for run_id, images, mm_per_px, message in (
        (trained.run_id, [], None, "images: no image was given"),
        (trained.run_id, [handle_file(inside)], -1, "mm_per_px: -1.0 is not a pixel size"),
        (trained.run_id, [handle_file(bad)], None, "bad.png"),
        ("..", [handle_file(inside)], None, "run_id: there is no run '..'"),
    ):
        with pytest.raises(AppError, match=re.escape(message)):
            ask(client, "predict", run_id, images, mm_per_px)


def test_long_calls_leave_the_others_their_answers(client: Client) -> None:
    """More recommendations than run at once wait in their own queue; later calls are answered first."""
    jobs = [
        client.submit(3, "unet", [side, side], api_name="/recommend_batch_size")
        for side in (96, 160, 192) * 4
    ]
    ask(client, "run_status")
    assert not all(job.done() for job in jobs)
    for job in jobs:
        job.cancel()


def test_the_example_of_the_documentation_works(served: Dashboard, tmp_path: Path) -> None:
    free(served)
    (example,) = re.findall(r"```python\n(.*?gradio_client.*?)```", API_PAGE, re.DOTALL)
    shutil.copy(served.data_root / "demo" / "00.png", tmp_path / "image.png")
    script = example.replace("http://127.0.0.1:7860", served.url)
    assert script != example
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, check=False, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"completed \d+\.\d+ mm", done.stdout)
    assert re.search(r"nose \[.*\] mm", done.stdout)
