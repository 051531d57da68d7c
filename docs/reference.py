"""Write the generated parts of docs: settings, command line, modules, and the layers of the architecture.

Run from anywhere: python docs/reference.py. tests/test_docs.py checks that the pages are as this prints them.
"""

from __future__ import annotations

import argparse
import ast
import re
import runpy
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from backend.config import Settings

REPOSITORY = Path(__file__).resolve().parents[1]
SETTINGS_PAGE = REPOSITORY / "docs" / "settings.md"
COMMANDS_PAGE = REPOSITORY / "docs" / "command-line.md"
ARCHITECTURE_PAGE = REPOSITORY / "docs" / "architecture.md"
MODULES_PAGE = REPOSITORY / "docs" / "modules.md"
BEGIN, END = "<!-- generated: begin -->\n", "<!-- generated: end -->"

# how a JSON schema limits a number
LIMITS = {
    "minimum": "≥",
    "exclusiveMinimum": ">",
    "maximum": "≤",
    "exclusiveMaximum": "<",
    "multipleOf": "multiple of",
}

# every command that a user may type, in the order of the page
COMMANDS = (
    "start.py",
    "app.py",
    "train.py",
    "backend.check",
    "backend.evaluate",
    "backend.predict",
    "backend.vram",
    "backend.leaks",
    "backend.views",
    "backend.data.demo",
    "backend.start_check",
    "backend.worker",
)


class _ParserFoundError(Exception):
    """Carries a parser out of the `main` that made it."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        super().__init__(parser.prog)
        self.parser = parser


def parser_of(command: str) -> argparse.ArgumentParser:
    """The parser of a script (its path from the root) or of a module (its dotted name)."""

    def give_up(parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        raise _ParserFoundError(parser)

    path = REPOSITORY / (command if command.endswith(".py") else _module_file(command))
    if path.parent.name == "bench":
        sys.path.append(str(path.parent))  # last: bench/models.py must not hide the package models
    main = runpy.run_path(str(path), run_name="reference")["main"]
    takes_arguments = main.__code__.co_argcount and not main.__defaults__
    with mock.patch.object(argparse.ArgumentParser, "parse_known_args", give_up):
        try:
            main(*([[]] if takes_arguments else []))
        except _ParserFoundError as found:
            return found.parser
    raise AssertionError(f"{command} parses no arguments")


def _module_file(name: str) -> str:
    path = name.replace(".", "/")
    return f"{path}/__main__.py" if (REPOSITORY / path).is_dir() else f"{path}.py"


def settings_table() -> str:
    """A Markdown table of all settings: flag, default, accepted values, meaning."""
    schemas = Settings.model_json_schema()["properties"]
    lines = ["| flag | default | accepts | meaning |", "|---|---|---|---|"]
    for name, field in Settings.model_fields.items():
        accepted = _accepted(schemas[name])
        lines.append(f"| `--{name}` | {_shown(field.default)} | {accepted} | {field.description} |")
    return "\n".join(lines) + "\n"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return str(value) if value != "" else "none"


def _accepted(schema: Mapping[str, Any]) -> str:
    """The accepted values of one setting in words, from its JSON schema."""
    if "anyOf" in schema:
        return ", or ".join(map(_accepted, schema["anyOf"]))
    if "const" in schema or "enum" in schema:
        return ", ".join(f"`{choice}`" for choice in schema.get("enum", [schema.get("const")]))
    kinds = {
        "boolean": "on or off",
        "array": "two whole numbers",
        "string": "text",
        "integer": "whole number",
    }
    words = kinds.get(schema["type"], "number")
    limits = [f"{sign} {schema[key]:.10g}" for key, sign in LIMITS.items() if key in schema]
    return f"{words} {', '.join(limits)}".rstrip()


def commands_reference() -> str:
    """Write a section per command: what it does, and its flags other than settings."""
    return "\n".join(line for command in COMMANDS for line in _command_section(command))


def _command_section(command: str) -> Iterator[str]:
    parser = parser_of(command)
    summary = (parser.description or "").split(": `")[0].replace("\n", " ").rstrip(".")
    actions = [action for action in parser._actions if action.dest not in ("help", "version")]
    takes_settings = set(Settings.model_fields) <= {action.dest for action in actions}
    yield from (f"## {parser.prog}", "", f"{summary}.", "")
    if takes_settings:
        yield from ("Takes every flag of [Settings](settings.md) as well.", "")
        actions = [action for action in actions if action.dest not in Settings.model_fields]
    yield from (
        "| argument | meaning |",
        "|---|---|",
        *(_argument_row(parser, action) for action in actions),
        "",
    )


def _argument_row(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    words = ", ".join(action.option_strings) or action.dest.upper()
    if action.option_strings and action.nargs != 0:
        words += " " + _value_name(action)
    required = " (required)" if action.option_strings and action.required else ""
    meaning = parser._get_formatter()._expand_help(action)
    return "| {}{} | {} |".format(*(cell.replace("|", "\\|") for cell in (f"`{words}`", required, meaning)))


def _value_name(action: argparse.Action) -> str:
    if action.metavar:
        return action.metavar if isinstance(action.metavar, str) else " ".join(action.metavar)
    return "|".join(map(str, action.choices)) if action.choices else action.dest.upper()


def layers_block() -> str:
    """The layers of import-linter's contracts, one code block per root package."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    blocks = [
        "\n".join([f"    {container}/", *(f"      {layer}" for layer in contract["layers"])])
        for contract in contracts
        for container in contract.get("containers", ())
    ]
    return "\n\n".join(blocks) + "\n"


def modules_reference() -> str:
    """A section per package: a table of its modules with the first sentence of each module's docstring."""
    roots = (REPOSITORY / name for name in ("models", "install", "backend", "ui"))
    packages = [path.parent for root in roots for path in sorted(root.rglob("__init__.py"))]
    return "\n".join(line for package in packages for line in _package_section(package))


def _package_section(package: Path) -> Iterator[str]:
    yield from (f"## {package.relative_to(REPOSITORY).as_posix()}", "", "| module | holds |", "|---|---|")
    for path in sorted(package.glob("*.py")):
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        if docstring:  # an empty __init__.py has none
            yield f"| `{path.stem}` | {_first_sentence(docstring)} |"
    yield ""


def _first_sentence(docstring: str) -> str:
    paragraph = " ".join(docstring.split("\n\n")[0].split()).replace("|", "\\|")
    end = re.search(r"\.(?= [A-Z`])", paragraph)
    return paragraph[: end.end()] if end else paragraph


def with_generated(page: Path, content: str) -> str:
    """The page's text with `content` between its two marks."""
    before, rest = page.read_text(encoding="utf-8").split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}{content}{END}{after}"


def pages() -> dict[Path, str]:
    """Each generated page with the text that it should have."""
    return {
        SETTINGS_PAGE: with_generated(SETTINGS_PAGE, settings_table()),
        ARCHITECTURE_PAGE: with_generated(ARCHITECTURE_PAGE, layers_block()),
        MODULES_PAGE: with_generated(MODULES_PAGE, modules_reference()),
        COMMANDS_PAGE: with_generated(COMMANDS_PAGE, commands_reference()),
    }


if __name__ == "__main__":
    for page, text in pages().items():
        page.write_text(text, encoding="utf-8")
        print(page.relative_to(REPOSITORY))
