"""What the user says of a run: tags and a text, in the run's `notes.json`."""

from __future__ import annotations

from dataclasses import dataclass

from backend.run.folder import RunFolder


@dataclass(frozen=True)
class Notes:
    """Tags in the order in which they were given, each once; a text of any length."""

    tags: tuple[str, ...] = ()
    text: str = ""


def read_notes(folder: RunFolder) -> Notes:
    """Empty where nothing was said, or where it cannot be read."""
    raw = folder.read_notes() or {}
    tags, text = raw.get("tags"), raw.get("text")
    return Notes(
        tuple(map(str, tags)) if isinstance(tags, list) else (), text if isinstance(text, str) else ""
    )


def write_notes(folder: RunFolder, notes: Notes) -> None:
    """Replace what was said; another browser's words too."""
    folder.write_notes({"tags": list(notes.tags), "text": notes.text})


def split_tags(words: str) -> tuple[str, ...]:
    """Tags from a line, separated by commas (Latin or Persian), each once."""
    return tuple(
        dict.fromkeys(tag for part in words.replace("\u060c", ",").split(",") if (tag := part.strip()))
    )
