"""The locks: every pin with hashes, for every system, and nothing that leads to a package index."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
LOCKS = ("requirements.lock", "requirements-dev.lock")
PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)


@cache
def text_of(name: str) -> str:
    return (REPOSITORY / name).read_text(encoding="utf-8")


def pins_of(name: str) -> dict[str, str]:
    return {package.lower().replace("_", "-"): version for package, version in PIN.findall(text_of(name))}


@pytest.mark.parametrize(
    ("pins", "lock"), [("requirements.txt", LOCKS[0]), ("requirements-dev.txt", LOCKS[1])]
)
def test_the_lock_holds_every_pin_but_torch(pins: str, lock: str) -> None:
    pinned, locked = pins_of(pins), pins_of(lock)
    pinned.pop("torch", None)
    assert pinned and pinned.items() <= locked.items(), "run make lock"


def test_the_lock_for_development_adds_to_the_other() -> None:
    assert pins_of(LOCKS[0]).items() <= pins_of(LOCKS[1]).items(), "run make lock"


@pytest.mark.parametrize("lock", LOCKS)
def test_every_package_has_hashes_and_torch_brings_its_own(lock: str) -> None:
    entries = re.split(r"^(?=[A-Za-z0-9])", text_of(lock), flags=re.MULTILINE)[1:]
    assert len(entries) == len(pins_of(lock))
    assert not [entry for entry in entries if "--hash=sha256:" not in entry]
    alone = ("torch", "triton", "sympy", "networkx")
    assert not [name for name in pins_of(lock) if name in alone or name.startswith("nvidia-c")]


@pytest.mark.parametrize("lock", LOCKS)
def test_the_lock_holds_for_every_system(lock: str) -> None:
    assert "sys_platform == 'win32'" in text_of(lock)


@pytest.mark.parametrize("lock", LOCKS)
def test_the_lock_names_no_index(lock: str) -> None:
    assert "://" not in text_of(lock) and "index-url" not in text_of(lock)
