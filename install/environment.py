"""The environment `.venv`: making it, and the stamp that says what is installed in it."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from install.errors import InstallError

REPOSITORY = Path(__file__).resolve().parents[1]
ENVIRONMENT = REPOSITORY / ".venv"
STAMP = "fiducial-install.json"


@dataclass(frozen=True)
class Stamp:
    """What is installed completely: each lock's hash by its name, and the torch.

    `torch_index` is what was asked for ("auto", "pip" or an address), `build` what was installed for it.
    """

    torch_index: str
    build: str = ""
    torch: str = ""
    locks: dict[str, str] = field(default_factory=dict)


def read_stamp(environment: Path) -> Stamp | None:
    """Read the stamp; None without one, or if another version of this program has written it."""
    try:
        return Stamp(**json.loads((environment / STAMP).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def write_stamp(environment: Path, stamp: Stamp) -> None:
    """Replace the stamp at once, so that it is whole at every instant."""
    written = environment / f"{STAMP}.new"
    written.write_text(json.dumps(asdict(stamp), indent=1), encoding="utf-8")
    written.replace(environment / STAMP)


def hash_lock(lock: Path) -> str:
    """Return the hash of a lock's text, the same under every convention of line ends."""
    return hashlib.sha256(lock.read_text(encoding="utf-8").encode()).hexdigest()


def read_torch_version(requirements: Path) -> str:
    """Return the version of torch that is pinned."""
    (version,) = re.findall(r"^torch==(\S+)$", requirements.read_text(encoding="utf-8"), re.MULTILINE)
    return str(version)


def is_complete(stamp: Stamp | None, locks: Iterable[Path], torch: str, torch_index: str | None) -> bool:
    """Whether all of this is installed; `torch_index` is None if any build of this torch will do."""
    if stamp is None or stamp.torch != torch:
        return False
    if any(stamp.locks.get(lock.name) != hash_lock(lock) for lock in locks):
        return False
    return torch_index is None or (torch_index != "auto" and torch_index == stamp.torch_index)


def python_in(environment: Path) -> Path:
    """Return the environment's Python."""
    return environment / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def make_environment(environment: Path, supported: Iterable[str]) -> None:
    """Make the environment with this Python, unless it is there and works."""
    if _is_usable(environment, supported):
        _forget_interrupted(environment)
        return
    print(f"making {environment.name} with Python {sys.version.split()[0]}", flush=True)
    command = [sys.executable, "-m", "venv", "--clear", str(environment)]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", errors="replace"
    )
    if done.returncode != 0:
        raise InstallError(
            f"{environment} cannot be made: {done.stdout.strip()}",
            "On Debian and Ubuntu: sudo apt install python3-venv. If the folder is in use, close Fiducial "
            "and every terminal in it.",
        )


def _is_usable(environment: Path, supported: Iterable[str]) -> bool:
    """Whether the environment has a Python that fits, and pip; one that was interrupted may lack either."""
    probe = "import sys, pip; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run(
            [str(python_in(environment)), "-c", probe],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="ascii",
            errors="replace",
        )
    except OSError:
        return False
    return done.returncode == 0 and done.stdout.strip() in supported


def _forget_interrupted(environment: Path) -> None:
    """Let pip install again what it was unpacking when it was stopped.

    It writes a package's INSTALLER after all of its files, so without one the package is not whole; pip
    itself goes by the folder's name.
    """
    for pattern in ("lib/python*/site-packages/*.dist-info", "Lib/site-packages/*.dist-info"):
        for package in environment.glob(pattern):
            if not (package / "INSTALLER").is_file():
                shutil.rmtree(package)
