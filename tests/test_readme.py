"""The two READMEs: short, and the same program in both languages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
PERSIAN_README = (REPOSITORY / "README.fa.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("text", [README, PERSIAN_README], ids=["en", "fa"])
def test_the_readme_is_short(text: str) -> None:
    assert len(text.splitlines()) <= 150


def test_the_readme_leads_to_every_page_of_the_documentation() -> None:
    named = set(re.findall(r"\]\(docs/([\w-]+\.md)", README))
    pages = {page.name for page in (REPOSITORY / "docs").glob("*.md")}
    assert pages - named == {"README.md"}
    named = set(re.findall(r"\]\(docs/fa/([\w-]+\.md)", PERSIAN_README))
    assert named == {page.name for page in (REPOSITORY / "docs" / "fa").glob("*.md")}


def test_the_results_are_those_that_the_benchmarks_list() -> None:
    benchmarks = (REPOSITORY / "bench" / "README.md").read_text(encoding="utf-8")
    for text in (README, PERSIAN_README):
        results = re.findall(r"\*{0,2}(1\.\d{3})(?: \+- 0\.\d+)? mm", text)
        assert len(results) >= 3
        assert not [number for number in results if f"**{number}**" not in benchmarks]
