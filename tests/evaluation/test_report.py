from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from backend.config import RunConfig, Settings
from backend.evaluation.comparison import Comparison
from backend.evaluation.record import measure
from backend.evaluation.report import build_report

Make = Callable[..., Comparison]
EVIL = '<script>alert("x")</script>'


class Elements(HTMLParser):
    """Every element with its attributes, and the text outside scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.styles = self.text = self._inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "style":
            self.styles += data
        elif self._inside != "script":
            self.text += data


def report_of(comparison: Comparison, **about: Any) -> str:
    record = measure(comparison)
    record["about"] = {
        "run": "run-1",
        "checkpoint": "best.pt",
        "epoch": 3,
        "dataset": "films",
        "dataset_path": "/data/films",
        "split": "test",
        "excluded": ["i9"],
        "leaked": {"image_ids": [], "left_out": False},
        "device": "cpu",
        "time": "2026-01-02 03:04",
        "config": RunConfig(Settings(), {}).to_dict(),
        **about,
    }
    return build_report(json.loads(json.dumps(record)))  # as it is when it was stored


@pytest.fixture
def image_path(tmp_path: Path) -> str:
    path = tmp_path / "film.png"
    cv2.imwrite(str(path), np.full((30, 40), 90, np.uint8))
    return str(path)


def test_the_page_stands_alone(make_comparison: Make, image_path: str) -> None:
    comparison = make_comparison(
        [[2.0, 4.0], [6.0, 8.0], [1.0, 2.0]],
        paths=[image_path] * 3,
        readers={"a": np.zeros((3, 2)), "b": np.ones((3, 2))},
        columns={"group": ["m1", "m1", "m2"]},
    )
    page = Elements(report_of(comparison))
    addresses = [
        value
        for _, attrs in page.elements
        for name, value in attrs.items()
        if name in ("src", "href", "srcset")
    ]
    assert addresses and all(value and value.startswith("data:image/") for value in addresses)
    assert not [tag for tag, _ in page.elements if tag in ("link", "iframe", "object", "embed")]
    assert "url(" not in page.styles and "@import" not in page.styles
    assert sum(tag == "img" for tag, _ in page.elements) == 3
    assert all(attrs.get("alt") for tag, attrs in page.elements if tag == "img")


def test_plotly_is_in_it_once(make_comparison: Make) -> None:
    html = report_of(make_comparison([[2.0, 4.0], [6.0, 8.0]]))
    assert html.count("* plotly.js v") == 1
    assert html.count("Plotly.newPlot(") >= 3


def test_it_tells_the_numbers_and_what_they_were_measured_on(make_comparison: Make) -> None:
    text = Elements(report_of(make_comparison([[2.0, 4.0], [6.0, 8.0]]))).text
    for text_part in (
        "2.50 ± 1.29 mm",
        "run-1 on films, test",
        "2 images",
        "1 of the split's images: i9",
        "image_size",
        "256 x 256",
    ):
        assert text_part in text
    assert "50.0 %" in text and "before refinement" not in text.lower()


@pytest.mark.parametrize("where", ["names", "run", "dataset", "split", "excluded", "group", "readers"])
def test_every_name_is_escaped(make_comparison: Make, where: str) -> None:
    arguments: dict[str, Any] = {"names": [EVIL, "L1"]} if where == "names" else {}
    if where == "group":
        arguments["columns"] = {"group": [EVIL, "b", "b"]}
    if where == "readers":
        zeros = np.zeros((3, 2))
        arguments["readers"] = {EVIL: zeros, "b": zeros}
    about = (
        {where: [EVIL] if where == "excluded" else EVIL}
        if where in ("run", "dataset", "split", "excluded")
        else {}
    )
    html = report_of(make_comparison([[2.0, 4.0], [6.0, 8.0], [1.0, 1.0]], **arguments), **about)
    assert "alert(" in html, "the name is there"
    assert EVIL not in html


def test_an_image_that_is_gone_is_named(make_comparison: Make) -> None:
    page = Elements(report_of(make_comparison([[2.0, 4.0]], paths=["gone.png"])))
    assert not [tag for tag, _ in page.elements if tag == "img"]
    assert "can no longer be read" in page.text


def test_in_px_no_share_within_mm_is_claimed(make_comparison: Make) -> None:
    text = Elements(report_of(make_comparison([[2.0], [4.0]], mm_per_px=float("nan")))).text
    assert "3.0 ± 1.4 px" in text and not re.search(r"\d mm", text)
    mixed = Elements(report_of(make_comparison([[2.0], [4.0]], mm_per_px=[0.5, float("nan")]))).text
    assert "Over the images that have one: MRE" in mixed and "1.00 mm" in mixed


def test_unrefined_numbers_are_told(make_comparison: Make) -> None:
    text = Elements(report_of(make_comparison([[2.0], [4.0]], unrefined_errors_px=[[6.0], [8.0]]))).text
    assert "Before refinement: MRE 3.50 ± 0.71 mm" in text
    assert "likely shapes" not in text
    text = Elements(report_of(make_comparison([[2.0], [4.0]], unshaped_errors_px=[[6.0], [8.0]]))).text
    assert "Not drawn to likely shapes: MRE 3.50 ± 0.71 mm" in text and "refinement" not in text


def test_the_report_says_what_its_intervals_are_over_and_where_there_are_too_few(
    make_comparison: Make,
) -> None:
    errors = [[number % 7 + 1.0] for number in range(24)]
    columns = {"group": [f"p{row // 3}" for row in range(24)], "group_kind": ["patient"] * 24}
    text = " ".join(Elements(report_of(make_comparison(errors, columns=columns))).text.split())
    assert (
        "Intervals (95 %) are over 8 patients, since the landmarks of one patient are not independent" in text
    )
    assert "bootstrap-t (2000 resamples, seed 0)" in text and "no interval" not in text
    columns = {"group": [f"v{row // 8}" for row in range(24)], "group_kind": ["video"] * 24}
    text = " ".join(Elements(report_of(make_comparison(errors, columns=columns))).text.split())
    assert "no interval: 3 videos, and it takes at least 6" in text
    assert "95 % interval -" not in text
