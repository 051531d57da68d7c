"""start.py: which Python, which torch for which card and system, what is installed, what pip's faults mean.

The answers of `nvidia-smi` are made up after NVIDIA's manual; the systems are named, not run.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import start
from install import SUPPORTED
from install import command as install_command
from install.dashboard import find_address, has_screen
from install.environment import (
    Stamp,
    hash_lock,
    is_complete,
    make_environment,
    read_stamp,
    read_torch_version,
    write_stamp,
)
from install.pip import describe_action, explain_fault
from install.torch_choice import NvidiaAnswer, TorchChoice, choose_torch, read_answer, torch_requirement
from install.torch_index import has_wheel

REPOSITORY = Path(__file__).resolve().parents[1]
NO_FIELD = 'Field "compute_cap" is not a valid field to query.'
NO_DRIVER = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."

# system, machine, what nvidia-smi prints (None: it is not there), its exit code, build, words of the reason
CHOICES = [
    ("Windows", "AMD64", "581.57, 8.6, NVIDIA GeForce RTX 3060", 0, "cu130", "RTX 3060"),
    (
        "Windows",
        "AMD64",
        "581.57, 6.1, NVIDIA GeForce GTX 1050",
        0,
        "cu126",
        "GTX 1050 (compute capability 6.1",
    ),
    ("Linux", "x86_64", "580.82.07, 5.2, NVIDIA GeForce GTX 960", 0, "cu126", "CUDA 12"),
    ("Linux", "x86_64", "580.82.07, 7.0, Tesla V100-SXM2-16GB", 0, "cu126", "V100"),
    ("Linux", "x86_64", "580.82.07, 7.5, Tesla T4", 0, "cu130", "CUDA 13"),
    ("Linux", "x86_64", "580.82.07, 8.9, NVIDIA L4", 0, "cu130", "driver 580"),
    ("Linux", "x86_64", "580.82.07, 12.0, NVIDIA GeForce RTX 5090", 0, "cu130", "RTX 5090"),
    # the driver is too old for CUDA 13: the older build if it has kernels, else the CPU and the cure
    ("Linux", "x86_64", "535.129.03, 9.0, NVIDIA H100 80GB HBM3", 0, "cu126", "CUDA 12"),
    ("Windows", "AMD64", "572.16, 12.0, NVIDIA GeForce RTX 5070", 0, "cpu", "driver to 580 or later"),
    ("Windows", "AMD64", "516.94, 6.1, NVIDIA GeForce GTX 1060", 0, "cpu", "driver to 525 or later"),
    ("Windows", "AMD64", NO_FIELD, 2, "cpu", "update the NVIDIA driver"),
    ("Linux", "x86_64", NO_DRIVER, 9, "cpu", "couldn't communicate"),
    # no build has kernels for Kepler
    ("Linux", "x86_64", "535.129.03, 3.7, Tesla K80", 0, "cpu", "no kernels"),
    # several cards: the build for most of them, the newest of equal ones; the others are named
    ("Linux", "x86_64", "580.82.07, 6.1, GTX 1080\n580.82.07, 8.6, RTX 3090", 0, "cu126", "GTX 1080"),
    (
        "Linux",
        "x86_64",
        "580.82.07, 12.0, RTX 5090\n580.82.07, 6.1, GTX 1080",
        0,
        "cu130",
        "not for GTX 1080",
    ),
    ("Linux", "x86_64", "580.82.07, [N/A], NVIDIA Graphics Device", 0, "cu130", "capability unknown"),
    # Linux on ARM: a server's and a desk's Blackwell, and a T4G, for which no build has kernels
    ("Linux", "aarch64", "580.82.07, 9.0, NVIDIA GH200 480GB", 0, "cu130", "GH200"),
    ("Linux", "aarch64", "580.95.05, 12.1, NVIDIA GB10", 0, "cu130", "GB10"),
    ("Linux", "aarch64", "580.82.07, 7.5, NVIDIA T4G", 0, "cpu", "no kernels"),
    ("Linux", "x86_64", "No devices were found", 6, "cpu", "no NVIDIA GPU"),
    ("Linux", "x86_64", None, 0, "cpu", "no NVIDIA GPU"),
    ("Windows", "AMD64", None, 0, "cpu", "no NVIDIA GPU"),
    ("Darwin", "arm64", None, 0, "pip", "macOS"),
]


@pytest.mark.parametrize(("system", "machine", "output", "returncode", "build", "words"), CHOICES)
def test_the_torch_has_kernels_for_the_card_and_fits_the_driver(
    system: str, machine: str, output: str | None, returncode: int, build: str, words: str
) -> None:
    answer = NvidiaAnswer() if output is None else read_answer(output, returncode)
    choice = choose_torch(system, machine, answer)
    assert choice.build == build
    assert words in choice.reason


def test_a_line_that_is_not_understood_is_a_fault() -> None:
    assert read_answer("Unable to determine the device handle\n", 0).fault


@pytest.mark.parametrize(
    ("index", "requirement"),
    [
        ("https://download.pytorch.org/whl/cu130", "torch==2.13.0+cu130"),
        ("https://mirror.example/pytorch/cpu/", "torch==2.13.0+cpu"),
        ("https://mirror.example/simple", "torch==2.13.0"),
        ("https://mirror.example/custom", "torch==2.13.0"),
    ],
)
def test_a_build_is_asked_for_by_name_where_the_index_has_one(index: str, requirement: str) -> None:
    assert torch_requirement("2.13.0", index) == requirement


def test_what_was_asked_for_is_not_chosen_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install_command, "ask_nvidia_smi", NvidiaAnswer)
    monkeypatch.setattr(install_command, "choose_torch", lambda *_: TorchChoice("cu130", "made up"))
    assert install_command.choose_build("pip", "2.13.0") == "pip"
    assert install_command.choose_build("https://mirror.example/cu126", "2.13.0").endswith("cu126")
    assert install_command.choose_build("auto", "2.13.0") == "cu130"


def test_the_configured_index_is_used_if_that_of_pytorch_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(install_command, "explain_absence", lambda *_: "")
    assert install_command.find_build("cu130", "2.13.0") == "cu130"
    assert not capsys.readouterr().out
    monkeypatch.setattr(install_command, "explain_absence", lambda *_: "INDEX does not answer")
    assert install_command.find_build("cu130", "2.13.0") == "pip"
    assert "INDEX does not answer: torch comes from the index that pip" in capsys.readouterr().out
    assert install_command.find_build("pip", "2.13.0") == "pip"
    assert not capsys.readouterr().out


def test_packages_that_were_brought_are_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(install_command, "BROUGHT", tmp_path)
    assert install_command.find_build("cu130", "2.13.0") == "pip"


def test_an_index_is_believed_by_the_wheels_that_it_lists() -> None:
    page = '<a href="/whl/cu130/torch-2.13.0%2Bcu130-cp311-cp311-win_amd64.whl#sha256=0">torch</a>'
    assert has_wheel(page, "2.13.0", "cp311")
    assert not has_wheel(page, "2.13.0", "cp315")
    assert not has_wheel(page, "2.13", "cp311")
    assert not has_wheel("<html>Blocked by your administrator</html>", "2.13.0", "cp311")


def test_an_index_that_cannot_be_reached_is_named_with_the_reason() -> None:
    from install.torch_index import explain_absence

    assert "http://127.0.0.1:9/cu130 does not answer" in explain_absence("http://127.0.0.1:9/cu130", "2.13.0")


# which Python


@pytest.mark.parametrize(
    ("system", "there", "found"),
    [
        ("Windows", {"py -3.11": ("3.11", True), "py -3.12": ("3.12", True)}, ["py", "-3.11"]),
        ("Windows", {"py -3.11": ("3.11", False), "py -3.13": ("3.13", True)}, ["py", "-3.13"]),
        ("Darwin", {"python3.12": ("3.12", True)}, ["python3.12"]),
        ("Linux", {"python3.14": ("3.14", True), "python3.15": ("3.15", True)}, ["python3.14"]),
        ("Linux", {"python3.15": ("3.15", True)}, None),
        ("Linux", {}, None),
    ],
)
def test_a_python_that_fits_is_found(
    system: str, there: dict[str, tuple[str, bool]], found: list[str] | None
) -> None:
    def read(command: Sequence[str]) -> tuple[str, bool]:
        return there.get(" ".join(command), ("", False))

    assert start.find_python(system, read) == found


@pytest.mark.parametrize("system", ["Windows", "Darwin", "Linux"])
def test_each_system_is_told_how_to_get_python(system: str) -> None:
    text = start.explain_python(system)
    assert "3.11, 3.12, 3.13 or 3.14" in text and start.GET_PYTHON[system] in text


@pytest.mark.parametrize(
    ("system", "machine", "word"),
    [
        ("Darwin", "x86_64", "Intel"),
        ("Windows", "arm64", "not ARM64"),
        ("Darwin", "arm64", ""),
        ("Windows", "amd64", ""),
        ("Linux", "x86_64", ""),
        ("Linux", "aarch64", ""),
    ],
)
def test_a_computer_without_wheels_is_told_so(system: str, machine: str, word: str) -> None:
    text = start.explain_machine(system, machine)
    assert word in text and bool(text) == bool(word)


def test_this_python_is_read_and_one_that_is_missing_too() -> None:
    assert start.read_python([sys.executable]) == ("{}.{}".format(*sys.version_info[:2]), True)
    assert start.read_python(["no-such-python"]) == ("", False)


def test_start_needs_no_package_and_parses_under_an_older_python() -> None:
    for file in (REPOSITORY / "start.py", REPOSITORY / "install" / "__init__.py"):
        ast.parse(file.read_text(encoding="utf-8"), feature_version=(3, 7))
    command = [sys.executable, "-S", str(REPOSITORY / "start.py"), "--help"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0 and "--install_only" in done.stdout


def test_the_batch_file_has_the_line_ends_and_the_pythons_of_start() -> None:
    raw = (REPOSITORY / "start.bat").read_bytes()
    assert raw.count(b"\n") == raw.count(b"\r\n") > 10
    text = raw.decode("ascii")
    assert f"for %%V in ({' '.join(SUPPORTED)})" in text
    assert f"{', '.join(SUPPORTED[:-1])} or {SUPPORTED[-1]}" in text


# what is installed


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    path = tmp_path / "some.lock"
    path.write_text("numpy==1\n", encoding="utf-8")
    return path


def test_what_is_installed_is_known_by_the_stamp(tmp_path: Path, lock: Path) -> None:
    assert read_stamp(tmp_path) is None
    stamp = Stamp("auto", "cu126", "2.13.0", {lock.name: hash_lock(lock)})
    write_stamp(tmp_path, stamp)
    assert read_stamp(tmp_path) == stamp
    assert is_complete(stamp, [lock], "2.13.0", None)
    (tmp_path / "fiducial-install.json").write_text('{"older": 1}', encoding="utf-8")
    assert read_stamp(tmp_path) is None


@pytest.mark.parametrize(
    ("stamp_index", "torch", "asked", "complete"),
    [
        ("auto", "2.13.0", None, True),
        ("auto", "2.13.0", "auto", False),  # asked for by name, the card is looked at again
        ("pip", "2.13.0", "pip", True),
        ("pip", "2.13.0", "https://mirror.example/cu130", False),
        ("auto", "2.14.0", None, False),
    ],
)
def test_another_torch_is_installed_if_it_is_asked_for(
    lock: Path, stamp_index: str, torch: str, asked: str | None, complete: bool
) -> None:
    stamp = Stamp(stamp_index, "cu126", "2.13.0", {lock.name: hash_lock(lock)})
    assert is_complete(stamp, [lock], torch, asked) is complete


def test_an_update_of_the_lock_is_installed(lock: Path) -> None:
    stamp = Stamp("auto", "cpu", "2.13.0", {lock.name: hash_lock(lock)})
    lock.write_text("numpy==2\n", encoding="utf-8")
    assert not is_complete(stamp, [lock], "2.13.0", None)


def test_a_lock_is_the_same_under_other_line_ends(lock: Path) -> None:
    before = hash_lock(lock)
    lock.write_bytes(b"numpy==1\r\n")
    assert hash_lock(lock) == before


def test_the_pinned_torch_is_read() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", read_torch_version(REPOSITORY / "requirements.txt"))


@pytest.mark.slow  # makes an environment
def test_an_environment_that_was_interrupted_is_mended(tmp_path: Path) -> None:
    environment = tmp_path / "env"
    (environment / "bin").mkdir(parents=True)
    make_environment(environment, SUPPORTED)  # a folder without Python
    (site,) = [*environment.glob("lib/python*/site-packages"), *environment.glob("Lib/site-packages")]
    whole, broken = site / "whole-1.dist-info", site / "broken-1.dist-info"
    for package in (whole, broken):
        package.mkdir()
    (whole / "INSTALLER").touch()
    make_environment(environment, SUPPORTED)
    assert whole.is_dir() and not broken.exists()


# pip


@pytest.mark.parametrize(
    ("line", "action"),
    [
        ("Collecting numpy==2.4.6 (from -r requirements.lock (line 9))\n", "numpy 2.4.6"),
        (
            "  Downloading https://host/torch-2.13.0%2Bcu130-cp311-cp311-win_amd64.whl (1923.4 MB)\n",
            "downloading torch-2.13.0%2Bcu130 (1923.4 MB)",
        ),
        (
            "  Downloading gradio-6.31.0-py3-none-any.whl.metadata (17 kB)\n",
            "downloading gradio-6.31.0 (17 kB)",
        ),
        ("Installing collected packages: a, b, c\n", "unpacking 3 packages"),
        ("Looking in indexes: x\n", ""),
    ],
)
def test_the_line_of_progress_says_what_pip_is_doing(line: str, action: str) -> None:
    assert describe_action(line) == action


@pytest.mark.parametrize(
    ("output", "what", "cure", "brings"),
    [
        (
            "WARNING: Retrying ... NewConnectionError('<...>: [Errno 11001] getaddrinfo failed')\n"
            "ERROR: Could not find a version that satisfies numpy==2.4.6 (from versions: none)\n"
            "ERROR: No matching distribution found for numpy==2.4.6\n",
            "cannot be reached",
            "HTTPS_PROXY",
            True,
        ),
        (
            "WARNING: ... ProxyError('Cannot connect to proxy.', OSError('Tunnel connection failed: 407 "
            "Proxy Authentication Required'))\n",
            "proxy",
            "HTTPS_PROXY",
            True,
        ),
        (
            "SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED]'))",
            "certificate",
            "PIP_CERT",
            False,
        ),
        (
            "ERROR: Could not install packages due to an OSError: [Errno 28] No space left",
            "disk",
            "10 GB",
            False,
        ),
        (
            "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.",
            "lock",
            "Start again",
            False,
        ),
        ("ERROR: No matching distribution found for torch==2.13.0\n", "lacks", "--torch_index", True),
        ("ERROR: [WinError 5] Access is denied: 'torch.dll'\n", "in use", "Close Fiducial", False),
        ("something new\n", "something new", "install.log", False),
    ],
)
def test_a_fault_of_pip_says_what_to_do(output: str, what: str, cure: str, brings: bool) -> None:
    text = str(explain_fault(output, "install.log", "BRING THIS"))
    assert what in text and cure in text
    assert ("BRING THIS" in text) == brings


# the page


@pytest.mark.parametrize(
    ("line", "address"),
    [
        ("Fiducial on http://127.0.0.1:7861\n", "http://127.0.0.1:7861"),
        ("Fiducial on http://0.0.0.0:7860\n", "http://127.0.0.1:7860"),
        ("no address here\n", ""),
    ],
)
def test_the_address_of_the_page_is_found(line: str, address: str) -> None:
    assert find_address(line) == address


@pytest.mark.parametrize(
    ("platform", "environment", "shown"),
    [
        ("win32", {}, True),
        ("darwin", {}, True),
        ("linux", {"DISPLAY": ":0"}, True),
        ("linux", {"WAYLAND_DISPLAY": "wayland-0"}, True),
        ("linux", {}, False),
    ],
)
def test_the_browser_is_opened_where_there_is_a_screen(
    platform: str, environment: dict[str, str], shown: bool
) -> None:
    assert has_screen(platform, environment) is shown
