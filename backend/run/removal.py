"""Delete a run: all of it or nothing, and never one that trains."""

from __future__ import annotations

import shutil
from pathlib import Path

from backend.errors import UserError
from backend.files import patiently
from backend.run.folder import RunFolder
from backend.run.queue import is_queued, remove_from_queue
from backend.run.supervisor import deciding_launch

_DELETED = ".deleted-"


def size_bytes(folder: RunFolder) -> int:
    """Add up the sizes of the run's files, without those that are deleted meanwhile."""
    total = 0
    for path in folder.path.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total


def delete_run(folder: RunFolder) -> None:
    """Delete the run's folder, or a link to it.

    Raises UserError, and leaves the run as it was, if it trains or a program holds one of its files open:
    Windows neither renames nor deletes those. So the folder is renamed first, which succeeds for all of it or
    for nothing.
    """
    runs_dir = folder.path.parent
    if not folder.config_path.is_file():
        return  # another page has deleted it meanwhile
    if is_queued(folder):
        remove_from_queue(runs_dir, folder.run_id)
    with deciding_launch(folder):
        if folder.path.is_symlink():
            folder.path.unlink()
            return  # the run itself is elsewhere, and is not deleted
        folder.hide_config()
    # after the lock is released: its own open file would prevent the renaming
    deleted = runs_dir / f"{_DELETED}{folder.run_id}"
    try:
        patiently(lambda: folder.path.rename(deleted))
    except PermissionError:
        folder.unhide_config()
        raise UserError(
            f"a file of {folder.run_id} is open in another program, so nothing was deleted",
            field="run",
            cure="close that program (a download, an evaluation, a viewer), then delete again",
        ) from None
    _remove_leftovers(runs_dir)


def _remove_leftovers(runs_dir: Path) -> None:
    """Delete what was renamed, now or earlier; a file that another program holds is deleted next time."""
    for path in runs_dir.glob(f"{_DELETED}*"):
        shutil.rmtree(path, ignore_errors=True)
