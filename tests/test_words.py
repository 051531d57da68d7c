"""Old names and phrases do not come back: the code, the page and the documentation say the plain ones."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
FILES = [
    REPOSITORY / "app.py",
    REPOSITORY / "start.py",
    REPOSITORY / "train.py",
    *(
        file
        for room in ("backend", "install", "models", "ui")
        for file in sorted((REPOSITORY / room).rglob("*.py"))
    ),
    *sorted((REPOSITORY / "docs").rglob("*.md")),
    REPOSITORY / "README.md",
]

# what was, as a regular expression, and what is
OLD = {
    r"\bQUIET\b": "PRIVATE",
    r"\bIN_TURN\b": "SEQUENTIAL",
    r"\bWishes\b": "CurveOptions",
    r"\btrain_again\b": "reuse",
    r"\bShortOfMemoryError\b": "MemoryShortageError",
    r"\bShortage\b": "MemoryRanOutError",
    r"\b_keep_as_good\b": "_save_snapshot",
    r"\b_go_back\b": "_restore_snapshot",
    r"\bleast_part\b": "min_micro_batch",
    r"\bSuspects?\b": "AnnotationOutlier",
    r"\bask_(machine|memory|speed|floor|views|measurement)\b": "query_",
    r"\btend_queue\b": "start_scheduler",
    r"\bis_news\b": "has_changed",
    r"(?<!there )\bis no file\b": "is not a file",
    r"\bis no count\b": "must be at least 1",
    r"(?<!there )(?<!There )\bis no data set\b": "is not a data set",
    r"\bimages a batch\b": "images per batch",
    r"\bmm a pixel\b": "mm per pixel",
    r"\(one sd\)": "(standard deviation)",
    r"\bRead again\b": "Reload",
    r"\bWhose landmarks\b": "Reader",
    r"\breaders apart\b": "inter-reader distance",
    r"\bDraw to likely\b": "Shape prior",
    r"\bdecoding floor\b": "decoding error",
    r"\berrs by\b": "the mean error is",
    r"\bAs predicted\b": "Reset to prediction",
    r"\b(None|empty|Raises \w+,?) where\b": "if",
    r"^\s*\"\"\"(Of|As|Without|Over) ": "a verb, or an article and a noun",
    r"\bset_(config|outcome)_aside\b": "archive_outcome, hide_config",
    r"\buntroubled\b": "without interruption",
    r"\bwhoever\b": "the one who, or a verb",
    r"\b[Mm]ust not know\b": "nothing: import-linter checks it",
}
# where an old phrase is right, and why
EXCEPTIONS: dict[tuple[str, str], str] = {}


@pytest.mark.parametrize("old", OLD)
def test_old_words_do_not_come_back(old: str) -> None:
    found = []
    for file in FILES:
        place = file.relative_to(REPOSITORY).as_posix()
        if (place, old) not in EXCEPTIONS:
            lines = file.read_text(encoding="utf-8").splitlines()
            found += [f"{place}:{number}" for number, line in enumerate(lines, 1) if re.search(old, line)]
    assert not found, f"say {OLD[old]!r}"


def test_every_exception_is_needed() -> None:
    for place, old in EXCEPTIONS:
        assert re.search(old, (REPOSITORY / place).read_text(encoding="utf-8")), (place, old)
