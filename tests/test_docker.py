"""Dockerfile and compose.yaml: what must hold of them, without Docker, which need not be here."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import app
from backend.cache import cache_folder
from backend.device.container import is_container
from backend.run.stop_all import longest_wait_s
from install.torch_builds import CUDA_BUILDS, INDEX
from ui.health import HEALTH_PATH

REPOSITORY = Path(__file__).resolve().parents[1]
DOCKERFILE = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load((REPOSITORY / "compose.yaml").read_text(encoding="utf-8"))


def instructions(stage: int) -> list[tuple[str, str]]:
    """The instructions of a stage, each on one line, without comments."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE).replace("\\\n", " ")
    lines = re.split(r"^(?=FROM )", text, flags=re.MULTILINE)[stage].splitlines()
    return [
        (word, " ".join(rest.split())) for word, _, rest in (line.partition(" ") for line in lines) if word
    ]


def values(name: str, stage: int = -1) -> list[str]:
    return [rest for word, rest in instructions(stage) if word == name]


def environment() -> dict[str, str]:
    return dict(pair.split("=", 1) for line in values("ENV") for pair in line.split())


def test_hadolint_finds_nothing() -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed; there is none for Windows")
    done = subprocess.run([hadolint, str(REPOSITORY / "Dockerfile")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_everything_that_is_copied_is_there_and_not_ignored() -> None:
    lines = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "*"
    let_in = {line[1:] for line in lines if line.startswith("!")}
    copied = [line.split()[:-1] for stage in (1, 2) for line in values("COPY", stage) if "--from" not in line]
    sources = {source for line in copied for source in line}
    assert sources == let_in
    assert not [source for source in sources if not (REPOSITORY / source).exists()]


def test_the_program_runs_without_rights_and_owns_the_volume() -> None:
    (user,) = values("USER")
    assert int(user) > 0  # a number: Kubernetes refuses a name that it cannot look up
    words = [word for word, _ in instructions(-1)]
    assert words.index("USER") > words.index("RUN") and words.index("USER") < words.index("CMD")
    (run,) = values("RUN")
    (name,) = re.findall(rf"useradd --uid {user} --create-home (\w+)", run)
    assert f"-o {name} -g {name} /data" in run
    assert values("VOLUME") == ["/data"]


def test_all_that_is_written_lies_in_the_volume(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    (command,) = values("CMD")
    options = app._parser().parse_args(json.loads(command)[2:])
    for folder in (options.runs_dir, options.data_root, cache_folder()):
        assert folder.is_relative_to("/data")
    for name in ("XDG_CACHE_HOME", "CUDA_CACHE_PATH"):
        assert environment()[name].startswith("/data/")


def test_it_gets_the_signal_and_knows_that_it_is_in_a_container() -> None:
    (command,), (check,) = values("CMD"), values("HEALTHCHECK")
    assert json.loads(command)[:2] == ["python", "app.py"]  # in exec form: a shell would keep the signal
    assert not values("ENTRYPOINT") and values("STOPSIGNAL") == ["SIGTERM"]
    assert is_container(Path("/nowhere"), environment())
    assert HEALTH_PATH in check


def test_the_health_check_asks_the_port_that_is_served() -> None:
    from backend.address import take_address

    assert take_address(None, None, None, environment()).host == "0.0.0.0"
    assert [environment()["GRADIO_SERVER_PORT"]] == values("EXPOSE")
    (check,) = values("HEALTHCHECK")
    code = json.loads(check[check.index("[") :])[2]
    compile(code, "HEALTHCHECK", "exec")
    assert "GRADIO_SERVER_PORT" in code


def test_torch_comes_from_the_index_of_the_card() -> None:
    (index,) = [line.partition("=")[2] for line in values("ARG", 1)]
    assert index == CUDA_BUILDS[0].index
    (install,) = values("RUN", 1)
    assert install.index('--index-url "$TORCH_INDEX" -r torch.txt') < install.index("-r requirements.lock")


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_a_service_of_compose(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["profiles"] == [name]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])  # the page has no login
    (volume,) = service["volumes"]
    assert volume.split(":") == [next(iter(COMPOSE["volumes"])), "/data"]
    assert service["init"] is True and service["shm_size"] == "4g"
    minutes = int(re.fullmatch(r"(\d+)m", service["stop_grace_period"])[1])
    assert minutes * 60 > longest_wait_s() + 10
    assert set(service["build"]["args"]) <= {line.partition("=")[0] for line in values("ARG", 1)}
    assert INDEX in service["build"]["args"]["TORCH_INDEX"]


def test_the_documentation_says_how_long_it_waits() -> None:
    for page in ("docs/server.md", "docs/fa/server.md"):
        assert f" {longest_wait_s():.0f} " in (REPOSITORY / page).read_text(encoding="utf-8")


def test_only_the_service_for_a_gpu_reserves_one() -> None:
    (device,) = COMPOSE["services"]["gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    assert "deploy" not in COMPOSE["services"]["cpu"]
