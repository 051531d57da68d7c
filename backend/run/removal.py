"""Delete a run: whole, or not at all as far as anybody can see; never one that trains."""

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
    """What the files of the run take; a file that goes meanwhile counts nothing."""
    total = 0
    for path in folder.path.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total


def delete_run(folder: RunFolder) -> None:
    """Delete the run's folder, or a link to it. Raises UserError, and leaves it whole, where it trains or a file of it
    is held open.

    Windows neither renames nor deletes what a program holds open; so the folder is renamed first, which succeeds for
    all of it or for nothing.
    """
    runs_dir = folder.path.parent
    if not folder.config_path.is_file():  # deleted by another page meanwhile
        return
    if is_queued(folder):
        remove_from_queue(runs_dir, folder.run_id)
    with deciding_launch(folder):
        if folder.path.is_symlink():  # the run lies elsewhere, and is not this folder's to delete
            folder.path.unlink()
            return
        folder.set_config_aside()
    # not within the lock: its own open file would be the one that is in the way
    deleted = runs_dir / f"{_DELETED}{folder.run_id}"
    try:
        patiently(lambda: folder.path.rename(deleted))
    except PermissionError:
        folder.put_config_back()
        raise UserError(
            f"a file of {folder.run_id} is open in another program, so nothing was deleted",
            field="run",
            cure="close that program (a download, an evaluation, a viewer), then delete again",
        ) from None
    _remove_leftovers(runs_dir)


def _remove_leftovers(runs_dir: Path) -> None:
    """This run's files, and of an earlier deletion that a virus scanner held; what still resists goes next time."""
    for path in runs_dir.glob(f"{_DELETED}*"):
        shutil.rmtree(path, ignore_errors=True)
