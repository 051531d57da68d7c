"""The user's notes on a run: tags and a text, in the run's `notes.json`."""

from __future__ import annotations

from dataclasses import dataclass

from backend.run.folder import RunFolder


@dataclass(frozen=True)
class Notes:
    """Tags, each once and in the order given, and a text of any length."""

    tags: tuple[str, ...] = ()
    text: str = ""


def read_notes(folder: RunFolder) -> Notes:
    """Return the run's notes; empty if there are none or the file is damaged."""
    raw = folder.read_notes() or {}
    tags, text = raw.get("tags"), raw.get("text")
    return Notes(
        tags=tuple(map(str, tags)) if isinstance(tags, list) else (),
        text=text if isinstance(text, str) else "",
    )


def write_notes(folder: RunFolder, notes: Notes) -> None:
    """Replace the run's notes, also those that another browser wrote meanwhile."""
    folder.write_notes({"tags": list(notes.tags), "text": notes.text})


def split_tags(line: str) -> tuple[str, ...]:
    """Split a line at its commas (Latin or Persian) into tags, each once."""
    tags = (part.strip() for part in line.replace("\u060c", ",").split(","))
    return tuple(dict.fromkeys(tag for tag in tags if tag))
