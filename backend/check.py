"""Look for what keeps Fiducial from working on this computer: `python -m backend.check`.

Prints versions, graphics cards, free memory and disk, and names each fault with its cure.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import sys
import tempfile
import webbrowser
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

from backend import __version__
from backend.cache import cache_folder
from backend.device.diagnosis import NAMES, Check, Facts, FolderFacts, diagnose
from backend.device.gpu import read_driver, read_gpus
from backend.device.host import read_memory
from backend.device.machine import Machine
from backend.device.unusable import TorchBuild
from backend.files import REPOSITORY
from backend.flags import EXIT_COMPLETED, EXIT_FAILED, OneLineParser, run_command

FONTS = REPOSITORY / "ui" / "static" / "persian"
SHARED_MEMORY = Path("/dev/shm")
_MAX_SAID = 300  # characters of a library's own message


def main(arguments: Sequence[str]) -> int:
    """Print the checks; 0 if all is well, 1 if there is a fault."""
    options = _parser().parse_args(arguments)
    folders = {
        "runs": options.runs_dir,
        "data": options.data_root,
        "cache": cache_folder(),
        "temporary": Path(tempfile.gettempdir()),
    }
    with redirect_stdout(sys.stderr):  # what a library prints is not part of the answer
        checks = diagnose(gather(folders, options.user_agent))
    if options.json:
        print(json.dumps([{**asdict(check), "message": check.message} for check in checks]))
    else:
        print(*_lines(checks), sep="\n")
    return EXIT_FAILED if any(check.fault for check in checks) else EXIT_COMPLETED


def _parser() -> OneLineParser:
    parser = OneLineParser(prog="python -m backend.check", description=__doc__)
    parser.add_argument("--runs_dir", type=Path, default=Path("runs"), help="folder of runs (default: runs)")
    parser.add_argument(
        "--data_root", type=Path, default=Path("data"), help="folder of data sets (default: data)"
    )
    parser.add_argument(
        "--user_agent",
        default="",
        help="browser that shows the page, as it names itself (default: name the one of this computer)",
    )
    parser.add_argument("--json", choices=("-",), help="print the checks to stdout as JSON")
    return parser


def _lines(checks: Sequence[Check]) -> Iterator[str]:
    width = max(map(len, NAMES.values()))
    for check in checks:
        yield f"{'FAULT' if check.fault else 'ok':5}  {NAMES[check.name]:{width}}  {check.value or 'none'}"
        if check.fault:
            yield f"       {check.message}"
    num_faults = sum(bool(check.fault) for check in checks)
    yield "no fault found" if not num_faults else f"faults: {num_faults}"


def gather(folders: dict[str, Path], user_agent: str) -> Facts:
    """Look at this computer. Imports torch, if that is possible."""
    torch, failure = _load_torch()
    pinned = _pinned_packages()
    installed = {name: _installed_version(name) for name, _ in pinned}
    return Facts(
        version=__version__,
        python=f"{platform.python_version()}, {sys.executable} ({platform.platform()})",
        pip=f"{sys.executable} -m pip install",
        wrong_packages=tuple(
            (name, installed[name], wanted) for name, wanted in pinned if installed[name] != wanted
        ),
        num_packages=len(pinned),
        torch=torch,
        torch_failure=failure,
        is_windows=sys.platform == "win32",
        driver=read_driver(),
        gpus=read_gpus(),
        memory=read_memory(),
        shared_bytes=shutil.disk_usage(SHARED_MEMORY).total if SHARED_MEMORY.is_dir() else None,
        folders={name: _look_at(folder.absolute()) for name, folder in folders.items()},
        system_browser=_system_browser(),
        user_agent=user_agent,
        missing_fonts=tuple(_missing_fonts()),
    )


def _load_torch() -> tuple[tuple[TorchBuild, Machine] | None, str]:
    """Return what torch was built for and sees here; else None, and why it cannot be loaded."""
    from backend.torch_devices import describe_machine, torch_build

    try:
        return (torch_build(), describe_machine()), ""
    except ModuleNotFoundError as error:
        return None, "" if error.name == "torch" else str(error)
    except (ImportError, OSError) as error:  # OSError: a library of its own, on Windows
        return None, " ".join(str(error).split())[:_MAX_SAID]


def _pinned_packages() -> list[tuple[str, str]]:
    text = (REPOSITORY / "requirements.txt").read_text(encoding="utf-8")
    return re.findall(r"^([\w.-]+)==([\w.]+)", text, re.MULTILINE)


def _installed_version(name: str) -> str:
    """Return the version without what a build adds (2.13.0+cu130); empty if it is not installed."""
    try:
        return metadata.version(name).partition("+")[0]
    except metadata.PackageNotFoundError:
        return ""


def _look_at(folder: Path) -> FolderFacts:
    """Try to write a file, in the nearest folder that is there if this one is not."""
    # unlike Path.exists, it says False of what lies in a folder that may not be read
    present = next(path for path in (folder, *folder.parents) if os.access(path, os.F_OK))
    failure = ""
    try:
        with tempfile.TemporaryFile(dir=present) as file:
            file.write(b"x")
    except OSError as error:
        failure = error.strerror or str(error)
    return FolderFacts(folder, shutil.disk_usage(present).free, failure)


def _system_browser() -> str:
    try:
        browser = webbrowser.get()
    except webbrowser.Error:
        return ""
    return str(getattr(browser, "name", "") or type(browser).__name__)


def _missing_fonts() -> Iterator[str]:
    """Yield the files of the typeface that the page cannot load."""
    for name in re.findall(r"url\(([\w.-]+)\)", (FONTS / "persian.css").read_text(encoding="utf-8")):
        path = FONTS / name
        if not path.is_file() or not path.read_bytes().startswith(b"wOF2"):
            yield name


if __name__ == "__main__":
    sys.exit(run_command(main))
