"""The command of start.py: install what is missing, check it, start the dashboard."""

from __future__ import annotations

import argparse
import io
import os
import platform
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from install import SUPPORTED
from install.dashboard import check, open_browser, run_dashboard
from install.environment import (
    ENVIRONMENT,
    REPOSITORY,
    Stamp,
    hash_lock,
    is_complete,
    make_environment,
    python_in,
    read_stamp,
    read_torch_version,
    write_stamp,
)
from install.errors import InstallError
from install.pip import BRING, run_pip
from install.torch_builds import INDEX
from install.torch_choice import CHOOSE_AGAIN, ask_nvidia_smi, choose_torch, torch_requirement
from install.torch_index import explain_absence

VARIABLE = "FIDUCIAL_TORCH_INDEX"
BROUGHT = REPOSITORY / "wheels"  # packages that were downloaded elsewhere
LOCK, DEV_LOCK = REPOSITORY / "requirements.lock", REPOSITORY / "requirements-dev.lock"


def main(arguments: Sequence[str]) -> int:
    """Install and, unless told otherwise, start the dashboard with the arguments that are not for this."""
    options, for_app = _parser().parse_known_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        # a console that cannot show a character, of a folder's name, prints ? instead of failing
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        installed = install(DEV_LOCK if options.dev else LOCK, options.torch_index)
        if options.install_only:
            return 0
        python = python_in(ENVIRONMENT)
        if installed:
            check(python)

        def when_up(address: str) -> None:
            if not options.no_browser:
                open_browser(address)
            if not installed:
                check(python)

        return run_dashboard(python, for_app, when_up)
    except InstallError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; run it again to continue", file=sys.stderr)
        return 128 + signal.SIGINT


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python start.py",
        description="Install Fiducial into .venv, start the dashboard and open it in the browser. Other "
        "arguments are passed on to app.py.",
        allow_abbrev=False,
    )
    parser.add_argument("--install_only", action="store_true", help="install, and do not start the dashboard")
    parser.add_argument("--dev", action="store_true", help="install what the tests need as well")
    parser.add_argument(
        "--torch_index",
        default=os.environ.get(VARIABLE) or None,
        metavar="URL|pip|auto",
        help="where torch comes from: an index, the one that pip is configured with, or the one of PyTorch's "
        f"that fits the graphics card (default: the environment variable {VARIABLE}, else what is installed, "
        "else auto)",
    )
    parser.add_argument("--no-browser", action="store_true", help="do not open the browser")
    return parser


def install(lock: Path, torch_index: str | None) -> bool:
    """Install what is missing; False if there was nothing to do."""
    torch = read_torch_version(REPOSITORY / "requirements.txt")
    stamp = read_stamp(ENVIRONMENT)
    if python_in(ENVIRONMENT).is_file() and is_complete(stamp, [lock], torch, torch_index):
        return False
    print(f"installing into {ENVIRONMENT}: some minutes the first time", flush=True)
    make_environment(ENVIRONMENT, SUPPORTED)
    asked = torch_index or (stamp.torch_index if stamp else "auto")
    unfinished = Stamp(torch_index=asked)
    write_stamp(ENVIRONMENT, unfinished)
    wanted = choose_build(asked, torch)
    build = wanted if asked != "auto" else find_build(wanted, torch)
    requirement, options = torch_source(build, torch)
    brought, its_options = torch_source(wanted, torch)
    bring = BRING.format(lock=lock.name, torch=" ".join([brought, *its_options]))
    local = ["--no-index", "--find-links", str(BROUGHT)] if BROUGHT.is_dir() else []
    run_pip("1 of 2: packages", [*local, "--require-hashes", "-r", str(lock)], bring)
    run_pip(f"2 of 2: torch {torch}", [*(local or options), requirement], bring)
    locks = {name.name: hash_lock(name) for name in {lock, LOCK}}
    write_stamp(ENVIRONMENT, replace(unfinished, build=build, torch=torch, locks=locks))
    return True


def choose_build(asked: str, torch: str) -> str:
    """Return the wanted build of torch: a name in PyTorch's index, an index's address, or "pip"."""
    if asked != "auto":
        return asked
    choice = choose_torch(platform.system(), platform.machine(), ask_nvidia_smi())
    print(f"torch {torch}: {choice.reason}", flush=True)
    return choice.build


def find_build(wanted: str, torch: str) -> str:
    """Return the wanted build, or "pip" if PyTorch's index cannot give it now."""
    if BROUGHT.is_dir():
        print(f"packages are taken from {BROUGHT}", flush=True)
        return "pip"
    absence = "" if wanted == "pip" else explain_absence(f"{INDEX}/{wanted}", torch)
    if not absence:
        return wanted
    print(
        f"{absence}: torch comes from the index that pip is configured with, whose build may not fit the "
        f"graphics card (on Windows it is for the CPU alone). Once the index answers, run {CHOOSE_AGAIN}",
        flush=True,
    )
    return "pip"


def torch_source(build: str, torch: str) -> tuple[str, list[str]]:
    """Return the requirement for pip, and the options that lead to it."""
    if build == "pip":
        return f"torch=={torch}", []
    index = build if "://" in build else f"{INDEX}/{build}"
    return torch_requirement(torch, index), ["--index-url", index]
