"""The foot of the page shows what was found, the faults first, in the page's language."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from backend.device.diagnosis import CURES, FAULTS, NAMES, Check
from backend.errors import UserError
from ui import check_panel
from ui.check_panel import checks_html, on_open
from ui.text.language import isolate, speaking

SOUND = [Check("version", "0.2.0"), Check("card", "")]
FAULT = Check("memory", "<0.1> GiB", "little_memory", "close_programs", {"least": "1"})
GPU_FAULT = Check(
    "cuda", "cuda:0 H100", "no_cuda_build", "update_driver", {"torch": "2.13.0", "least": "525"}
)


def rows(*checks: Check) -> list[dict[str, Any]]:
    return [asdict(check) for check in checks]


def test_all_is_well() -> None:
    html = checks_html(rows(*SOUND))
    assert "No fault found." in html and "faulty" not in html
    assert "<dt>Graphics card</dt><dd>none</dd>" in html


def test_faults_come_first_with_their_cures() -> None:
    html = checks_html(rows(*SOUND, FAULT, GPU_FAULT))
    assert "2 faults" in html and html.index("Memory") < html.index("CUDA of torch") < html.index("Fiducial")
    assert "&lt;0.1&gt; GiB" in html and "<strong>less than 1 GiB is free</strong>" in html
    assert "torch 2.13.0 is built without CUDA" in html and "525 or later" in html
    assert "1 fault," in checks_html(rows(FAULT))


def test_it_is_said_in_persian() -> None:
    with speaking("fa"):
        html = checks_html(rows(*SOUND, FAULT, GPU_FAULT))
    assert "کارت گرافیک" in html and "ندارد" in html and isolate("0.2.0") in html
    assert "آزاد است" in html and "بدون" in html


@pytest.mark.parametrize("language", ["en", "fa"])
def test_every_fault_and_cure_has_its_words(language: str) -> None:
    values = dict.fromkeys(
        ("list", "command", "said", "least", "files", "address", "way", "torch", "driver", "driver_cuda",
         "cuda", "capability", "kernels"), "x",
    )  # fmt: skip
    with speaking(language):
        for fault in FAULTS:
            for cure in CURES:
                assert checks_html(rows(Check("memory", "", fault, cure, values)))
        assert checks_html(rows(*(Check(name, "") for name in NAMES)))


def test_it_says_that_it_looks_and_then_what_it_found(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Path, Path, str]] = []

    def answer(*question: Any) -> list[dict[str, Any]]:
        asked.append(question)
        return rows(*SOUND)

    monkeypatch.setattr(check_panel, "query_checks", answer)
    first, second = on_open(Path("runs"), Path("data"), "Firefox/128.0")
    assert "looking" in first and "No fault found." in second
    assert asked == [(Path("runs"), Path("data"), "Firefox/128.0")]


def test_a_check_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise UserError("no <answer>")

    monkeypatch.setattr(check_panel, "query_checks", fail)
    assert list(on_open(Path("runs"), Path("data"), ""))[-1] == '<p role="alert">no &lt;answer&gt;</p>'
