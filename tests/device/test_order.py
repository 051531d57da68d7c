"""CUDA and the driver number the GPUs alike, whichever way the program is entered."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from backend import torch_uuids
from backend.device import order

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
ENTRIES = sorted(
    path.relative_to(REPOSITORY).with_suffix("").as_posix().replace("/", ".")
    for path in (REPOSITORY / "app.py", REPOSITORY / "train.py", *(REPOSITORY / "backend").rglob("*.py"))
    if "__main__" in path.read_text(encoding="utf-8")
)
# imports an entry point as `python -m` does, and says what CUDA would read when torch is first imported, or
# at the end if it is not; torch itself is left out, which takes seconds to import
WATCH = """
import importlib, json, os, sys
def say():
    print(json.dumps(os.environ.get("CUDA_DEVICE_ORDER")), flush=True)
    os._exit(0)
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            say()
sys.meta_path.insert(0, Watch())
importlib.import_module(sys.argv[1])
say()
"""


def read_order(entry: str, chosen: str | None) -> str | None:
    environment = {name: value for name, value in os.environ.items() if name != order.VARIABLE}
    environment |= {} if chosen is None else {order.VARIABLE: chosen}
    command = [sys.executable, "-c", WATCH, entry]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, encoding="utf-8", check=True
    )
    numbering: str | None = json.loads(done.stdout.splitlines()[-1])
    return numbering


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_entry_point_sets_the_order_before_torch_is_imported(entry: str) -> None:
    assert read_order(entry, None) == "PCI_BUS_ID"


def test_an_order_of_the_users_own_is_left_alone() -> None:
    assert read_order("backend.torch_devices", "FASTEST_FIRST") == "FASTEST_FIRST"
    assert order.is_by_pci_bus({order.VARIABLE: "PCI_BUS_ID"})
    assert not order.is_by_pci_bus({order.VARIABLE: "FASTEST_FIRST"}) and not order.is_by_pci_bus({})


def test_uuids_are_told_in_the_order_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda n: SimpleNamespace(uuid=f"uuid-{n}"))
    assert torch_uuids.torch_uuids() == ["uuid-0", "uuid-1"]


def test_a_process_that_sees_no_gpu_tells_of_none() -> None:
    assert order.query_torch_uuids("") == ()
