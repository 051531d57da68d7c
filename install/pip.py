"""Run pip in the environment: one line of progress, and what to do if it fails."""

from __future__ import annotations

import os
import queue
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from install.environment import ENVIRONMENT, python_in
from install.errors import InstallError

LOG = "install.log"
REDRAW_S = 0.5
PIP = ("-m", "pip", "install", "--only-binary=:all:", "--disable-pip-version-check", "--no-input")
PIP_OPTIONS = ("--progress-bar", "off")

# What pip prints if it fails (lower case), what that is, and what helps; the first that is found counts, for
# without a network it also reports that there is no such version.
FAULTS = (
    (("no space left", "errno 28", "not enough space"), "The disk is full.", "disk"),
    (
        ("407 proxy", "proxyerror", "cannot connect to proxy"),
        "The proxy does not let pip through.",
        "network",
    ),
    (
        ("certificate_verify_failed", "sslerror", "sslcertverification"),
        "A certificate is unknown.",
        "certificate",
    ),
    (
        (
            "newconnectionerror",
            "connecttimeout",
            "readtimeout",
            "name resolution",
            "getaddrinfo",
            "max retries",
        ),
        "The package index cannot be reached.",
        "network",
    ),
    (("do not match the hashes",), "A package is not the one that the lock names.", "hashes"),
    (("no matching distribution", "could not find a version"), "The index lacks a package.", "index"),
    (("permission denied", "winerror 5", "winerror 32"), "A file is in use or cannot be written.", "files"),
)
CURES = {
    "disk": "Free some space: 3 GB for the CPU alone, 10 GB with CUDA.",
    "network": "Behind a proxy: set HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT and start again.\n"
    "With a mirror of the Python packages: pip config set global.index-url ADDRESS, and start again.\n"
    "Without a network: bring the folder `wheels`, see below.",
    "certificate": "The network inspects connections: ask for its certificate (a .pem file), set PIP_CERT to "
    "that file's path, and start again.",
    "hashes": "Start again; if this persists, the package index serves changed packages.",
    "index": "Use an index that has it (--torch_index for torch), or bring the folder `wheels`, see below.",
    "files": "Close Fiducial and every program that uses the folder .venv, and start again.",
}
BRING = (
    "To bring what is needed: on a computer with a network, the same system and the same version of Python, "
    "in Fiducial's folder:\n"
    "    python -m pip download -d wheels --only-binary=:all: -r {lock}\n"
    "    python -m pip download -d wheels --only-binary=:all: {torch}\n"
    "Then copy the folder `wheels` beside start.py and start again."
)


def run_pip(title: str, arguments: Sequence[str], bring: str) -> None:
    """Install what `arguments` name; raises InstallError, which ends with `bring` where that helps."""
    log = ENVIRONMENT / LOG
    downloads = ENVIRONMENT / "downloads"  # beside its goal: a temporary folder in memory is often too small
    shutil.rmtree(downloads, ignore_errors=True)
    downloads.mkdir(parents=True)
    temporary = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(downloads))
    process = subprocess.Popen(
        [str(python_in(ENVIRONMENT)), *PIP, *PIP_OPTIONS, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        env={**os.environ, **temporary, "PYTHONIOENCODING": "utf-8"},
    )
    assert process.stdout is not None
    try:
        output = _follow(title, process.stdout, downloads)
        returncode = process.wait()
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(downloads, ignore_errors=True)
    with log.open("a", encoding="utf-8") as file:
        file.write(output)
    if returncode != 0:
        raise explain_fault(output, str(log), bring)


def _follow(title: str, lines: IO[str], downloads: Path) -> str:
    """Show a line of progress while pip runs, and return all of its output."""
    began = time.monotonic()
    show = sys.stdout.isatty()
    output: list[str] = []
    action = "asking what is there"
    if not show:
        print(f"{title} ...", flush=True)
    for line in _with_pauses(lines):
        output.append(line)
        action = describe_action(line) or action
        if show:
            elapsed = time.monotonic() - began
            _redraw(f"{title}: {action}{_downloaded(action, downloads)}, {elapsed:.0f} s")
    if show:
        _redraw("")
    print(f"{title}: {time.monotonic() - began:.0f} s", flush=True)
    return "".join(output)


def _with_pauses(lines: IO[str]) -> Iterator[str]:
    """Yield each line as it comes, and an empty one whenever none came for a moment."""
    waiting: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        for line in lines:
            waiting.put(line)
        waiting.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = waiting.get(timeout=REDRAW_S)
        except queue.Empty:
            yield ""
            continue
        if line is None:
            return
        yield line


def describe_action(line: str) -> str:
    """Say in a few words what a line of pip's output is about; empty if nothing of interest."""
    if found := re.match(r"Collecting (\S+?)(?:==(\S+))?(?: |$)", line):
        return " ".join(word for word in found.groups() if word)
    if found := re.match(r"\s+Downloading (?:\S*/)?(\S+\.whl)(?:\.metadata)?(?: \((.+)\))?", line):
        size = f" ({found[2]})" if found[2] else ""
        return f"downloading {found[1].partition('-cp')[0].partition('-py')[0]}{size}"
    if line.startswith("Installing collected packages:"):
        return f"unpacking {line.count(',') + 1} packages"
    return ""


def _downloaded(action: str, downloads: Path) -> str:
    """Return how much of the file that is coming is there."""
    if not action.startswith("downloading"):
        return ""
    try:
        newest = max(downloads.rglob("*.whl"), key=lambda path: path.stat().st_mtime, default=None)
        return f", {newest.stat().st_size / 1e6:.0f} MB are here" if newest else ""
    except OSError:  # just moved
        return ""


def _redraw(text: str) -> None:
    width = shutil.get_terminal_size().columns - 1
    print("\r" + text[:width].ljust(width) + ("" if text else "\r"), end="", flush=True)


def explain_fault(output: str, log: str, bring: str) -> InstallError:
    """Return the error for what pip printed before it failed: what it is, pip's own words, what helps."""
    errors = [line.strip() for line in output.splitlines() if line.lstrip().startswith("ERROR:")]
    said = "\n".join(errors[-3:] or output.splitlines()[-3:])
    lower = output.lower()
    for signs, what, cure in FAULTS:
        if any(sign in lower for sign in signs):
            help_text = CURES[cure]
            return InstallError(
                f"{what} pip says:\n{said}", f"{help_text}\n{bring}" if "wheels" in help_text else help_text
            )
    return InstallError(f"pip fails:\n{said}", f"All of its output is in {log}. Start again to continue.")
