"""The README says what the program does."""

from __future__ import annotations

import re
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
sys.path.append(str(REPOSITORY / "bench"))  # last: bench/models.py must not hide the package models


def test_the_table_of_settings_is_the_one_that_the_settings_give() -> None:
    from flags import flag_table

    assert flag_table() in README, "run python bench/flags.py and put its table into README.md"


def test_every_picture_and_file_that_the_readme_names_is_there() -> None:
    named = re.findall(r"\]\((?!http)([^)]+)\)", README)
    assert named
    assert not [path for path in named if not (REPOSITORY / path).exists()]


def test_every_pinned_dependency_has_its_reason_in_the_readme() -> None:
    pinned = re.findall(r"^([\w-]+)==", (REPOSITORY / "requirements.txt").read_text(), re.MULTILINE)
    assert len(pinned) > 8
    reasons = README.split("## Dependencies")[1]
    assert not [name for name in pinned if name not in reasons]
