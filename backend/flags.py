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
    """An argparse parser that raises UserError for a mistake. Every command has `--version`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        version = f"Fiducial {__version__}"
        self.add_argument("--version", action="version", version=version, help="show the version and exit")

    def error(self, message: str) -> NoReturn:
        raise UserError(message, cure=f"see {self.prog} --help")


def number(text: str) -> float:
    """Read a flag that takes a number, as argparse's `type`; the flags of settings are read by `Settings`."""
    return _as_argument(read_number, text)


def whole_number(text: str) -> int:
    """Read a flag that takes a whole number, as argparse's `type`."""
    return _as_argument(read_whole_number, text)


def count(text: str) -> int:
    """Read a flag that takes a whole number of at least 1, as argparse's `type`."""
    num = whole_number(text)
    if num < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {num}")
    return num


def add_setting_flags(parser: argparse.ArgumentParser) -> None:
    """Add one flag per setting; a flag that is not given is not in the namespace."""
    group = parser.add_argument_group("settings of the run")
    for name, field in Settings.model_fields.items():
        group.add_argument(f"--{name}", default=argparse.SUPPRESS, **_argument_options(field))


def add_preset_flag(parser: argparse.ArgumentParser) -> None:
    """Add `--preset NAME`, with the measured result of each preset in the help."""
    results = "; ".join(f"{name}: {preset.description}" for name, preset in PRESETS.items())
    help_text = f"start from these settings; flags win ({results})".replace("%", "%%")
    parser.add_argument("--preset", choices=PRESETS, help=help_text)


def given_settings(namespace: argparse.Namespace) -> dict[str, Any]:
    """Return the settings in a namespace, as raw values for `parse_settings`."""
    return {k: v for k, v in vars(namespace).items() if k in Settings.model_fields}


def settings_to_flags(settings: Settings) -> list[str]:
    """Return the arguments of train.py that differ from the defaults, and always the most important ones."""
    always = ("model", "image_size", "batch_size", "lr", "epochs", "loss")
    flags: list[str] = []
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        if value == field.default and name not in always:
            continue
        flags += setting_to_flag(name, value)
    return flags


def setting_to_flag(name: str, value: Any) -> list[str]:
    """Return one setting as an argument of train.py."""
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    if isinstance(value, str) and value.startswith("-"):
        return [f"--{name}={value}"]  # as a separate argument it would be taken for a flag
    return [f"--{name}", *map(str, value if isinstance(value, tuple) else (value,))]


def run_command(main: Callable[[Sequence[str]], int], arguments: Sequence[str] | None = None) -> int:
    """Run a command's `main` and return the exit code; report a user's mistake in one line on stderr."""
    for stream in (sys.stdout, sys.stderr):
        # a console that cannot show a character prints ? instead of failing
        if isinstance(stream, io.TextIOWrapper):
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


def _argument_options(field: FieldInfo) -> dict[str, Any]:
    """Return the options of `add_argument` for a setting, by the type of its default and its annotation."""
    default = field.default
    default_text = " ".join(map(str, default)) if isinstance(default, tuple) else default
    text = f"{field.description}" + (f" (default: {default_text})" if default_text != "" else "")
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
    if get_args(field.annotation):  # a number or "auto"
        return "N|auto"
    if field.annotation is int:
        return "N"
    return "X" if field.annotation is float else "TEXT"
