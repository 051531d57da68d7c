"""Start the dashboard and, once its page answers, open the browser."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import webbrowser
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from install.environment import REPOSITORY

ANSWER_S = 180.0
PAUSE_S = 0.1
ENDING_S = 60.0
EVERYWHERE = ("0.0.0.0", "[::]")  # addresses to listen on, not to visit


def check(python: Path) -> int:
    """Check the installation: its faults and their cures are printed, and the exit code is 1 if there are."""
    return subprocess.call([str(python), "-m", "backend.check"], cwd=REPOSITORY)


def run_dashboard(python: Path, arguments: Sequence[str], when_up: Callable[[str], None]) -> int:
    """Run app.py until it ends and return its exit code; `when_up` gets the address once the page answers."""
    process = subprocess.Popen(
        [str(python), "app.py", *arguments],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )
    assert process.stdout is not None
    address: list[str] = []
    threading.Thread(target=_forward, args=(process.stdout, address), daemon=True).start()
    try:
        if _wait_for_page(process, address):
            when_up(address[0])
        return process.wait()
    except KeyboardInterrupt:  # a terminal sends it to app.py as well, which now ends
        return process.wait(ENDING_S)
    finally:
        process.terminate()
        process.wait()


def _forward(lines: IO[str], address: list[str]) -> None:
    """Print the dashboard's lines, and note the first address among them."""
    for line in lines:
        print(line, end="", flush=True)
        if not address and (found := find_address(line)):
            address.append(found)


def find_address(line: str) -> str:
    """Return the address that a line of app.py names, as a browser can open it; empty if none."""
    found = re.search(r"https?://\S+", line)
    if not found:
        return ""
    for host in EVERYWHERE:
        if f"//{host}" in found[0]:
            return found[0].replace(host, "127.0.0.1", 1)
    return found[0]


def _wait_for_page(process: subprocess.Popen[str], address: list[str]) -> bool:
    """Wait until the page answers; False if the dashboard ends before, or takes too long."""
    last = time.monotonic() + ANSWER_S
    while process.poll() is None and time.monotonic() < last:
        if address and answers(address[0]):
            return True
        time.sleep(PAUSE_S)
    return False


def answers(address: str) -> bool:
    """Whether anything answers there, be it a request to log in."""
    local = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        local.open(address, timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def open_browser(address: str) -> None:
    """Open the page in the browser, if there is a screen for it."""
    if has_screen(sys.platform, os.environ):
        webbrowser.open(address)


def has_screen(platform: str, environment: Mapping[str, str]) -> bool:
    """Whether a browser would be seen: on Linux a terminal may be all there is."""
    return platform in ("win32", "darwin") or any(
        environment.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    )
