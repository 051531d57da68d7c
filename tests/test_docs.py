"""The documentation: links lead somewhere, commands can be typed, generated tables are current."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import get_args

import pytest

from backend.config import ModelName, parse_settings
from backend.data.annotations import FORMATS
from backend.flags import given_settings

REPOSITORY = Path(__file__).resolve().parents[1]
DOCS = REPOSITORY / "docs"
sys.path.append(str(DOCS))

PAGES = sorted([*REPOSITORY.glob("*.md"), *DOCS.rglob("*.md"), REPOSITORY / "bench" / "README.md"])
PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
GENERATED = re.compile("<!-- generated: begin -->.*?<!-- generated: end -->", re.DOTALL)
# pages whose prose keeps to the width of the code; the tables of a benchmark are written by its script
WRAPPED = [page for page in PAGES if page.parent.name != "bench"]
WIDTH = 110
# flags of other programs: docker, pip
FOREIGN_FLAGS = {
    "--gpus",
    "--shm-size",
    "--stop-timeout",
    "--user",
    "--rm",
    "--index-url",
    "--only-binary",
    "--python-version",
}
# where a page lists the formats: what the list begins with, and what comes after it
FORMAT_LISTS = {
    "README.md": ("\n- Reads ", "\n- "),
    "docs/data.md": ("## Formats\n\n", "\n\n"),
    "docs/fa/data.md": ("## قالب‌ها\n\n", "\n\n"),
}
PLACEHOLDER = re.compile(r"(?<![A-Z])(?:RUN|NAME)(?![A-Z])")


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def code_lines(text: str) -> Iterator[str]:
    """The lines of indented code blocks, without their comments."""
    for line in re.findall(r"^ {4}(\S.*)$", text, re.MULTILINE):
        yield re.sub(r"\s+# .*", "", line)


def code_spans(text: str) -> list[str]:
    """What stands in backticks or, on a Persian page, in `bdi`, each on one line."""
    prose = re.sub(r"^```.*?^```$|^ {4}[^\n]*$", "", text, flags=re.MULTILINE | re.DOTALL)
    found = re.findall(r"`([^`]+)`", prose) + re.findall(r"<bdi\s+dir=\"ltr\">([^<]+)</bdi>", prose)
    return [" ".join(span.split()) for span in found]


@cache
def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@cache
def parser_of(command: str) -> argparse.ArgumentParser:
    import reference

    parser: argparse.ArgumentParser = reference.parser_of(command)
    return parser


def test_the_generated_parts_are_what_the_program_says() -> None:
    import reference

    stale = [page.name for page, text in reference.pages().items() if text_of(page) != text]
    assert not stale, "run python docs/reference.py"


@PAGE
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text_of(page)):
        name, _, anchor = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


@PAGE
def test_every_command_can_be_typed(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", text_of(REPOSITORY / "Makefile"), re.MULTILINE))
    for line in code_lines(text_of(page)):
        words = shlex.split(line.replace("\\", "/"))
        if words[0] == "make":
            assert set(words[1:]) <= targets, line
        if words[0] not in ("python", "python3") or words[1:3] in (["-m", "pip"], ["-m", "venv"]):
            continue
        command, arguments = (words[2], words[3:]) if words[1] == "-m" else (words[1], words[2:])
        if command.startswith("docs/"):
            continue
        given = given_settings(parser_of(command).parse_args(arguments))
        if command in ("train.py", "backend.vram", "backend.views"):
            parse_settings(given)


@PAGE
def test_every_flag_path_and_module_that_is_named_is_there(page: Path) -> None:
    import reference

    flags = {flag for command in reference.COMMANDS for flag in parser_of(command)._option_string_actions}
    flags |= {
        flag for bench in REPOSITORY.glob("bench/*.py") for flag in re.findall(r'"(--\w+)"', text_of(bench))
    }
    if page.name == "CHANGELOG.md":
        return  # it also names what is gone
    for span in code_spans(text_of(page)):
        named = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", span)) - FOREIGN_FLAGS
        assert named <= flags, span
        if PLACEHOLDER.search(span):
            continue
        for path in re.findall(r"(?<![\w/.])(?:backend|ui|models|bench|tests|docs)/[\w/.-]*\w", span):
            assert (REPOSITORY / path).exists(), span
        for name in re.findall(r"(?<![\w/.])(?:backend|ui|models)(?:\.\w+)+", span):
            parts = name.split(".")
            assert any(is_module(parts[:length]) for length in (len(parts), len(parts) - 1) if length > 0), (
                span
            )


def is_module(parts: list[str]) -> bool:
    path = REPOSITORY.joinpath(*parts)
    return path.is_dir() or path.with_suffix(".py").is_file()


@pytest.mark.parametrize("page", WRAPPED, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_prose_is_as_wide_as_the_code(page: Path) -> None:
    prose = GENERATED.sub("", text_of(page)).splitlines()
    assert not [line for line in prose if len(line) > WIDTH and not line.startswith(("|", "    ", "!"))]


def test_the_architecture_names_every_package_and_every_module_on_the_top_floor() -> None:
    page = text_of(DOCS / "architecture.md")
    for root in ("backend", "ui"):
        folder = REPOSITORY / root
        names = {path.stem for path in folder.glob("*.py")} | {
            path.parent.relative_to(folder).as_posix() for path in folder.glob("*/__init__.py")
        }
        assert not {name for name in names - {"__init__"} if not re.search(rf"\b{name}\b", page)}


@pytest.mark.parametrize("name", FORMAT_LISTS)
def test_every_format_is_listed(name: str) -> None:
    begin, end = FORMAT_LISTS[name]
    listed = text_of(REPOSITORY / name).split(begin)[1].split(end)[0]
    assert not [format.title for format in FORMATS.values() if format.title not in listed]


def test_every_network_is_listed() -> None:
    (listed,) = re.findall(
        r"^- Trains one of several networks \((.*?)\)",
        text_of(REPOSITORY / "README.md"),
        re.MULTILINE | re.DOTALL,
    )
    assert not {*get_args(ModelName)} - {*re.findall(r"\w+", listed.lower().replace("-", ""))}


def test_every_pinned_dependency_has_its_reason() -> None:
    reasons = text_of(DOCS / "dependencies.md")
    for file in ("requirements.txt", "requirements-dev.txt"):
        pinned = re.findall(r"^([\w-]+)==", text_of(REPOSITORY / file), re.MULTILINE)
        assert len(pinned) > 8
        assert not [name for name in pinned if name not in reasons]


def test_each_persian_page_and_its_english_one_lead_to_each_other() -> None:
    for page in (DOCS / "fa").glob("*.md"):
        assert f"](../{page.name})" in text_of(page)
        assert (DOCS / page.name).is_file()
    by_task = re.findall(r"^\d+\. \[.*?\]\(([\w-]+\.md)\)", text_of(DOCS / "README.md"), re.MULTILINE)
    assert {page.name for page in (DOCS / "fa").glob("*.md")} == {"README.md", *by_task}


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("myst_parser", reason="Sphinx is not installed: make docs installs it")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-b",
        "html",
        "-n",
        "-W",
        "-q",
        "-c",
        "docs",
        ".",
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=REPOSITORY, check=False, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "docs" / "fa" / "README.html").is_file()
    loaded = re.compile(r'<(?:script|img|link)[^>]+(?:src|href)="https?://')
    assert not [page.name for page in tmp_path.rglob("*.html") if loaded.search(text_of(page))]
