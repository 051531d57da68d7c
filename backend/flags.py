"""Command-line flags, generated from the settings model."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar, get_args

from pydantic.fields import FieldInfo

from backend import __version__
from backend.config import Settings
from backend.errors import UserError
from backend.numbers import read_number, read_whole_number
from backend.presets import PRESETS

EXIT_COMPLETED = 0
EXIT_FAILED = 1
EXIT_USER_ERROR = 2
EXIT_OUT_OF_MEMORY = 3
EXIT_DIVERGED = 4
EXIT_INTERRUPTED = 130
Number = TypeVar("Number", int, float)


class OneLineParser(argparse.ArgumentParser):
    """argparse that reports a mistake as one line `error: ...` and exits with 2. Every command has `--version`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        version = f"Fiducial {__version__}"
        self.add_argument("--version", action="version", version=version, help="show the version and exit")

    def error(self, message: str) -> NoReturn:
        raise UserError(message, cure=f"see {self.prog} --help")


def number(text: str) -> float:
    """argparse's `type` of a flag that takes a number; `Settings` reads the flags of settings itself."""
    return _as_argument(read_number, text)


def whole_number(text: str) -> int:
    """argparse's `type` of a flag that takes a whole number."""
    return _as_argument(read_whole_number, text)


def count(text: str) -> int:
    """argparse's `type` of a flag that takes a whole number of at least 1."""
    num = whole_number(text)
    if num < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {num}")
    return num


def add_setting_flags(parser: argparse.ArgumentParser) -> None:
    """One flag per setting; a flag that is not given is not in the namespace."""
    group = parser.add_argument_group("settings of the run")
    for name, field in Settings.model_fields.items():
        group.add_argument(f"--{name}", default=argparse.SUPPRESS, **_argument_of(field))


def add_preset_flag(parser: argparse.ArgumentParser) -> None:
    """`--preset NAME`, with the measured result of each in the help."""
    words = "; ".join(f"{name}: {preset.description}" for name, preset in PRESETS.items())
    parser.add_argument(
        "--preset", choices=PRESETS, help=f"start from these settings; flags win ({words})".replace("%", "%%")
    )


def given_settings(namespace: argparse.Namespace) -> dict[str, Any]:
    """The settings in a namespace, as raw values for `parse_settings`."""
    return {k: v for k, v in vars(namespace).items() if k in Settings.model_fields}


def settings_to_flags(settings: Settings) -> list[str]:
    """The arguments of train.py that differ from the defaults, and always the most important ones."""
    always = ("model", "image_size", "batch_size", "lr", "epochs", "loss")
    flags: list[str] = []
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        if value == field.default and name not in always:
            continue
        flags += setting_to_flag(name, value)
    return flags


def setting_to_flag(name: str, value: Any) -> list[str]:
    """One setting as an argument of train.py."""
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    if isinstance(value, str) and value.startswith("-"):
        return [f"--{name}={value}"]  # as a separate argument it would be taken for a flag
    return [f"--{name}", *map(str, value if isinstance(value, tuple) else (value,))]


def run_command(main: Callable[[Sequence[str]], int], arguments: Sequence[str] | None = None) -> int:
    """Run a command's `main`; a user's mistake becomes one line on stderr and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(
            stream, io.TextIOWrapper
        ):  # a console that cannot show a character prints ? instead of failing
            stream.reconfigure(errors="replace")
    try:
        return main(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except UserError as error:
        lines = str(error).splitlines()
        print(f"error: {lines[0]}", *lines[1:], sep="\n  ", file=sys.stderr)
        return EXIT_USER_ERROR


def _as_argument(read: Callable[[str], Number], text: str) -> Number:
    try:
        return read(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _argument_of(field: FieldInfo) -> dict[str, Any]:
    default = field.default
    shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
    text = f"{field.description}" + (f" (default: {shown})" if shown != "" else "")
    help_text = text.replace("%", "%%")
    if isinstance(default, bool):
        return {"action": argparse.BooleanOptionalAction, "help": help_text}
    if isinstance(default, tuple):
        return {"nargs": len(default), "metavar": ("H", "W"), "help": help_text}
    choices = get_args(field.annotation)
    if choices and all(isinstance(choice, str) for choice in choices):
        return {"choices": choices, "help": help_text}
    return {"metavar": _metavar(field), "help": help_text}


def _metavar(field: FieldInfo) -> str:
    kind = "N" if field.annotation is int else "X" if field.annotation is float else "TEXT"
    if get_args(field.annotation):
        return "N|auto"
    return kind
