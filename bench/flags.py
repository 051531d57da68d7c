"""Print the README's table of settings: `python bench/flags.py`. tests/test_readme.py holds the README to it."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from backend.config import Settings


def flag_table() -> str:
    """A Markdown table: flag, default, help."""
    lines = ["| flag | default | what |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = field.default
        shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
        shown = {True: "on", False: "off"}.get(shown, shown) if isinstance(shown, bool) else shown
        lines.append(f"| `--{name}` | {shown if shown != '' else 'none'} | {field.description} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(flag_table())
