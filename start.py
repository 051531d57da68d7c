"""Install Fiducial into `.venv`, start the dashboard and open it in the browser: `python start.py --help`.

This file finds a Python that every pinned package has a wheel for; the package `install` does the rest. Also
parses under older Pythons, which hand over to one that fits.
"""

from __future__ import annotations

import platform
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Sequence

from install import SUPPORTED

PROBE = "import sys; print('%d.%d' % sys.version_info[:2], sys.maxsize > 2**32)"
DOWNLOADS = "https://www.python.org/downloads/"
GET_PYTHON = {
    "Windows": f"winget install Python.Python.3.11, or the 64-bit installer from {DOWNLOADS}windows/",
    "Darwin": f"brew install python@3.11, or the installer from {DOWNLOADS}macos/",
    "Linux": "with the system's packages (Debian and Ubuntu: sudo apt install python3.11 python3.11-venv; "
    "Fedora: sudo dnf install python3.11)",
}


def main(arguments: Sequence[str]) -> int:
    """Install and start with this Python or, if it does not fit, with another one of this computer."""
    system = platform.system()
    misfit = explain_machine(system, read_machine(system))
    if misfit:
        print(misfit, file=sys.stderr)
        return 2
    version, has_64_bits = read_python([sys.executable])
    if version in SUPPORTED and has_64_bits:
        from install.command import main as install_and_start

        return install_and_start(arguments)
    found = find_python(system)
    name = f"Python {version}" + ("" if has_64_bits else " (32 bits)")
    if found is None:
        print(f"{name} does not fit: {explain_python(system)}", file=sys.stderr)
        return 2
    print(f"{name} does not fit; continuing with {' '.join(found)}", flush=True)
    return subprocess.call([*found, __file__, *arguments])


def read_machine(system: str) -> str:
    """Return the kind of processor that this Python is built for."""
    if system == "Windows":  # platform.machine() is that of Windows itself
        return sysconfig.get_platform().replace("win-", "")
    return platform.machine()


def explain_machine(system: str, machine: str) -> str:
    """Say what to do if torch or another pin has no wheel for this kind of computer; empty if they have."""
    if system == "Darwin" and machine == "x86_64":
        return (
            "PyTorch has no build for Intel Macs, nor for an Intel Python on Apple silicon: there, install "
            f"{DOWNLOADS}macos/ and start again; on an Intel Mac use Docker (docs/getting-started.md)"
        )
    if system == "Windows" and machine == "arm64":
        return (
            "Several packages have no build for Python on ARM; Windows also runs the ordinary one: install "
            f"the 64-bit installer (not ARM64) from {DOWNLOADS}windows/ and start again"
        )
    return ""


def explain_python(system: str) -> str:
    """Say which Pythons fit, and how to get one on this system."""
    versions = f"{', '.join(SUPPORTED[:-1])} or {SUPPORTED[-1]}"
    return (
        f"Fiducial needs Python {versions} with 64 bits. Install it {GET_PYTHON[system]}. Then start again."
    )


def list_candidates(system: str) -> list[list[str]]:
    """Return the commands that may start a Python that fits, the preferred one first."""
    if system == "Windows":
        return [["py", f"-{version}"] for version in SUPPORTED]
    return [[f"python{version}"] for version in SUPPORTED]


def read_python(command: Sequence[str]) -> tuple[str, bool]:
    """Return the version ("3.11") of the Python that a command starts, and whether it has 64 bits.

    The version is empty if the command starts none, as a launcher without that version does.
    """
    if list(command) == [sys.executable]:
        return "{}.{}".format(*sys.version_info[:2]), sys.maxsize > 2**32
    try:
        done = subprocess.run([*command, "-c", PROBE], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except OSError:
        return "", False
    words = done.stdout.decode("ascii", "replace").split() if done.returncode == 0 else []
    return (words[0], words[1] == "True") if len(words) == 2 else ("", False)


def find_python(
    system: str, read: Callable[[Sequence[str]], tuple[str, bool]] = read_python
) -> list[str] | None:
    """Return the command of the first Python that fits; None if this computer has none."""
    for command in list_candidates(system):
        version, has_64_bits = read(command)
        if version in SUPPORTED and has_64_bits:
            return command
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
